"""What is remembered of one training: bounded series of its steps, and the last measurements of each thing.

The rules read nothing else. It is filled from events (`Stepped`, `Evaluated`, `Vitals`, ...), live or from a recorded
file, and stays small however long the run is: a series keeps its first steps, its last ones, and every n-th between.

What `Vitals.about` can be, and which values belong to it, is said where each is measured (`measure.py`, `watch.py`).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from wellfit.events import Evaluated, Paced, Started, Stepped, Vitals

FIRST, BETWEEN, LAST = 128, 1024, 512
KEPT = 96
SLOW = 300  # steps that loaded weights may take to show that they learn


class Series:
    """Numbers by step: the first 128, the last 512, and evenly thinned ones between."""

    def __init__(self) -> None:
        self.first: list[tuple[int, float]] = []
        self.between: list[tuple[int, float]] = []
        self.last: deque[tuple[int, float]] = deque(maxlen=LAST)
        self._every = 1
        self.count = 0

    def add(self, step: int, value: float) -> None:
        """Appends; older numbers are thinned when there are too many."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append((step, value))
            return
        if len(self.last) == LAST:
            old = self.last[0]
            if self.count % self._every == 0:
                self.between.append(old)
            if len(self.between) > BETWEEN:
                self.between = self.between[::2]
                self._every *= 2
        self.last.append((step, value))

    def __len__(self) -> int:
        return self.count

    def points(self) -> list[tuple[int, float]]:
        """All that is kept, in order."""
        return [*self.first, *self.between, *self.last]

    def values(self) -> list[float]:
        """The finite numbers that are kept, in order."""
        return [value for _, value in self.points() if math.isfinite(value)]

    def recent(self, count: int) -> list[float]:
        """The last `count` numbers."""
        tail = list(self.last)[-count:] if self.last else []
        if len(tail) < count:
            tail = self.first[-(count - len(tail)) :] + tail
        return [value for _, value in tail]


