"""From tensors to numbers: a batch, a layer, an activation, in a few operations each and never more than a sample.

Nothing here keeps a tensor, draws a random number or changes a mode. Large tensors are read at evenly spaced places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.doctor.graph import ELEMENTS, some

MIXING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
LAYERS = 200  # layers of a model that are measured
DIGITS = 4096  # elements of a sample that its fingerprint reads


def tensors(value: Any, depth: int = 0) -> list[Tensor]:
    """The tensors in arguments, tuples, mappings and outputs of any library."""
    if isinstance(value, Tensor):
        return [value]
    if depth > 3 or isinstance(value, str | bytes | nn.Module):
        return []
    if isinstance(value, Mapping):
        return [t for part in value.values() for t in tensors(part, depth + 1)]
    if isinstance(value, list | tuple):
        return [t for part in value[:16] for t in tensors(part, depth + 1)]
    if hasattr(value, "data") and isinstance(getattr(value, "data", None), Tensor | Mapping):
        return tensors(value.data, depth + 1)
    return []


def switches(model: nn.Module) -> list[nn.Module]:
    """The parts that behave differently in training: dropout that drops and batch norm."""
    return [m for m in model.modules() if isinstance(m, MIXING) and getattr(m, "p", 1.0) > 0]


def spread(values: Tensor) -> dict[str, float]:
    """mean, std, min, max, largest magnitude and the share that is not finite."""
    part = some(values.detach()).to(torch.float64)
    finite = torch.isfinite(part)
    bad = 1.0 - float(finite.float().mean()) if part.numel() else 0.0
    if bad:
        part = part[finite]
    if not part.numel():
        return {"mean": math.nan, "std": math.nan, "min": math.nan, "max": math.nan, "non_finite": bad}
    low, high = float(part.min()), float(part.max())
    return {
        "mean": float(part.mean()), "std": float(part.std(unbiased=False)), "min": low, "max": high, "non_finite": bad
    }  # fmt: skip


def inputs(values: Tensor) -> dict[str, float]:
    """A batch of inputs: `spread`, and for tables the spread of the features' scales. Whole numbers are said to be."""
    told = spread(values) | {"samples": float(values.shape[0]) if values.ndim else 1.0, "dims": float(values.ndim)}
    told["whole"] = float(not values.is_floating_point())
    if (
        values.is_floating_point()
        and values.ndim in (2, 3)
        and values.shape[-1] > 1
        and values.numel() <= 16 * ELEMENTS
    ):
        table = values.detach().reshape(-1, values.shape[-1]).to(torch.float64)
        if len(table) > 1:
            scales, centers = table.std(dim=0, unbiased=False), table.mean(dim=0).abs()
            scales = scales[torch.isfinite(scales)]
            live = scales[scales > 1e-12]
            told["features"] = float(values.shape[-1])
            told["constant_features"] = float((scales <= 1e-12).sum())
            if len(live):
                told["largest_scale"], told["smallest_scale"] = float(live.max()), float(live.min())
                told["largest_center"] = float(centers.max())
    if values.is_floating_point() and values.ndim > 1 and len(values) > 1:
        flat = values.detach().reshape(len(values), -1)[:, :ELEMENTS]
        told["constant_samples"] = float((flat.max(dim=1).values == flat.min(dim=1).values).float().mean())
    return told


