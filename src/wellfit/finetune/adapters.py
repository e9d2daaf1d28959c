"""LoRA through PEFT: two small matrices beside a frozen one (Hu et al. 2022).

y = W x + (alpha / r) B A x, with A [r, in] drawn at random and B [out, r] zero, so that nothing changes before the first step. W
stays as it is; what is learnt is a hundredth of it and can be kept, sent and swapped by itself, or added to W at the end, after
which nothing is slower. PEFT lays the matrices in; the file format is PEFT's, so its tools read what is saved here.

    >>> chosen = lay_in(model, Finetune(strategy="lora"), head=["head.weight", "head.bias"])
    >>> save(model, "adapter/")
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit.errors import MissingExtra, ModelError
from wellfit.recipe import Finetune

# What libraries call the queries and values of attention, or all of them in one; the paper adapts these (table 5).
OF_ATTENTION = (
    "q", "v", "kv", "query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "c_attn", "qkv", "in_proj",
    "query_key_value", "Wqkv",
)  # fmt: skip
NAME = "default"  # PEFT's own for the first adapter


def lay_in(model: nn.Module, settings: Finetune, head: Sequence[str] = ()) -> list[str]:
    """Puts adapters beside the layers that `targets` chooses, in place; returns the names of those layers.

    Raises ModelError where there is none, and MissingExtra without PEFT.
    """
    peft = _peft()
    within, model = trunk(model)
    head = [name.removeprefix(f"{within}.") for name in head] if within else head
    chosen = targets(model, settings.targets, head)
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=chosen, bias="none",
        fan_in_fan_out=any(_is_transposed(model.get_submodule(name)) for name in chosen),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(config, model)
    return chosen


def targets(model: nn.Module, asked: Sequence[str] = (), head: Sequence[str] = ()) -> list[str]:
    """The names of the layers that get matrices: those asked for by the ends of their names, else attention's queries and
    values, else every linear layer and convolution but the head. Raises ModelError if none is such.
    """
    outer = {name.rpartition(".")[0] for name in head}
    layers = {
        name: module for name, module in model.named_modules()
        if (isinstance(module, nn.Linear | nn.Conv2d) or _is_transposed(module)) and name not in outer
    }  # fmt: skip
    if asked:
        found = [name for name in layers if any(name == end or name.endswith("." + end) for end in asked)]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise ModelError(
                f"`finetune.targets` is {list(asked)}, and no layer's name ends so; the layers that can be adapted end in "
                f"{', '.join(ends[:20])}."
            )
        return found
    attention = [name for name in layers if name.rpartition(".")[2] in OF_ATTENTION]
    plain = [name for name, module in layers.items() if getattr(module, "groups", 1) == 1]
    if not (attention or plain):
        raise ModelError(
            "The model has no linear layer and no convolution besides its head, so LoRA has nothing to adapt."
        )
    return attention or plain


def _is_transposed(module: nn.Module) -> bool:
    """GPT-2's `Conv1D`, a linear layer whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D"


def learnt(model: nn.Module) -> list[str]:
    """The names of the adapters' parameters."""
    return [name for name, _ in model.named_parameters() if "lora_" in name]


def trunk(model: nn.Module) -> tuple[str, nn.Module]:
    """The part of a model that another library made and would load an adapter into, and its name; else the whole and ""."""
    for name, module in model.named_modules():
        if any(ancestor.__name__ == "PreTrainedModel" for ancestor in type(module).__mro__):
            return name, module
    return "", model


def save(model: nn.Module, folder: str | Path, base: str = "") -> Path:
    """Writes adapter_config.json and adapter_model.safetensors, which `PeftModel.from_pretrained` reads. Returns the folder.

    Names are relative to the `trunk`. `base` says where its weights are. Raises ModelError for a model without adapters.
    """
    from safetensors.torch import save_file

    _, inner = trunk(model)
    configs = getattr(inner, "peft_config", None)
    if not configs:
        raise ModelError("The model has no adapters to save; it was not trained with `finetune.strategy=lora`.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = _peft().get_peft_model_state_dict(inner)
    save_file(
        {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in state.items()},
        folder / "adapter_model.safetensors",
    )
    config = copy.copy(configs[NAME])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    return folder


def merge(model: nn.Module) -> nn.Module:
    """Adds what was learnt to the weights and takes the adapters out, in place; the model is as fast as before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            with torch.no_grad():
                module.merge(safe_merge=True)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    return model


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingExtra("peft", "finetune", "LoRA") from None
    return peft