@dataclass
class History:
    """One training: what its optimizer did, or one run of wellfit."""

    of: str = ""
    step: int = 0
    ended: bool = False
    evaluated_elsewhere: bool = False  # another training of the same program has evaluations
    started: Started | None = None
    losses: Series = field(default_factory=Series)
    rates: Series = field(default_factory=Series)
    norms: Series = field(default_factory=Series)
    told: dict[str, dict[str, deque[Vitals]]] = field(default_factory=dict)
    evaluations: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # stream -> (step, loss)
    rights: list[tuple[int, float, float]] = field(default_factory=list)  # step, accuracy on held-out data, its samples
    tested: dict[str, dict[str, float]] = field(default_factory=dict)  # "model" or a yardstick -> its last test scores
    tested_on: int = 0  # test samples, where it is known
    spent: float = 0.0  # seconds of the counted steps, and of them those that passed without a batch
    waited: float = 0.0
    waited_steps: int = 0
    gap: float = 0.0
    paces: deque[Paced] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, event: Stepped | Evaluated | Paced | Started | Vitals) -> None:
        """Remembers an event."""
        if isinstance(event, Stepped):
            self.step = event.step
            self.losses.add(event.step, event.loss)
            self.rates.add(event.step, event.learning_rate)
            if math.isfinite(event.grad_norm) and event.grad_norm >= 0:
                self.norms.add(event.step, event.grad_norm)
        elif isinstance(event, Vitals):
            things = self.told.setdefault(event.about, {})
            self._right(event)
            if event.name in things or len(things) < 4 * KEPT:
                things.setdefault(event.name, deque(maxlen=KEPT)).append(event)
        elif isinstance(event, Evaluated):
            if event.split == "test":
                self.tested[event.of] = dict(event.metrics)
                self.tested_on = max(self.tested_on, event.samples)
            if event.of == "model" and event.split == "valid" and "loss" in event.metrics:
                self.evaluated("valid", event.step, event.metrics["loss"])
                self._right(event)
        elif isinstance(event, Paced):
            self.paces.append(event)
        else:
            self.started = event

    def passed(self, steps: list[tuple[int, float, float]]) -> None:
        """Remembers step, loss and learning rate of many steps."""
        for step, loss, rate in steps:
            self.losses.add(step, loss)
            self.rates.add(step, rate)
        if steps:
            self.step = steps[-1][0]

    def evaluated(self, stream: str, step: int, loss: float) -> None:
        """Remembers a loss on held-out data."""
        if stream in self.evaluations or len(self.evaluations) < 16:
            scores = self.evaluations.setdefault(stream, [])
            scores.append((step, loss))
            if len(scores) > 1024:
                scores[:] = scores[::2]

    def _right(self, event: Evaluated | Vitals) -> None:
        """Remembers how much was right on held-out data, where that and the number of samples are known."""
        if isinstance(event, Evaluated):
            samples = event.samples or (self.started.valid_samples if self.started is not None else 0)
            right, of = event.metrics.get("accuracy"), float(samples)
        else:
            known = event.values if event.about == "evaluation" else {}
            right, of = known.get("accuracy"), known.get("scored", 0.0)
        if right is not None and of and math.isfinite(right):
            self.rights.append((event.step, right, of))
            if len(self.rights) > 1024:
                self.rights[:] = self.rights[::2]

    def names(self, about: str) -> list[str]:
        """Which things of this kind were measured."""
        return list(self.told.get(about, ()))

    def all(self, about: str, name: str | None = None) -> list[Vitals]:
        """The measurements of a kind of thing, oldest first of each."""
        things = self.told.get(about, {})
        if name is not None:
            return list(things.get(name, ()))
        return [vitals for one in things.values() for vitals in one]

    def latest(self, about: str, name: str | None = None) -> Vitals | None:
        """The last measurement."""
        found = self.all(about, name)
        return max(found, key=lambda vitals: vitals.step, default=None)

    # ---- what rules ask for often

    def fell(self) -> float:
        """By which share of its first value the loss has fallen: smoothed, 0 for nothing, negative where it rose."""
        values = self.losses.values()
        if len(values) < 4:
            return 0.0
        window = max(1, min(16, len(values) // 8))
        first, last = sum(values[:window]) / window, sum(values[-window:]) / window
        return (first - last) / max(abs(first), 1e-12)

    def shrunk(self) -> float:
        """The share of their length that weight decay has left to most weight matrices; 1 where there is little decay."""
        decay = max((v.values.get("weight_decay", 0.0) for v in self.all("optimizer")), default=0.0)
        norms = [[v.values["weight_norm"] for v in self.all("layer", name)] for name in self.names("layer")]
        shares = [found[-1] / found[0] for found in norms if found[0] > 0]
        return statistics.median(shares) if decay >= 0.05 and len(shares) >= 2 else 1.0

    def pretrained(self) -> bool:
        """Whether most of the model was loaded with weights that had been trained, so that little need change."""
        tuning = self.latest("tuning", "weights")
        told = tuning is not None and tuning.values["loaded"] >= 0.5 and tuning.values["experience"] >= 0.5
        return told or (self.started is not None and self.started.trained_before)

    def knew_before(self) -> bool | None:
        """Whether the first loss was well below that of a model that knows nothing; None where neither is known."""
        first = [v.values for v in self.all("loss") if v.step <= 1 and "mean_loss" in v.values]
        if not first:
            return None
        x = first[0]
        chance = math.log(x["classes"]) if x.get("classes", 0) >= 2 else x.get("target_std", 0.0) ** 2
        return x["mean_loss"] < 0.6 * chance

    def rewarded(self) -> bool:
        """Whether the program learns a policy from rewards, so that losses chase moving targets and need not fall."""
        return bool(self.names("rewards"))

    def adversarial(self) -> bool:
        """Whether several optimizers play against each other, so that no loss need fall."""
        return any(vitals.values.get("rivals", 0) > 0 for vitals in self.all("structure"))
