"""QLoRA's base: the frozen weights of linear layers in four bits, by bitsandbytes (Dettmers et al. 2023).

Each block of 64 weights is divided by its largest; what is left is one of 16 numbers that lie as a normal distribution's quantiles
do (NF4), and the divisors are quantised once more. A weight takes 4.13 bits where it took 32 or 16. It is made whole again, one
layer at a time, whenever it is multiplied with; its gradient is never asked for, and what learns is LoRA's matrices beside it. The
head and the embeddings stay as they are.

    >>> packed = quantize(model, head=["head.weight", "head.bias"])
    >>> len(packed), "layers are in four bits now"
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.errors import MissingExtra, ModelError
from wellfit.finetune.parts import is_transposed, trunk


def quantize(model: nn.Module, head: Sequence[str] = (), compute: torch.dtype = torch.float32) -> list[str]:
    """Puts the weights of the linear layers of a model's trunk into four bits, in place, but for those of `head` and those that are
    tied to an embedding; returns the names of those layers. Products are computed in `compute`.

    Raises MissingExtra without bitsandbytes, and ModelError where it does not run here or there is no linear layer.
    """
    packed_linear()
    within, found = trunk(model)
    inner: Any = found
    outer = {name.removeprefix(f"{within}." if within else "").rpartition(".")[0] for name in head}
    embedded = {id(m.weight) for m in inner.modules() if isinstance(m, nn.Embedding)}
    writes = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    chosen = [
        name for name, module in inner.named_modules()
        if (type(module) is nn.Linear or is_transposed(module)) and name not in outer and module is not writes
        and id(module.weight) not in embedded
    ]  # fmt: skip
    if not chosen:
        raise ModelError("The model has no linear layer besides its head, so there is nothing to put into four bits.")
    for name in chosen:
        parent, _, child = name.rpartition(".")
        setattr(inner.get_submodule(parent), child, _packed(inner.get_submodule(name), compute))
    inner.is_loaded_in_4bit = True  # by which PEFT knows how to lay its matrices beside
    return [f"{within}.{name}" if within else name for name in chosen]


def whole(layer: nn.Module) -> nn.Linear:
    """A layer in four bits as a linear layer of plain numbers, as near as four bits tell."""
    weight: Any = layer.weight
    with torch.device(weight.device):
        made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        made.weight.copy_(_bitsandbytes().functional.dequantize_4bit(weight.data, weight.quant_state))
        if made.bias is not None:
            made.bias.copy_(layer.bias)  # type: ignore[arg-type]
    return made


def numel(parameter: Tensor) -> int:
    """How many numbers a parameter stands for: of a packed one more than it holds."""
    state: Any = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else parameter.numel()


def is_packed(layer: Any) -> bool:
    """Whether a layer's weights are in four bits."""
    return hasattr(getattr(layer, "weight", None), "quant_state")


def _packed(layer: Any, compute: torch.dtype) -> nn.Module:
    """The same in four bits. `Conv1D` of GPT-2 has its weight the other way round."""
    weight = layer.weight.T if is_transposed(layer) else layer.weight
    out_features, in_features = weight.shape
    made: nn.Module = packed_linear()(in_features, out_features, layer.bias is not None, compute)
    state = {"weight": weight.detach()} | ({} if layer.bias is None else {"bias": layer.bias.detach()})
    nn.Module.load_state_dict(made, state)
    try:
        made.to(layer.weight.device)
    except RuntimeError as error:  # of the library's compiled part, or of a device that it has no kernel for
        raise ModelError(
            f"`finetune.strategy` is 'qlora', and bitsandbytes cannot put weights into four bits on this machine "
            f"({str(error).strip().splitlines()[0][:200]}). Use `finetune.strategy=lora`."
        ) from None
    return made


@functools.cache
def packed_linear() -> Any:
    """bitsandbytes' linear layer in NF4 with divisors quantised twice, whose state can be saved and put back."""
    bnb = _bitsandbytes()

    class PackedLinear(bnb.nn.Linear4bit):  # type: ignore[misc,name-defined]
        weight: Any

        def __init__(self, in_features: int, out_features: int, bias: bool, compute: torch.dtype):
            super().__init__(
                in_features, out_features, bias, compute_dtype=compute, compress_statistics=True, quant_type="nf4"
            )
            # Else evaluation would pack the weights anew on some processors, with other bits and without a gradient.
            self.support_avx512bf16_for_cpu = False

        def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
            """Four bits come with what their blocks were divided by; plain weights are packed when they are moved."""
            start = f"{prefix}weight."
            beside = {name.removeprefix(start): state.pop(name) for name in list(state) if name.startswith(start)}
            if beside:
                device = self.weight.device
                self.weight = bnb.nn.Params4bit.from_prequantized(
                    state[f"{prefix}weight"], beside, requires_grad=False, device=device, module=self
                )
            super()._load_from_state_dict(state, prefix, *rest)

    return PackedLinear


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise MissingExtra("bitsandbytes", "quantized", "QLoRA") from None
    except Exception as error:  # its compiled part may not fit the machine
        raise ModelError(
            f"bitsandbytes is installed and cannot be used here: {str(error).strip().splitlines()[0][:200]}. Use "
            "`finetune.strategy=lora`."
        ) from None
    return bitsandbytes
