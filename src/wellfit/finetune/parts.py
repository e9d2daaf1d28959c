"""What PEFT works on: the part of a model that another library made, and which of its layers are the other way round."""

from typing import Any

from torch import nn

from wellfit.errors import MissingExtra


def trunk(model: nn.Module) -> tuple[str, nn.Module]:
    """The part of a model that another library made and would load an adapter into, and its name; else the whole and ""."""
    for name, module in model.named_modules():
        if any(ancestor.__name__ == "PreTrainedModel" for ancestor in type(module).__mro__):
            return name, module
    return "", model


def is_transposed(module: nn.Module) -> bool:
    """GPT-2's `Conv1D`, a linear layer whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D"


def library() -> Any:
    """PEFT, or MissingExtra."""
    try:
        import peft
    except ImportError:
        raise MissingExtra("peft", "finetune", "LoRA") from None
    return peft
