"""Where the time of a step goes: the verbs of the loop, timed from outside.

While a job is watched, its verbs (`batches.take`, `task.loss`, `precision.backward`, `gradients.clip` ...) say when they begin and end,
and go on doing what they did. So the loop of `train/fit.py` is measured as it is, and no line of it knows. What passes between two verbs
belongs to "rest"; nothing is counted twice, and the parts add up to the step.

On a CPU a mark is a look at the clock. On CUDA it is an event in the device's own queue, read when all is over: nothing waits for it,
and a part is as long as the device took from one mark to the next, the time included in which it had nothing to do. Data that is loaded
while the device still computes therefore costs nothing, as in truth. To compare one job with another, a CPU's clock stands still while this
process is ready to compute and another program has the processor.

    >>> watch = Stopwatch(job, warm=3, steps=20)
    >>> training.turn(watch, watch.total, around=watch.watching)
    >>> watch.stretch().seconds
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from wellfit.data.batches import Cut
from wellfit.environment import queued_seconds
from wellfit.events import Event
from wellfit.train.record import Blind
from wellfit.train.setup import Job

DATA, FORWARD, BACKWARD, GRADIENT, UPDATE, REST = "data", "forward", "backward", "gradient", "update", "rest"
PHASES = (DATA, FORWARD, BACKWARD, GRADIENT, UPDATE, REST)  # "gradient": both passes, where they are one compiled graph
RANGE = "wellfit: "  # how the parts are called in a trace
STEP = f"{RANGE}step"


class TooLong(Exception):
    """A short training that was left because it took longer than it may."""


@dataclass(frozen=True)
class Stretch:
    """Steps that were timed. `phases`: part -> seconds in each step."""

    phases: Mapping[str, tuple[float, ...]]
    samples: float  # in a step, over all ranks
    weight: float  # targets in a step, over all ranks
    losses: tuple[float, ...]  # of every step, the warm-up included
    notes: tuple[str, ...]
    settled: float  # seconds of the first step of the warm-up, which compiles and starts what there is to start
    crowded: float = 0.0  # share of the time in which other programs had the processor

    @property
    def each(self) -> tuple[float, ...]:
        """Seconds of each step."""
        return tuple(map(sum, zip(*self.phases.values(), strict=True)))

    @property
    def seconds(self) -> float:
        """Of a step, the mean."""
        return fmean(self.each)

    @property
    def typical(self) -> float:
        """Of a step, for comparing: the median of what is computed, which a disturbance leaves alone, and the mean of what is waited for
        data, which comes in bursts.
        """
        waits = self.phases[DATA]
        return fmean(waits) + median(whole - wait for whole, wait in zip(self.each, waits, strict=True))

    def mean(self, phase: str) -> float:
        """Seconds a step in this part."""
        return fmean(self.phases[phase])


class Stopwatch:
    """A `Recorder` that notes when each step ended, and which verb had the floor in between. `limit`: seconds, for all of it.

    `comparing`: only waiting for data is told from the rest, and the clock stands still while other programs have the processor.
    `began` and `ended` are called right before the first timed step and after the last. `naming`: the parts are named for a profiler.
    """

    checkpoints = None
    first = True

    def __init__(
        self,
        job: Job,
        *,
        warm: int,
        steps: int,
        limit: float = math.inf,
        comparing: bool = False,
        naming: bool = False,
        began: Callable[[], object] | None = None,
        ended: Callable[[], object] | None = None,
    ):
        self.job, self.warm, self.steps, self.limit, self.naming = job, warm, steps, limit, naming
        self.began, self.ended, self.comparing = began, ended, comparing
        self.probe, self.finite, self.tolerant = Blind(), True, False
        self.notes: list[str] = []
        self._clock = _Clock(job.device, comparing)
        self._marks: list[tuple[str, Any]] = []  # the part that begins there
        self._cuts: list[int] = []  # marks at which a step ends
        self._open: list[record_function] = []
        self._losses: list[list[Tensor]] = []
        self._weights: list[float | Tensor] = []
        self._samples: list[int] = []
        self._aheads: list[int] = []  # batches that lie ready, after each timed step
        self._started, self._settled = time.perf_counter(), 0.0
        self._queued = self._lasted = (
            0.0  # seconds without a processor, and in all, from the first timed step to the last
        )

    @property
    def total(self) -> int:
        """Steps to be taken."""
        return self.warm + self.steps

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """The job's verbs say when they begin and end, inside the block."""
        job = self.job
        verbs: list[tuple[Any, str, str, str]] = [(job.batches, "take", DATA, REST)]
        others: list[tuple[Any, str, str, str]] = [
            (job.precision, "unscale", UPDATE, REST),
            (job.gradients, "clip", UPDATE, REST),
            (job.precision, "step", UPDATE, REST),
            (job.gradients, "clear", UPDATE, REST),
        ]
        if (
            job.recipe.hardware.compile
        ):  # the graph must not be told apart: what lies between two verbs outside of it is the graph
            others.append((job, "share", REST, GRADIENT))
        else:
            others += [(job.task, "loss", FORWARD, REST), (job.precision, "backward", BACKWARD, REST)]
        verbs += [] if self.comparing else others
        self._started = time.perf_counter()
        try:
            for of, name, during, behind in verbs:
                object.__setattr__(of, name, self._timed(getattr(of, name), during, behind))
            yield
        finally:
            for of, name, *_ in verbs:
                with contextlib.suppress(AttributeError):
                    object.__delattr__(of, name)
            while self._open:
                self._open.pop().__exit__(None, None, None)
            self._clock.wait()

    def stretch(self) -> Stretch:
        """What was timed, when all steps have been taken."""
        seconds: dict[str, list[float]] = {phase: [0.0] * self.steps for phase in PHASES}
        step, cuts = 0, set(self._cuts)
        for i, ((phase, mark), (_, after)) in enumerate(zip(self._marks, self._marks[1:], strict=False)):
            seconds[phase][step] += self._clock.between(mark, after)
            step += i + 1 in cuts
        # Batches that the last gathering fetched along, and that lie ready for later steps, are paid for by those.
        aheads = self._aheads
        last = max(i for i in range(self.steps) if i == 0 or aheads[i] != aheads[i - 1] - 1)
        seconds[DATA][last] *= (self.steps - last) / (self.steps - last + aheads[-1])
        sums = [math.fsum(float(loss) for loss in losses) for losses in self._losses]
        weights = [float(weight) for weight in self._weights]
        timed = slice(self.warm, None)
        return Stretch(
            {phase: tuple(spent) for phase, spent in seconds.items()},
            fmean(self._samples[timed]),
            fmean(weights[timed]),
            tuple(total / max(weight, 1e-12) for total, weight in zip(sums, weights, strict=True)),
            tuple(self.notes),
            self._settled,
            min(1.0, self._queued / max(self._lasted, 1e-9)),
        )

    # ---- the parts

    def _timed(self, verb: Callable[..., Any], during: str, behind: str) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self._turn(during)
            try:
                return verb(*args, **more)
            finally:
                self._turn(behind)

        return call

    def _turn(self, phase: str) -> None:
        """From here on it is this part."""
        if not self._marks or len(self._cuts) >= self.steps:
            return
        if self.naming and len(self._open) > 1:
            self._open.pop().__exit__(None, None, None)
        self._marks.append((phase, self._clock.mark()))
        if self.naming and phase != REST:
            self._name(f"{RANGE}{phase}")

    def _name(self, name: str) -> None:
        opened = record_function(name)
        opened.__enter__()  # type: ignore[no-untyped-call]
        self._open.append(opened)

    # ---- as a recorder

    def add(
        self,
        step: int,
        losses: list[Tensor],
        weight: float | Tensor,
        grad_norm: Tensor,  # noqa: ARG002
        learning_rate: float,  # noqa: ARG002
        updated: bool,  # noqa: ARG002
        waited: float,  # noqa: ARG002 - it is timed here, with the rest
    ) -> None:
        self._losses.append(losses)
        self._weights.append(weight)
        self._samples.append(_samples(self.job, step - 1))
        if self._marks and len(self._cuts) < self.steps:
            self._turn(REST)
            self._cuts.append(len(self._marks) - 1)
            while self._open:
                self._open.pop().__exit__(None, None, None)
            self._aheads.append(getattr(self.job.batches, "ahead", 0))
            if len(self._cuts) == self.steps:
                self._queued += queued_seconds()
                self._lasted += time.perf_counter()
                if self.ended is not None:
                    self._clock.wait()
                    self.ended()
            elif self.naming:
                self._name(STEP)
        now = time.perf_counter() - self._started
        if step == 1:
            self._settled = now
        if step == self.warm:
            self._begin()
        if now > self.limit and len(self._cuts) < self.steps:
            raise TooLong

    def _begin(self) -> None:
        batches = self.job.batches
        if getattr(batches, "ahead", 0):  # so that what is gathered at once is gathered in a step that is timed
            batches.load_state_dict(batches.state_dict())
        self._clock.wait()
        if self.began is not None:
            self.began()
        self._queued, self._lasted = -queued_seconds(), -time.perf_counter()
        self._marks.append((REST, self._clock.mark()))
        if self.naming:
            self._name(STEP)

    def flush(self) -> bool:
        return True

    def emit(self, event: Event) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def save_is_overdue(self) -> bool:
        return False

    def save(self, job: Job, best: bool) -> None: ...
    def back_to(self, step: int, best: int | None) -> None: ...


class _Clock:
    """Marks in a device's time, and the seconds between two of them."""

    def __init__(self, device: str, comparing: bool):
        self.device, self.comparing, self.queued = device, comparing, device.startswith("cuda")

    def mark(self) -> Any:
        if not self.queued:
            self.wait()
            return time.perf_counter() - (queued_seconds() if self.comparing else 0.0)
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, first: Any, last: Any) -> float:
        return float(first.elapsed_time(last)) / 1e3 if self.queued else last - first

    def wait(self) -> None:
        """Until the device has done all that was asked of it; free on a CPU."""
        if self.queued:
            torch.cuda.synchronize(self.device)
        elif not self.device.startswith("cpu"):
            torch.accelerator.synchronize()


def _samples(job: Job, step: int) -> int:
    """How many samples the step-th batch from the start holds, over all ranks."""
    batches = job.batches
    if isinstance(batches, Cut):
        starts = batches.order.starts
        at = step % (len(starts) - 1)
        return starts[at + 1] - starts[at]
    return job.recipe.training.batch_size or 1
