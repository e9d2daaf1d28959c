"""What a trained network gets wrong: the confusion of classes, how sure it is beside how right, and its worst samples.

One pass over held-out data after the last score, for classes and for numbers. It is told as plain data, kept in the run's
`review.json`, and decides nothing. Samples are told as they went into the network: a picture as PNG, a text, a row by its columns.

    >>> review(job.model, job.test, job.record)["worst"][0]
    {'target': '8', 'output': '1', 'sure': 0.97, 'picture': 'data:image/png;base64,...'}
"""

import base64
import heapq
import importlib.util
import io
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import losses
from wellfit.data.batches import Batch
from wellfit.data.tokens import Tokens

WORST = 12
BINS = 10  # of confidence, as Guo et al. 2017 draw it, with 15
CLASSES = 40  # more make no table that can be read
SAMPLES = 20_000  # enough for every table here
LETTERS = 300  # of a text
POINTS = 400  # of targets beside outputs
OF_NUMBERS = (losses.MSE, losses.L1, losses.Huber, losses.SmoothL1)
PIXELS = 256  # the longer side of a picture


@torch.no_grad()
def review(
    model: nn.Module, held: Iterable[Batch], record: Mapping[str, Any], criterion: Any = None
) -> dict[str, Any] | None:
    """None for a task whose outputs are neither one row of classes nor one number for each sample.

    `criterion`: the loss, by which numbers are known from scores of yes and no.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    told: _Classes | _Numbers | None = None
    seen = 0
    try:
        for batch in held:
            if not (isinstance(batch, tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
                return None
            inputs, targets = batch
            targets = targets if targets.is_floating_point() else targets.long()
            outputs = model(inputs)
            if told is None:
                told = _kind(outputs, targets, record, criterion)
                if told is None:
                    return None
            told.add(inputs, outputs.float().cpu(), targets.cpu())
            seen += len(targets)
            if seen >= SAMPLES:
                break
    finally:
        for module, training in modes:
            module.training = training
    return told.told() | {"samples": seen} if told is not None else None


class _Classes:
    def __init__(self, record: Mapping[str, Any], classes: int):
        self.record = record
        self.names = [str(name) for name in record.get("classes") or range(classes)]
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # samples, sum of confidence, right ones
        self.worst: list[tuple[float, int, dict[str, Any]]] = []
        self.count = 0

    def add(self, inputs: Tensor, logits: Tensor, targets: Tensor) -> None:
        probabilities = logits.softmax(-1)
        sure, found = probabilities.max(-1)
        classes = len(self.confusion)
        counted = (targets >= 0) & (targets < classes)  # whatever number stands for "ignored"
        pairs = (targets * classes + found)[counted]
        self.confusion += torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        places = (sure * BINS).long().clamp(0, BINS - 1)
        for i, value in enumerate((torch.ones_like(sure), sure, (found == targets).to(sure))):
            self.bins[i].index_add_(0, places[counted], value[counted].double())
        given = probabilities.gather(1, targets.clamp(0, classes - 1)[:, None])[:, 0]
        for i in (given + ~counted * 2.0).argsort()[:WORST].tolist():
            if counted[i] and found[i] != targets[i]:
                told = {
                    "target": self.names[int(targets[i])],
                    "output": self.names[int(found[i])],
                    "sure": round(float(sure[i]), 4),
                }
                _keep(self.worst, 1 - float(given[i]), self.count + i, told, inputs[i], self.record)
        self.count += len(targets)

    def told(self) -> dict[str, Any]:
        samples, sure, right = self.bins
        filled = samples > 0
        bins = [
            [round(float(s / n), 4), round(float(r / n), 4), int(n)]
            for n, s, r in zip(samples[filled], sure[filled], right[filled], strict=True)
        ]
        # Expected calibration error, Guo et al. 2017, equation 3
        error = float(((sure - right).abs()).sum() / samples.sum().clamp(min=1))
        small = len(self.names) <= CLASSES
        return {
            "kind": "classes",
            "classes": self.names,
            "confusion": self.confusion.tolist() if small else None,
            "mistaken": _mistaken(self.confusion, self.names),
            "calibration": bins,
            "calibration_error": round(error, 4),
            "worst": _worst(self.worst),
        }


class _Numbers:
    def __init__(self, record: Mapping[str, Any]):
        self.record = record
        self.pairs: list[tuple[float, float]] = []
        self.worst: list[tuple[float, int, dict[str, Any]]] = []

    def add(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> None:
        wrong = (outputs - targets).abs()
        for i in wrong.argsort(descending=True)[:WORST].tolist():
            told = {"target": round(float(targets[i]), 6), "output": round(float(outputs[i]), 6)}
            _keep(self.worst, float(wrong[i]), len(self.pairs) + i, told, inputs[i], self.record)
        self.pairs += [(float(t), float(o)) for t, o in zip(targets, outputs, strict=True)]

    def told(self) -> dict[str, Any]:
        every = max(1, len(self.pairs) // POINTS)
        points = [[float(f"{t:.5g}"), float(f"{o:.5g}")] for t, o in self.pairs[::every]]
        return {"kind": "numbers", "target": self.record.get("target"), "points": points, "worst": _worst(self.worst)}


def _kind(outputs: Any, targets: Tensor, record: Mapping[str, Any], criterion: Any) -> _Classes | _Numbers | None:
    if not isinstance(outputs, Tensor):
        return None
    if outputs.ndim == 2 and outputs.shape[1] > 1 and targets.ndim == 1 and not targets.is_floating_point():
        return _Classes(record, outputs.shape[1])
    known = isinstance(criterion, OF_NUMBERS) or isinstance(getattr(criterion, "loss", None), OF_NUMBERS)
    if known and outputs.shape == targets.shape and targets.ndim == 1 and targets.is_floating_point():
        return _Numbers(record)
    return None


def _mistaken(confusion: Tensor, names: list[str]) -> list[list[Any]]:
    """The pairs that are taken for each other most often: what it is, what it was called, how often."""
    off = confusion.clone().fill_diagonal_(0)
    found = []
    for place in off.flatten().argsort(descending=True)[:10].tolist():
        a, b = divmod(place, len(names))
        if off[a, b]:
            found.append([names[a], names[b], int(off[a, b])])
    return found


def _keep(
    worst: list[tuple[float, int, dict[str, Any]]],
    wrong: float,
    number: int,
    told: dict[str, Any],
    sample: Tensor,
    record: Mapping[str, Any],
) -> None:
    """A heap of the `WORST` ones; what a sample looks like is only made for those that come in."""
    if wrong != wrong or (len(worst) == WORST and wrong <= worst[0][0]):
        return
    item = (wrong, -number, told | _shown(sample, record))
    if len(worst) < WORST:
        heapq.heappush(worst, item)
    else:
        heapq.heapreplace(worst, item)


def _worst(heap: list[tuple[float, int, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [told for _, _, told in sorted(heap, key=lambda item: item[:2], reverse=True)]


def _shown(sample: Tensor, record: Mapping[str, Any]) -> dict[str, Any]:
    """A sample for people, where it is known how."""
    sample = sample.detach().cpu()
    if sample.dtype == torch.uint8 and sample.ndim == 3:
        return _picture(sample)
    if "tokens" in record and sample.ndim == 1 and not sample.is_floating_point():
        text = Tokens.of(record["tokens"]).decode(sample[sample != 0].tolist())
        return {"text": text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"}
    columns = record.get("columns")
    if isinstance(columns, Mapping) and sample.ndim == 1 and "numeric" in columns:
        return {"row": _row(sample, columns)}
    return {}


def _row(sample: Tensor, columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row by its columns: numbers first, then one input for each category, of which the one that is 1 is told."""
    numeric = list(columns["numeric"])
    row: dict[str, Any] = {str(name): float(f"{float(x):.5g}") for name, x in zip(numeric, sample, strict=False)}
    at = len(numeric)
    for name, values in columns.get("categories", {}).items():
        chosen = [str(value) for value, x in zip(values, sample[at : at + len(values)], strict=False) if x > 0.5]
        row[str(name)] = chosen[0] if chosen else "none"
        at += len(values)
    return dict(list(row.items())[:12])


def _picture(sample: Tensor) -> dict[str, Any]:
    if sample.shape[0] not in (1, 3) or importlib.util.find_spec("PIL") is None:
        return {}
    from PIL import Image

    brightest = int(sample.max())
    if 0 < brightest < 64:  # data with few shades, such as digits of 0 to 16, would be all but black
        sample = (sample.float() * (255 / brightest)).to(torch.uint8)
    pixels = sample.permute(1, 2, 0).squeeze(-1).numpy()
    made = Image.fromarray(pixels)
    made.thumbnail((PIXELS, PIXELS))
    written = io.BytesIO()
    made.save(written, "PNG", optimize=True)
    return {"picture": "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()}
