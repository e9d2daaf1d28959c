"""A run's journal, told to a tracker: events in, rows of named numbers and short texts out.

What is sent is decided here, once for all trackers; what each makes of it is in the file of its name. All of it comes from the
journal, times included: `Started` has the clock's time and each `Paced` says how long its steps took. So a run that is told while it
trains and the same run told long after give the same rows, and a row that is sent twice is the same row.

Not here: how a row reaches its place, and what may go wrong on the way.

    >>> teller = Teller(run, place)
    >>> for event in run.events(): teller.see(event)
    >>> teller.end()
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Started, Stepped, Vitals
from wellfit.run import ENVIRONMENT, Run

FACTS = (
    "steps", "steps_per_epoch", "parameters", "trainable", "train_samples", "valid_samples", "batch_size",
    "micro_batch_size", "gradient_accumulation_steps", "world", "device", "precision",
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """What is known of a run before its first step. `recipe`: every setting by its dotted path."""

    id: str  # the same for the same run, wherever its folder is moved to
    name: str
    folder: str
    recipe: Mapping[str, Any]
    facts: Mapping[str, Any]
    time: float


@dataclass(frozen=True)
class Ending:
    """How a run stands when nothing more is to be told. `reason` is empty where it was killed, or still goes on."""

    reason: str
    step: int
    time: float
    best_step: int | None
    best_value: float | None
    scores: Mapping[str, float]
    findings: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """What is told of the end in numbers."""
        told = {"best/step": self.best_step, "best/value": self.best_value}
        return {name: float(value) for name, value in told.items() if value is not None}

    @property
    def text(self) -> str:
        """The end, the findings and the notes, as Markdown."""
        how = f"Ended: {self.reason}" if self.reason else "Not ended"
        best = f" The best step was {self.best_step:,}." if self.best_step is not None else ""
        parts = [f"{how}, at step {self.step:,}.{best}"]
        parts += [f"- {finding_told(finding)}" for finding in self.findings]
        return "\n\n".join([*parts, *(f"Note: {note}" for note in self.notes)])


class Place(Protocol):
    """What a tracker does with what it is told. Steps count from 1, times are seconds since the epoch."""

    where: str  # how a person looks at it, once it has begun

    def begin(self, story: Story) -> None: ...
    def row(self, step: int, time: float, values: Mapping[str, float]) -> None: ...
    def text(self, step: int, time: float, name: str, text: str) -> None: ...
    def back_to(self, step: int, time: float) -> None:
        """The training went back by itself: what was told of later steps is void, and they come again."""

    def flush(self) -> None: ...
    def end(self, ending: Ending) -> None: ...


@dataclass
class Teller:
    """Tells one run to one place."""

    run: Run
    place: Place
    clock: float = 0.0
    _begun: bool = False
    _reached: int = 0
    _waiting: list[Stepped] = field(default_factory=list)  # until it is known how long they took
    _ended: Ended | None = None
    _scores: dict[str, float] = field(default_factory=dict)
    _notes: dict[str, None] = field(default_factory=dict)

    def see(self, event: Event) -> None:
        """Tells an event, in the order of the journal."""
        match event:
            case Started():
                self._start(event)
            case Stepped():
                self._waiting.append(event)
                self._reached = max(self._reached, event.step)
            case Paced():
                self._settle(event.seconds_per_step)
                self.place.row(event.step, self.clock, _speed(event))
            case Evaluated():
                self._settle()
                whose = "" if event.of == "model" else f"/{event.of}"
                scores = {f"{event.split}/{name}{whose}": value for name, value in event.metrics.items()}
                self._scores |= scores
                if scores:
                    self.place.row(event.step, self.clock, scores)
            case Noted() if event.text not in self._notes:
                self._settle()
                self._notes[event.text] = None
                if self._begun:
                    self.place.text(event.step, self.clock, "notes", event.text)
            case Ended():
                self._settle()
                self._ended = event
            case Vitals():  # of layers, for the doctor; the report draws them
                pass

    def flush(self) -> None:
        """What was told is on its way; steps whose time is not known yet wait."""
        if self._begun:
            self.place.flush()

    def end(self) -> None:
        """Nothing more comes, for now. Findings are read from the run's folder."""
        if not self._begun:
            self._begin({}, 0.0)
        self._settle()
        findings = tuple(self.run.findings())
        for finding in findings:
            onset = finding.get("onset_step")
            step = onset if isinstance(onset, int) else 0
            self.place.text(step, self.clock, f"findings/{finding['id']}", finding_told(finding))
        ended = self._ended
        ending = Ending(
            ended.reason if ended is not None else "", ended.step if ended is not None else self._reached, self.clock,
            ended.best_step if ended is not None else None, ended.best_value if ended is not None else None,
            self._scores, findings, tuple(self._notes),
        )  # fmt: skip
        self.place.end(ending)

    def _start(self, event: Started) -> None:
        self._settle()
        self._ended = None
        self.clock = event.time
        if not self._begun:
            self._begin({name: getattr(event, name) for name in FACTS}, event.time)
        elif event.step < self._reached:
            self.place.back_to(event.step, self.clock)
        self._reached = event.step

    def _begin(self, facts: Mapping[str, Any], time: float) -> None:
        self.place.begin(
            Story(identity(self.run), self.run.folder.resolve().name, str(self.run.folder), self.run.recipe.flat(), facts, time)
        )  # fmt: skip
        self._begun = True
        for note in self._notes:  # those of before the start
            self.place.text(0, self.clock, "notes", note)

    def _settle(self, seconds: float = 0.0) -> None:
        """Steps whose time is known now."""
        for step in self._waiting:
            self.clock += seconds if math.isfinite(seconds) else 0.0
            values = {
                "train/loss": step.loss,
                "train/grad_norm": step.grad_norm,
                "train/learning_rate": step.learning_rate,
            }
            self.place.row(step.step, self.clock, values)
        self._waiting.clear()


def identity(run: Run) -> str:
    """Of a run: what its folder was made with, when and where; of a folder that has lost that, its path."""
    try:
        made = (run.folder / ENVIRONMENT).read_bytes()
    except OSError:
        made = str(run.folder.resolve()).encode()
    return hashlib.sha256(made).hexdigest()[:16]


def finding_told(finding: Mapping[str, Any]) -> str:
    """A finding in one paragraph, with the first thing to do."""
    remedies = finding.get("remedies")
    first = remedies[0] if isinstance(remedies, list) and remedies and isinstance(remedies[0], Mapping) else {}
    onset = f" from step {finding['onset_step']}" if "onset_step" in finding else ""
    return f"{finding['severity']}{onset}: {finding['id']}. {finding['says']} {first.get('words', '')}".rstrip()


def setting(value: Any, most: int = 500) -> str | int | float | bool:
    """A setting as trackers take it: numbers stay numbers, everything else is text of at most so many characters."""
    if isinstance(value, (bool, int, float)):
        return value
    told = "none" if value is None else str(value)
    return told if len(told) <= most else told[: most - 1] + "…"


def _speed(event: Paced) -> dict[str, float]:
    told: dict[str, float | None] = {
        "speed/seconds_per_step": event.seconds_per_step,
        "speed/samples_per_second": event.samples_per_second,
        "speed/tokens_per_second": event.tokens_per_second,
        "speed/data_wait": event.data_wait,
        "speed/memory_bytes": event.memory_bytes,
        "speed/utilization": event.utilization,
    }
    return {name: float(value) for name, value in told.items() if value is not None}
