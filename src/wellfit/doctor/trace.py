"""One training step looked at layer by layer, on a copy: shapes, activations, gradients, weights, updates.

`trace` takes the step and tells; the model, its gradients, its optimizer and the random generators stay as they were.
It is no profiler: it says what a layer made, not how long that took.

    >>> print(trace(model, (x, y), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.data.batches import untouched_randomness
from wellfit.doctor import measure
from wellfit.doctor.copies import copied
from wellfit.doctor.words import said
from wellfit.errors import ModelError, WellfitError

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> mean loss, a scalar
WORDS = ("layer", "kind", "input", "output")  # columns of the table that are no numbers
FORMULA = "output size = (n + 2 padding - dilation (kernel - 1) - 1) / stride + 1"
RATE = 1e-3  # of the AdamW that stands in where no optimizer is given
SETTLES = {
    "ReLU": "Relu", "ReLU6": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Hardtanh": "Hardtanh", "Threshold": "Threshold",
}  # fmt: skip


@dataclass
class Layer:
    """One module of the model in the order in which they ran, or parameters that belong to none that ran."""

    name: str
    kind: str
    inputs: tuple[int, ...] = ()  # shape of the first input
    outputs: tuple[int, ...] = ()  # shape of the first output
    parameters: int = 0
    calls: int = 1
    size: str = ""  # of a convolution or pooling: how its output size comes about
    mean: float = math.nan  # of what it made
    std: float = math.nan
    dead: float = math.nan  # share of units that are zero for all samples
    saturated: float = math.nan  # share of units at the flat ends of their activation
    grad_norm: float = math.nan  # 2-norm of the gradient of its own parameters
    weight_norm: float = math.nan
    update_norm: float = math.nan  # of what the step changed them by

    @property
    def ratio(self) -> float:
        """The size of the update beside that of the weights."""
        return self.update_norm / self.weight_norm if self.weight_norm else math.nan


@dataclass
class Trace:
    """A step: the layers, and the loss of the same batch before and after it (with the same dropout)."""

    layers: list[Layer] = field(default_factory=list)
    loss_before: float = math.nan
    loss_after: float = math.nan
    optimizer: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The trace as plain data, for JSON; what was not measured is None."""

        def plain(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        layers = [{key: plain(value) for key, value in asdict(layer).items()} for layer in self.layers]
        return {
            "loss_before": plain(self.loss_before), "loss_after": plain(self.loss_after), "optimizer": self.optimizer,
            "layers": layers,
        }  # fmt: skip

    def __str__(self) -> str:
        rows = [
            (
                layer.name, layer.kind, _shape(layer.outputs), f"{layer.parameters:,}", _number(layer.mean), _number(layer.std),
                _idle(layer), _number(layer.grad_norm), _number(layer.weight_norm), _number(layer.update_norm),
                _number(layer.ratio),
            )
            for layer in self.layers
        ]  # fmt: skip
        head = (
            "layer",
            "kind",
            "output",
            "parameters",
            "mean",
            "std",
            "idle",
            "gradient",
            "weights",
            "update",
            "ratio",
        )
        end = f"loss {self.loss_before:.6g} before and {self.loss_after:.6g} after one step of {self.optimizer}"
        return f"{_table(head, rows)}\n{end}"

    def shapes(self) -> str:
        """The shapes alone, with the sum behind the output size of each convolution and pooling."""
        cut = None if any(r.size for r in self.layers) else -1
        rows = [
            (r.name, r.kind, _shape(r.inputs), _shape(r.outputs), f"{r.parameters:,}", r.size)[:cut]
            for r in self.layers
        ]
        total = sum(layer.parameters for layer in self.layers)
        head = ("layer", "kind", "input", "output", "parameters", FORMULA)[:cut]
        return f"{_table(head, rows)}\n{total:,} parameters"


def trace(model: nn.Module, batch: Any, loss: Loss, optimizer: Any = None) -> Trace:
    """Takes one training step on a copy of model and optimizer and measures each layer on the way.

    `loss(model, batch)` is the mean over the batch, a scalar. Without an optimizer AdamW with a rate of 0.001 stands in.
    Raises ModelError where the model cannot be copied, or cannot take the batch.
    """
    twin, own = copied(model, optimizer)
    own = own if own is not None else torch.optim.AdamW((p for p in twin.parameters() if p.requires_grad), lr=RATE)
    told = Trace(optimizer=f"{type(own).__name__} at a rate of {max(group['lr'] for group in own.param_groups):.3g}")
    twin.zero_grad(set_to_none=True)
    owners: dict[int, Layer] = {}
    handles = list(_listening(twin, told.layers, owners))
    with untouched_randomness(), torch.enable_grad():
        state = torch.get_rng_state()
        try:
            value = loss(twin, batch)
        except WellfitError:
            raise
        except Exception as error:
            given = " and ".join(str(list(t.shape)) for t in measure.tensors(batch)[:3])
            raise ModelError(f"The model cannot take a batch of {given}. {said(error)}") from error
        finally:
            for handle in handles:
                handle.remove()
        _unvisited(twin, told.layers, owners)
        told.loss_before = float(value.detach())
        value.backward()  # type: ignore[no-untyped-call]
        before = [(p, p.detach().clone()) for p in twin.parameters()]
        own.step()
        _measure(before, owners)
        torch.set_rng_state(state)
        with torch.no_grad():
            told.loss_after = float(loss(twin, batch))
    return told


# ---- on the way


def _listening(model: nn.Module, layers: list[Layer], owners: dict[int, Layer]) -> Iterator[Any]:
    """Hooks on everything that has parameters of its own or nothing inside; each adds its layer when it first runs."""
    made: dict[int, Layer] = {}
    for name, module in model.named_modules():
        holds = next(module.children(), None) is not None
        if isinstance(module, nn.Identity) or (holds and next(module.parameters(recurse=False), None) is None):
            continue

        def hook(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            if id(module) in made:
                made[id(module)].calls += 1
                return
            given, result = measure.tensors(args), measure.tensors(output)
            layer = made[id(module)] = Layer(name or "(the model)", type(module).__name__)
            layer.inputs = tuple(given[0].shape) if given else ()
            for p in module.parameters(recurse=False):
                if id(p) not in owners:
                    owners[id(p)] = layer
                    layer.parameters += p.numel()
            if result:
                layer.outputs = tuple(result[0].shape)
                layer.size = size_of(module, layer.inputs)
                _look(layer, result[0])
            layers.append(layer)

        yield module.register_forward_hook(hook)


def _look(layer: Layer, made: Tensor) -> None:
    part = made.detach()
    if not part.is_floating_point() or not part.numel():
        return
    told = measure.activation(SETTLES.get(layer.kind, ""), part if part.ndim > 1 else part.reshape(1, -1))
    layer.mean, layer.std = told["mean"], told["std"]
    layer.dead, layer.saturated = told.get("dead", math.nan), told.get("saturated", math.nan)


def _unvisited(model: nn.Module, layers: list[Layer], owners: dict[int, Layer]) -> None:
    """Parameters of no module that ran: used bare in a `forward`, or not used at all."""
    for name, p in model.named_parameters():
        if id(p) not in owners:
            owners[id(p)] = Layer(name, "parameter", outputs=tuple(p.shape), parameters=p.numel())
            layers.append(owners[id(p)])


def _measure(before: list[tuple[nn.Parameter, Tensor]], owners: dict[int, Layer]) -> None:
    """Norms of gradient, weight and update, over the parameters of each layer."""
    squares: dict[int, list[float]] = {}
    for p, old in before:
        found = squares.setdefault(id(owners[id(p)]), [0.0, 0.0, 0.0])
        for i, part in enumerate((p.grad, old, p.detach() - old)):
            if part is None:
                continue
            values = part.coalesce().values() if part.is_sparse else part
            found[i] += float(values.detach().double().square().sum())
    for layer in {id(layer): layer for layer in owners.values()}.values():
        gradient, weight, update = squares[id(layer)]
        layer.grad_norm, layer.weight_norm, layer.update_norm = gradient**0.5, weight**0.5, update**0.5


def size_of(module: nn.Module, given: tuple[int, ...]) -> str:
    """The output size along the last dimension of a convolution or pooling, written out: `(8 + 2·1 - 3)/1 + 1 = 8`.

    Dumoulin & Visin 2016, relationship 15.
    """
    known = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)  # fmt: skip
    if not isinstance(module, known) or len(given) < 3:
        return ""

    def last(value: Any) -> Any:
        return value[-1] if isinstance(value, tuple) else value

    n, kernel, stride = given[-1], last(module.kernel_size), last(module.stride)
    padding, dilation = last(module.padding), last(getattr(module, "dilation", 1))
    if padding == "same":
        return f'{n} (padding "same")'
    padding = 0 if padding == "valid" else padding
    reach = dilation * (kernel - 1)
    steps = (n + 2 * padding - reach - 1) / stride
    whole = math.ceil(steps) if getattr(module, "ceil_mode", False) else math.floor(steps)
    shown = f"({n} + 2·{padding} - {dilation}·({kernel} - 1) - 1)/{stride} + 1"
    return f"{shown} = {whole + 1}" + (" rounded" if whole != steps else "")


# ---- in words


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of words to the left, of numbers to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if name in WORDS or "=" in name else cell.rjust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _idle(layer: Layer) -> str:
    """Units that say nothing: dead, or stuck at an end."""
    share = layer.dead if not math.isnan(layer.dead) else layer.saturated
    return "-" if math.isnan(share) else f"{share:.0%}"
