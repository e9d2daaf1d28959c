"""What torch's profiler saw of some steps: operators, and the layers that they belong to.

A range named after each module is opened around its forward pass, by hooks that come off again. An operator of the forward pass belongs
to the innermost range around it. One of the backward pass belongs to the layer whose forward operator made its node of the graph, which
autograd numbers (`sequence_nr`). What is recomputed in the backward pass counts there.

On a CPU a layer's forward time is all that passes in it and in no module within it, Python and sleep included. On an accelerator it is
what the device computes for it.

    >>> with layers_named(model):
    ...     with profiled() as profiler: step()
    >>> seen = read(profiler.events(), steps=1, kinds=kinds_of(model))
"""

import contextlib
import gzip
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from wellfit.errors import RecipeError, RunError
from wellfit.report.profile import PARTS, Layer, Operator
from wellfit.trials.stopwatch import BACKWARD, DATA, FORWARD, RANGE, REST
from wellfit.whole import whole

LAYER = "layer: "
NAMED = 7  # the scope of such a stretch (RecordScope::USER_SCOPE)
NODE = "autograd::engine::evaluate_function: "
WHOLE, LOSS = "(the model itself)", "the loss"
ENDINGS = (".json", ".json.gz")
TALK = ("gloo:", "nccl:")  # how torch names what ranks exchange


@dataclass(frozen=True)
class Seen:
    """Of one step. `between`: share of it, waiting for data left out, that is in no operator. `busy`: share of the time in which the
    accelerator worked; None without one.
    """

    operators: tuple[Operator, ...]
    layers: tuple[Layer, ...]
    between: float
    busy: float | None
    copies: float | None
    talks: float


def profiler(device: str) -> Any:
    """torch's profiler of the processor, and of the accelerator where there is one. It prints nothing."""
    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """torch's profiler tells the terminal when it starts and which devices it misses; not inside the block."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


@contextlib.contextmanager
def layers_named(model: nn.Module) -> Iterator[None]:
    """Each module's forward pass is a range of the profiler's, inside the block."""
    opened: list[record_function] = []

    def entering(name: str) -> Any:
        def enter(*_: Any) -> None:
            opened.append(record_function(f"{LAYER}{name}"))
            opened[-1].__enter__()  # type: ignore[no-untyped-call]

        return enter

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(entering(name), prepend=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def kinds_of(model: nn.Module) -> dict[str, str]:
    """Name of a module -> its class."""
    return {name: type(module).__name__ for name, module in model.named_modules()}


def read(events: Iterable[Any], steps: int, seconds: float, kinds: Mapping[str, str]) -> Seen:
    """The events of so many steps, made into operators and layers of one, the slowest first. `seconds`: of a profiled step."""
    told = list(events)
    calls = [event for event in told if event.device_type == DeviceType.CPU and not event.is_async]
    device = [event for event in told if event.device_type != DeviceType.CPU and not _is_range(event)]
    places = _Places(calls)
    spent: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    where: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for event in calls:
        if _is_range(event):
            continue
        own = float(event.self_device_time_total if device else event.self_cpu_time_total)
        # A node of the graph does nothing itself but call operators; what that costs is autograd's.
        name = "autograd" if event.name.startswith(NODE) or event.scope == 1 else event.name
        spent[name] += own
        count[name] += 1
        where[name][places.told(event)] += own
    scale = 1e-6 / steps
    operators = [
        Operator(name, count[name] / steps, own * scale, own * scale / seconds, _most(where[name]))
        for name, own in spent.items()
    ]
    layers = [
        Layer(
            name or WHOLE,
            kinds.get(name, ""),
            forward * scale,
            backward * scale,
            (forward + backward) * scale / seconds,
        )
        for name, (forward, backward) in places.layers(bool(device)).items()
    ]
    waiting = f"{RANGE}{DATA}"
    window = seconds * steps * 1e6
    computing = window - sum(event.time_range.elapsed_us() for event in calls if event.name == waiting)
    inside = sum(event.self_cpu_time_total for event in calls if not _is_range(event) and places.part(event) != DATA)
    return Seen(
        tuple(sorted((one for one in operators if one.seconds > 0), key=lambda one: -one.seconds)),
        tuple(sorted(layers, key=lambda one: -one.seconds)),
        min(1.0, max(0.0, 1 - inside / max(computing, 1e-9))),
        min(1.0, covered((e.time_range.start, e.time_range.end) for e in device) / window) if device else None,
        sum(e.time_range.elapsed_us() for e in device if "HtoD" in e.name) * scale if device else None,
        sum(e.time_range.elapsed_us() for e in told if e.device_type == DeviceType.CPU and e.name.startswith(TALK))
        * scale,
    )


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of these (start, end) lasts.

    >>> covered([(0, 2), (1, 3), (5, 6)])
    4
    """
    total, until = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


