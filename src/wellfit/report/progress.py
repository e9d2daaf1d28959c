"""A run as it goes on: a live bar on a terminal, plain lines elsewhere.

An observer: it is called with every event and changes nothing. It starts no thread and takes over no stream; what it
shows is drawn anew when events arrive, which is once per log interval.

    >>> wellfit.fit_recipe("digits", observers=[Progress(sys.stdout)], quiet=True)
"""

import atexit
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Started, Stepped
from wellfit.report.words import SPLITS, amount, clean, count, duration, number, plain, told

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

ENDS = {
    "finished": "Finished",
    "early-stopping": "Stopped early, as the validation score no longer improved,",
    "interrupted": "Interrupted",
    "loss-not-finite": "Failed, as the loss or its gradient was not a finite number,",
}


class Progress:
    """Shows a run on `stream` (standard error unless told). `tty`: as a live bar; found out from the stream if None.

    `clock` gives seconds. A pipe gets a line at the start, for each evaluation, for each note and at the end, and at
    most one every `seconds_between_lines` otherwise; never a control character.
    """

    seconds_between_lines, seconds_between_drawings = 10.0, 0.1

    def __init__(
        self, stream: TextIO | None = None, *, tty: bool | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self.stream = sys.stderr if stream is None else stream
        self.tty = self.stream.isatty() if tty is None else tty
        self.clock = clock
        self._step = self._steps = self._first = 0
        self._losses: list[float] = []  # since they were last shown
        self._loss = self._last = ""
        self._rate = self._norm = self._pace = ""
        self._began = self._shown = clock()
        self._notes: set[str] = set()
        self._bar: Bar | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Stepped():
                self._step = event.step
                self._losses.append(event.loss)
                self._rate, self._norm = number(event.learning_rate), number(event.grad_norm)
            case Paced():
                pace = 1 / event.seconds_per_step if event.seconds_per_step > 0 else math.nan
                self._pace = f"{pace:,.3g} steps/s" if math.isfinite(pace) else ""
                wait = self.seconds_between_drawings if self.tty else self.seconds_between_lines
                if self.clock() - self._shown >= wait:
                    self._show()
            case Evaluated():
                self._evaluated(event)
            case Noted() if event.text not in self._notes:
                self._notes.add(event.text)
                self._print(f"Note: {event.text}")
            case Ended():
                self._end(event)

    # ---- events

    def _start(self, event: Started) -> None:
        self._step = self._first = event.step
        self._steps, self._began = event.steps, self.clock()
        self._shown = self._began
        begins = (
            f"Going on at step {event.step:,} of {event.steps:,}"
            if event.step
            else f"Training {count(event.steps, 'step')}"
        )
        self._print(
            f"{begins}, {count(event.batch_size, 'sample')} each{self._cut(event)}, on {event.device} in {event.precision}: "
            f"{count(event.trainable, 'trainable parameter')}, {count(event.train_samples, 'training sample')}."
        )
        if self.tty:
            self._open_bar()

    @staticmethod
    def _cut(event: Started) -> str:
        """How a batch is cut, where it is: micro-batch x accumulation x ranks."""
        if event.gradient_accumulation_steps == 1 and event.world == 1:
            return ""
        ranks = f" x {event.world} ranks" if event.world > 1 else ""
        return f" ({event.micro_batch_size} x {event.gradient_accumulation_steps} accumulation steps{ranks})"

    def _evaluated(self, event: Evaluated) -> None:
        where = SPLITS.get(event.split, event.split)
        if event.of == "model" and event.split == "valid" and event.metrics:
            name = told(event.metrics)
            self._last = f"{where} {plain(name)} {amount(name, event.metrics[name])}"
        if self.tty:
            self._show()
            return
        who = "" if event.of == "model" else f"{event.of}, "
        line = f"step {event.step:,}/{self._steps:,}  {who}{where} {_listed(event.metrics)}"
        if event.split == "valid" and event.of == "model":
            training = f"(training loss {self._mean()})" if self._mean() else ""
            line = "  ".join(filter(None, [line, training, self._left()]))
            self._losses.clear()
            self._shown = self.clock()
        self._print(line)

    def _end(self, event: Ended) -> None:
        if self._bar is not None:
            self._show()
        self._close_bar()
        best = f" The best step was {event.best_step:,}." if event.best_step is not None else ""
        self._print(
            f"{ENDS.get(event.reason, event.reason)} at step {event.step:,} after {duration(event.seconds)}.{best}"
        )

    # ---- what is shown

    def _show(self) -> None:
        self._shown = self.clock()
        parts = [
            f"loss {self._mean()}" if self._mean() else "",
            self._last if self.tty else "",
            self._left(),  # a narrow terminal cuts off what comes last
            self._pace,
            f"lr {self._rate}" if self._rate else "",
            f"grad norm {self._norm}" if self._norm else "",
        ]
        text = "  ".join(filter(None, parts))
        self._losses.clear()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._step, told=clean(text))
            self._bar.refresh()
        elif not self.tty:
            self._print(f"step {self._step:,}/{self._steps:,}  {text}")

    def _mean(self) -> str:
        """The mean loss of the steps since it was last shown; a sum that overflows is infinite and raises nothing."""
        if self._losses:
            self._loss = number(sum(self._losses) / len(self._losses))
        return self._loss

    def _left(self) -> str:
        """Time left at the pace so far, evaluations included."""
        done = self._step - self._first
        if done <= 0 or self._step >= self._steps:
            return ""
        return f"{duration((self.clock() - self._began) / done * (self._steps - self._step))} left"

    def _print(self, text: str) -> None:
        text = clean(text)
        if self._bar is not None:  # above the bar
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        self.stream.flush()

    # ---- the bar

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        self._close_bar()
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TextColumn(
                "{task.fields[told]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=Console(file=self.stream, force_terminal=True),
            expand=True,
            auto_refresh=False,  # no thread beside the training
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar.add_task("", total=self._steps, completed=self._step, told="")
        atexit.register(self._close_bar)  # a run that dies must not leave the terminal without its cursor
        self._bar.start()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            atexit.unregister(self._close_bar)


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{plain(name)} {amount(name, value)}" for name, value in metrics.items())
