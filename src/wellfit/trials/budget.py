"""What a cure may cost, how long its trials are, and what it has cost so far; everything that is trained counts.

The proof is at full length and is set aside first. What is left decides the length of a trial: that of a run, or, where that would
allow too few of them, less. A comparison that has begun is ended, so the cost may pass the limit by one.

    >>> budget = Budget.of(run, seeds=3, steps=None, minutes=None)
    >>> budget.length, budget.is_spent
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from wellfit.errors import RunError
from wellfit.events import Paced, Started
from wellfit.report.words import last
from wellfit.run import Run
from wellfit.trials.candidates import FEW
from wellfit.trials.trial import outcome

UNASKED = 600.0, 10  # what trials may cost where nothing is said: seconds, or in place of that so many runs
ENOUGH = 0.7  # of a run's length: trials that could be so long are as long as it
SHORTEST, LEAST = 0.1, 60  # of a run's length, and steps of a trial


@dataclass
class Budget:
    """Optimizer steps and time."""

    full: int  # steps of a run
    length: int  # steps of a trial
    limit: float  # steps that trials may take, the proof not among them
    until: float = math.inf  # time.perf_counter() at which to stop
    spent: dict[str, int] = field(default_factory=dict)  # folder of a trial, or what was measured -> steps

    @classmethod
    def of(cls, run: Run, *, seeds: int, steps: int | None, minutes: float | None) -> "Budget":
        """Of a run that is over. Raises RunError for what is no budget."""
        for value, name, unit in ((steps, "--steps", "steps"), (minutes, "--minutes", "minutes")):
            if value is not None and not 0 < value < math.inf:
                raise RunError(f"`{name} {value:g}` is no budget; say how many {unit} all trials may take, above 0.")
        if steps is not None and minutes is not None:
            raise RunError("Both `--steps` and `--minutes` were given; a budget is in one of them.")
        events = run.events()
        started, ended = last(events, Started), run.ended()
        assert started is not None
        assert ended is not None
        full, proof = started.steps, 2 * seeds * started.steps
        paces = [event.seconds_per_step for event in events if isinstance(event, Paced) and event.seconds_per_step > 0]
        pace = median(paces) if paces else ended.seconds / max(1, ended.step)
        seconds, runs = UNASKED
        if minutes is not None:
            total = 60 * minutes / max(pace, 1e-9)
        else:
            total = float(steps if steps is not None else max(runs * full + proof, seconds / max(pace, 1e-9)))
        limit = max(0.0, total - proof)
        usual = 2 * (FEW + seeds) + seeds  # trials of a fault that takes two changes
        share = min(1.0, limit / (usual * full))
        length = full if share > ENOUGH else min(full, max(LEAST, math.ceil(full * max(share, SHORTEST))))
        return cls(full, length, limit, time.perf_counter() + 60 * minutes if minutes is not None else math.inf)

    @property
    def steps(self) -> int:
        return sum(self.spent.values())

    @property
    def is_spent(self) -> bool:
        return self.steps >= self.limit or time.perf_counter() >= self.until

    def count(self, folder: Path) -> None:
        """What the run of a trial took; once, however often it is named."""
        reached = outcome(folder, "valid")
        self.spent[str(folder)] = reached.steps if reached is not None else 0