class _Places:
    """Of each event the layer and the part of the step that it belongs to."""

    def __init__(self, calls: list[Any]):
        self.calls = calls
        self._layers: dict[int, str | None] = {}
        self._parts: dict[int, str] = {}
        self._nodes: dict[int, Any] = {}
        self._made: dict[int, str | None] = {}  # number of a node of the graph -> the layer that made it
        for event in sorted(calls, key=lambda event: event.time_range.start):
            self._place(event)
            forward = event.scope == 0 and not event.name.startswith(NODE) and self._nodes[event.id] is None
            if forward and event.sequence_nr >= 0 and not _is_range(event):
                self._made[event.sequence_nr] = self._layers[
                    event.id
                ]  # the last one made it, those before only saw its number

    def _place(self, event: Any) -> None:
        above = event.cpu_parent
        if above is not None and above.id not in self._layers:
            self._place(above)
        layer, part, node = (
            (self._layers[above.id], self._parts[above.id], self._nodes[above.id])
            if above is not None
            else (None, REST, None)
        )
        if event.name.startswith(LAYER):
            layer = event.name.removeprefix(LAYER)
        elif event.name.startswith(RANGE):
            part = event.name.removeprefix(RANGE)
        elif event.name.startswith(NODE):
            node, part = event, BACKWARD
        self._layers[event.id], self._parts[event.id], self._nodes[event.id] = layer, part, node

    def part(self, event: Any) -> str:
        """Of the step."""
        return self._parts[event.id]

    def layer(self, event: Any) -> str | None:
        """Of the forward pass that it is in, or whose gradient it computes."""
        within, node = self._layers[event.id], self._nodes[event.id]
        if within is not None or node is None:
            return within
        return self._made.get(node.sequence_nr)

    def told(self, event: Any) -> str:
        layer = self.layer(event)
        if layer is not None:
            return layer or WHOLE
        part = self._parts[event.id]
        return LOSS if part == FORWARD else PARTS.get(part, PARTS[REST])

    def layers(self, on_device: bool) -> dict[str, tuple[float, float]]:
        """Layer -> microseconds forward, backward."""
        spent: dict[str, list[float]] = {}
        for event in self.calls:
            behind = self._parts[event.id] == BACKWARD
            if on_device:
                own = 0.0 if _is_range(event) else float(event.self_device_time_total)
            elif event.name.startswith(LAYER) or event.name.startswith(NODE):
                own = self._own(event)
            else:
                continue
            layer = self.layer(event)
            if layer is not None and own:
                spent.setdefault(layer, [0.0, 0.0])[behind] += own
        return {layer: (forward, backward) for layer, (forward, backward) in spent.items()}

    def _own(self, event: Any) -> float:
        """The event's time without that of the ranges of layers in it."""
        own, below = event.time_range.elapsed_us(), list(event.cpu_children)
        while below:
            one = below.pop()
            if one.name.startswith((LAYER, NODE)):
                own -= one.time_range.elapsed_us()
            else:
                below += one.cpu_children
        return max(0.0, float(own))


def _is_range(event: Any) -> bool:
    """Whether it is a stretch that somebody named, ours or torch's own of its loader and its optimizers, and no operator."""
    return bool(event.scope == NAMED or event.name.startswith((LAYER, RANGE)))


def _most(where: Mapping[str, float]) -> str:
    """The place of most of the time, and how much of it, where that is not all."""
    place = max(where, key=lambda one: where[one])
    share = where[place] / (sum(where.values()) or 1)
    return place if share > 0.995 else f"{place} ({share:.0%})"


# ---- the file


def check_trace(file: Path) -> None:
    """Checks, before anything is measured, that a trace can be written there. Raises RecipeError or RunError."""
    if not file.name.lower().endswith(ENDINGS):
        raise RecipeError(f"The trace was to be {str(file)!r}; a trace is written as {' or '.join(ENDINGS)}.")
    folder = file.resolve().parent
    if not folder.is_dir():
        raise RunError(f"{file} cannot be written: there is no folder {folder}. Make it, or name another file.")
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        why = "it is a folder" if file.is_dir() else "this is not permitted"
        raise RunError(f"{file} cannot be written: {why}. Name another file for the trace.")


def write_trace(profiler: Any, file: Path) -> None:
    """Writes what the profiler saw for Perfetto or chrome://tracing, whole or not at all. Raises RunError if it cannot be written."""
    with whole(file, "Name another file for the trace.") as part, tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(plain))
        opened: Any = gzip.open if file.name.lower().endswith(".gz") else open
        with plain.open("rb") as made, opened(part, "wb") as out:
            shutil.copyfileobj(made, out)
