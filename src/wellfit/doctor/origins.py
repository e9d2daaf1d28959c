"""Where weights come from: loaded, trained earlier in this program, or as an initialiser drew them.

Loading is heard of (`nn.Module.load_state_dict`) or read from the mark that Hugging Face's `from_pretrained` leaves at
each parameter it filled. Whether weights are as drawn is read from their values alone, and said only where it is plain.

    >>> origins.loaded(model, state_dict)
    >>> origins.known(p), drawn(model.fc), experience(model)
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.doctor.graph import some

FILLED = "_is_hf_initialized"  # what transformers sets at a parameter whose values it read from a file
MATRICES = 24  # of a model, that are judged
LEAST = 200  # numbers below which nothing is said of how they are distributed


class Origins:
    """The parameters of one program that hold something learnt before. They are held weakly."""

    def __init__(self) -> None:
        self._loaded: dict[int, weakref.ref[Tensor]] = {}
        self._trained: dict[int, weakref.ref[Tensor]] = {}

    def loaded(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """`module.load_state_dict(state)` was called: what the state names is known from now on."""
        self._loaded.update({id(p): weakref.ref(p) for name, p in module.named_parameters() if name in state})

    def trained(self, parameters: Iterable[Tensor]) -> None:
        """An optimizer of this program trained these."""
        self._trained.update({id(p): weakref.ref(p) for p in parameters})

    def known(self, p: Tensor) -> bool:
        """Whether it was loaded, or trained by an earlier optimizer."""
        return _holds(self._loaded, p) or _holds(self._trained, p) or getattr(p, FILLED, False) is True

    def read(self, p: Tensor) -> bool:
        """Whether it was loaded, and is none of what this program itself had trained and put back."""
        return self.known(p) and not _holds(self._trained, p)

    def share(self, module: nn.Module) -> float:
        """The share of a model's numbers that are known."""
        sizes = [(p.numel(), self.known(p)) for p in module.parameters()]
        return sum(n for n, known in sizes if known) / max(1, sum(n for n, _ in sizes))


def _holds(among: Mapping[int, weakref.ref[Tensor]], p: Tensor) -> bool:
    reference = among.get(id(p))
    return reference is not None and reference() is p


def drawn(module: nn.Module) -> bool:
    """Whether a linear layer or convolution is as an initialiser leaves it; False where that is not plain.

    Plain are zeros; torch's own draw, even between -1/sqrt(fan in) and 1/sqrt(fan in) for weight and bias, whose ends a
    trained weight oversteps (`nn.Linear.reset_parameters`); and independent draws beside a bias of exact zeros.
    """
    if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not isinstance(module.weight, Tensor):
        return False
    weight, bias = module.weight.detach(), module.bias
    if not weight.is_floating_point() or weight.device.type == "meta" or not weight.numel():
        return False
    if not bool(weight.any()):
        return True
    still = bias is not None and not bool(bias.detach().any())
    if weight.numel() < LEAST:
        return still
    bound = 1 / math.sqrt(weight[0].numel())
    top = float(weight.abs().max())
    edge = 0.98 * bound <= top <= bound * (1 + 4 * torch.finfo(weight.dtype).eps)
    if edge and (bias is None or float(bias.detach().abs().max()) <= bound * 1.01):
        spread = float(some(weight).double().std()) * math.sqrt(3) / bound
        return abs(spread - 1) < 4 * math.sqrt(0.2 / min(weight.numel(), 65_536))
    return still and independent(weight)


def independent(weight: Tensor) -> bool:
    """Whether the numbers of a matrix look drawn one by one: its rows and columns differ in length no more than by chance.

    The squared length of a row of n independent numbers of kurtosis k scatters by sqrt((k - 1) / n) of itself. Training
    makes some units and some inputs matter more than others.
    """
    table = weight.detach().reshape(len(weight), -1)[:2048, :2048].double()
    if min(table.shape) < 2 or table.numel() < LEAST:
        return False
    squares = (table - table.mean()).square()
    variance = float(squares.mean())
    if variance == 0:
        return True
    kurtosis = float(squares.square().mean()) / variance**2
    if kurtosis > 3.5:
        return False
    for dim in (0, 1):
        lengths = squares.mean(dim=dim)
        if len(lengths) >= 16:
            chance = math.sqrt((kurtosis - 1) / table.shape[dim])
            if float(lengths.std()) / variance > 1.5 * chance * (1 + 2 / math.sqrt(len(lengths))):
                return False
    return True


def experience(module: nn.Module) -> float:
    """The share of a model's layers whose values an initialiser does not leave: 0 for a new model, near 1 for a trained one.

    Norm layers tell best, which all start at one and zero; without them weight matrices do.
    """
    norms: list[Tensor] = []
    matrices: list[Tensor] = []
    for part in module.modules():
        weight = part._parameters.get("weight")
        if weight is None or not weight.is_floating_point() or weight.device.type == "meta":
            continue
        if weight.ndim == 1 and "norm" in type(part).__name__.lower():
            norms.append(weight.detach())
        elif weight.ndim > 1 and weight.numel() >= LEAST:
            matrices.append(weight)
    if len(norms) >= 2:
        some_norms = norms[:: len(norms) // MATRICES + 1]
        return sum(bool((w != w.flatten()[0]).any()) for w in some_norms) / len(some_norms)
    chosen = matrices[:: len(matrices) // MATRICES + 1]
    return sum(not independent(w) for w in chosen) / len(chosen) if chosen else 0.0