def activation(op: str, made: Tensor) -> dict[str, float]:
    """An activation: mean, std, the share of zeros, of dead units and of saturated values."""
    part = made.detach()
    if part.numel() > 4 * ELEMENTS:
        part = part[: max(1, len(part) * 4 * ELEMENTS // part.numel())]
    units = part.transpose(0, 1).reshape(part.shape[1], -1) if part.ndim == 4 else part.reshape(-1, part.shape[-1]).t()
    told = {"mean": float(part.mean()), "std": float(part.std(unbiased=False)), "samples": float(units.shape[1]),
            "units": float(units.shape[0])}  # fmt: skip
    if op in ("Relu", "Threshold"):
        told["zeros"] = float((units <= 0).float().mean())
        told["dead"] = float((units <= 1e-5).all(dim=1).float().mean())
    if op in ("Sigmoid", "Tanh", "Hardtanh"):
        flat = (
            (units < 0.0067) | (units > 0.9933) if op == "Sigmoid" else units.abs() > 0.9866
        )  # 5 and 2.5 from the middle
        told["saturated"] = float((flat.float().mean(dim=1) > 0.9).float().mean())
        told["flat_values"] = float(flat.float().mean())
    return told


def norms(values: Iterable[Tensor]) -> list[float]:
    """The 2-norm of each, in one transfer."""
    parts = [value.detach() for value in values]
    if not parts:
        return []
    found = [n.to(torch.float64) for n in torch._foreach_norm(parts)]
    return (
        [float(n) for n in torch.stack(found).tolist()]
        if len({n.device for n in found}) == 1
        else [float(n) for n in found]
    )


def weight(values: Tensor) -> dict[str, float]:
    """A weight as it stands: std, the gain std * sqrt(fan in), whether constant, and whether its units are all alike."""
    part = values.detach()
    fan = part[0].numel() if part.ndim > 1 else 1
    flat = part.reshape(part.shape[0], -1)[:1024, :1024].to(torch.float64)
    deviation = float(flat.std(unbiased=False)) if flat.numel() > 1 else 0.0
    alike = float((flat - flat[0]).abs().max()) <= 1e-12 if len(flat) > 1 else False
    return {
        "std": deviation, "gain": math.sqrt(float(flat.square().mean()) * fan), "constant": float(deviation <= 1e-12),
        "zero": float(not bool(flat.any())), "alike": float(alike), "fan_in": float(fan), "units": float(len(part)),
        "dims": float(part.ndim),
    }  # fmt: skip


def agreement(output: Tensor, target: Tensor) -> float:
    """How far outputs say what the targets are: 0 for guessing, 1 for all of it; NaN where it cannot be told.

    Outputs that stand still say nothing. For one unit a class the accuracy beyond chance, else the squared correlation,
    of all numbers where there is an output for each, or the largest of any output with the target.
    """
    if output.ndim == 2 and output.shape[1] > 1 and target.ndim == 1 and not target.is_floating_point():
        chance = float(torch.bincount(target.clamp(min=0)).max()) / max(1, len(target))
        right = float((output.argmax(dim=1) == target).float().mean())
        return max(0.0, (right - chance) / (1 - chance)) if chance < 1 else math.nan
    if output.shape == target.shape and target[0].numel() > 1:
        y, out = (t.detach().reshape(len(t), -1).double().cpu() for t in (target, output))
        y, out = y - y.mean(dim=0), out - out.mean(dim=0)
        spread = out.square().sum() * y.square().sum()
        return float((out * y).sum().square() / spread) if len(y) >= 8 and float(spread) > 0 else math.nan
    y = target.detach().reshape(len(target), -1)[:, 0].double().cpu()
    out = output.detach().reshape(len(output), -1)[:, :64].double().cpu()
    y, out = y - y.mean(), out - out.mean(dim=0)
    spread = out.square().sum(dim=0) * y.square().sum()
    if len(y) < 8 or not bool(y.any()):
        return math.nan
    return float(((out * y[:, None]).sum(dim=0).square() / spread.clamp_min(1e-300)).max())


class Fingerprints:
    """Exact fingerprints of samples: equal samples have equal ones, whatever their place in the batch."""

    def __init__(self) -> None:
        self._factors: Tensor | None = None

    def of(self, batch: Tensor) -> list[int]:
        """One whole number per row of the batch."""
        rows = batch.detach().reshape(len(batch), -1)
        if rows.shape[1] > DIGITS:
            rows = rows[:, :: rows.shape[1] // DIGITS + 1]
        if rows.is_floating_point():
            rows = (rows.to(torch.float32) + 0.0).contiguous().view(torch.int32)  # + 0.0 makes -0 equal 0
        elif rows.is_complex():
            rows = torch.view_as_real(rows).reshape(len(rows), -1).to(torch.float32).contiguous().view(torch.int32)
        if self._factors is None or self._factors.shape[0] < rows.shape[1] or self._factors.device != rows.device:
            generator = torch.Generator().manual_seed(20)
            factors = torch.randint(-(2**62), 2**62, (DIGITS + 1,), generator=generator) | 1
            self._factors = factors.to(rows.device)
        sums: list[int] = (rows.to(torch.int64) * self._factors[: rows.shape[1]]).sum(dim=1).tolist()
        return sums
