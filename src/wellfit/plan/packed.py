"""Stand-ins for what other libraries pack: they hold and make the memory that those hold and make, and compute nothing.

A trace without numbers cannot run bitsandbytes' kernels. What these keep is what is published: NF4 with divisors quantised
twice, 4 + 8/64 + 32/(64 x 256) = 4.127 bits a weight (Dettmers et al. 2023, 3); LLM.int8(), 8 bits and one fp32 number a row
(Dettmers et al. 2022); optimizers with averages of 8 bits in blocks of 256 with one fp32 number each, where a parameter has 4,096
numbers or more (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", and bitsandbytes' `min_8bit_size`).

    >>> pack(model, bits=4, compute=torch.bfloat16)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.finetune.parts import is_transposed
from wellfit.optim.eight_bits import AVERAGES, BLOCK, SMALLEST

BITS = (4, 8, 16)


class Packed(nn.Module):
    """A linear layer whose frozen weights are packed, and made whole whenever they are multiplied with."""

    def __init__(self, out_features: int, in_features: int, bias: Any, bits: int, compute: torch.dtype, device: Any):
        super().__init__()
        self.shape, self.compute = (out_features, in_features), compute
        self.numbers = numbers = out_features * in_features
        with torch.device(device):
            self.packed = nn.Buffer(torch.empty(-(-numbers * bits // 8), dtype=torch.uint8))
            if bits == 4:
                self.divisors = nn.Buffer(torch.empty(-(-numbers // 64), dtype=torch.uint8))
                self.of_divisors = nn.Buffer(torch.empty(-(-numbers // (64 * 256)), dtype=torch.float32))
            else:
                self.divisors = nn.Buffer(torch.empty(out_features, dtype=torch.float32))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _MultipliedWhole.apply(x.to(self.compute), self.shape)
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _MultipliedWhole(torch.autograd.Function):
    """x W^T for a W that exists for the moment, forward and again backward, and is not kept between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        return F.linear(x, x.new_empty(shape))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ grad.new_empty(ctx.shape), None


def numel(model: nn.Module) -> int:
    """How many numbers a model's parameters stand for, packed ones included."""
    return sum(p.numel() for p in model.parameters()) + sum(m.numbers for m in model.modules() if isinstance(m, Packed))


def pack(model: nn.Module, bits: int, compute: torch.dtype) -> int:
    """Packs the frozen weights of the linear layers, in place, but for the output layer's and tied ones, as bitsandbytes in
    transformers does. Returns how many numbers they stand for.
    """
    inner: Any = model
    writes = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    numbers = 0
    for name, module in list(model.named_modules()):
        plain = type(module) is nn.Linear or is_transposed(module)
        if not plain or module is writes or "lora_" in name or id(module.weight) in embedded:
            continue
        weight: Any = module.weight
        rows, columns = reversed(weight.shape) if is_transposed(module) else weight.shape
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Packed(rows, columns, module.bias, bits, compute, weight.device))
        numbers += weight.numel()
    return numbers


class EightBits(torch.optim.Optimizer):
    """Holds what bitsandbytes' optimizer of that kind holds. Its step changes nothing."""

    def __init__(self, kind: str, params: Any, **_settings: Any):
        super().__init__(params, {})
        self.averages = AVERAGES[kind]

    @torch.no_grad()
    def step(self, _closure: Any = None) -> None:  # type: ignore[override]
        """Makes the states."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or self.state[p]:
                    continue
                small = p.numel() < SMALLEST
                for i in range(self.averages):
                    self.state[p][f"average{i}"] = torch.zeros_like(p, dtype=torch.float32 if small else torch.uint8)
                    if not small:
                        self.state[p][f"largest{i}"] = p.new_empty(-(-p.numel() // BLOCK), dtype=torch.float32)
