"""What a run's folder says at a glance: how it stands, how far it came, its scores and findings. Fast enough for hundreds of runs.

Only the beginning and the end of the journal are read, and no recipe: a journal of a million steps costs as much as one of ten. What
takes the whole of it is `Run.events`. A run that is being trained, was killed, or is torn is told as what it is.

    >>> glance(Run.open("runs/first")).state
    'finished'
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wellfit import untrusted
from wellfit.events import DOCTOR, Ended, Evaluated, Event, Started, decode
from wellfit.run import EVENTS, Run, is_held

# Bytes: of the beginning, of the end, and of the end where that holds no score.
HEAD, TAIL, MOST = 1 << 14, 1 << 16, 1 << 20
WHOLE = 1 << 25  # up to so many bytes of a run that has not ended are searched for what the doctor noted
DULL = tuple(f'{{"event": "{kind}"'.encode() for kind in ("Stepped", "Paced", "Vitals", "Saved"))
SEVERITIES = ("error", "warning", "advice")

BROKEN = "unreadable"
BEING_TRAINED, KILLED, NOT_BEGUN = "training", "killed", "not begun"  # or the `reason` of `events.Ended`


@dataclass(frozen=True)
class Glance:
    """How a run stands. `metrics`: of the test part, or of the validation part at the best step that was seen."""

    folder: Path
    state: str
    step: int = 0
    steps: int = 0  # planned
    began: float | None = None  # seconds since the epoch
    split: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_step: int | None = None
    best_value: float | None = None
    findings: Mapping[str, int] = field(default_factory=dict)  # severity -> how many

    @property
    def name(self) -> str:
        return self.folder.name


def glance(run: Run) -> Glance:
    """How a run stands now. Never raises for what is in the folder: what cannot be read is told as that."""
    path = run.folder / EVENTS
    try:
        with untrusted.opened(path) as file:
            return _looked(run, file)
    except FileNotFoundError:
        return Glance(run.folder, NOT_BEGUN)
    except OSError:
        return Glance(run.folder, BROKEN)


# ---- inside


@dataclass
class _Seen:
    """What the end of a journal told so far, read from its last line on."""

    ended: Ended | None = None
    resumed: Started | None = None
    test: Evaluated | None = None
    valid: Evaluated | None = None
    step: int = 0
    lines: int = 0

    @property
    def enough(self) -> bool:
        best = self.ended.best_step if self.ended is not None else None
        scored = self.test is not None or (self.valid is not None and best in (None, self.valid.step))
        return bool(self.step) and scored

    def see(self, event: Event) -> None:
        if self.resumed is not None and event.step > self.resumed.step:
            return  # it was done again
        match event:
            case Started():
                self.resumed = self.resumed or event
            case Ended():
                if self.resumed is None:
                    self.ended = event
            case Evaluated() if event.of == "model" and event.split == "test":
                self.test = self.test or event
            case Evaluated() if event.of == "model" and event.split == "valid":
                best = self.ended.best_step if self.ended is not None else None
                if self.valid is None or event.step == best:
                    self.valid = event
        if not isinstance(event, Evaluated) or event.split == "valid":  # others are of the weights of an earlier step
            self.step = max(self.step, event.step)


def _looked(run: Run, file: IO[bytes]) -> Glance:
    size = file.seek(0, 2)
    first = next((event for event in _events(_first_lines(file)) if isinstance(event, Started)), None)
    seen = _seen(file, size, TAIL)
    if size > TAIL and not seen.enough:
        seen = _seen(file, size, MOST)
    ended, started = seen.ended, first or seen.resumed
    if ended is not None:
        state = ended.reason
    elif is_held(file):
        state = BEING_TRAINED
    elif started is not None:
        state = KILLED
    else:
        state = BROKEN if size else NOT_BEGUN
    scored = seen.test or seen.valid
    return Glance(
        run.folder, state, seen.step, started.steps if started is not None else 0, started.time if started is not None else None,
        scored.split if scored is not None else "", scored.metrics if scored is not None else {},
        ended.best_step if ended is not None else None, ended.best_value if ended is not None else None,
        _findings(run, file, size, ended is not None),
    )  # fmt: skip


def _first_lines(file: IO[bytes]) -> list[bytes]:
    file.seek(0)
    return file.read(HEAD).split(b"\n")[:-1]


def _seen(file: IO[bytes], size: int, most: int) -> _Seen:
    """Reads the last `most` bytes backwards, until enough is known."""
    file.seek(max(0, size - most))
    lines = file.read(most).split(b"\n")
    if size > most:
        lines = lines[1:]  # it is cut in the middle
    seen = _Seen()
    for line in reversed(lines):
        if line.startswith(DULL) and seen.step and seen.resumed is None:  # it tells nothing more
            seen.lines += 1
            continue
        for event in _events([line]):
            seen.see(event)
            seen.lines += 1
        if seen.enough:
            break
    return seen


def _events(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            yield decode(line.decode("utf-8", "replace"))
        except ValueError:
            continue


def _findings(run: Run, file: IO[bytes], size: int, over: bool) -> dict[str, int]:
    """How many of each severity: of the file of findings, or, before there is one, of what the doctor noted."""
    counts = dict.fromkeys(SEVERITIES, 0)
    found = run.findings()
    for finding in found:
        severity = finding["severity"]
        if severity in counts:
            counts[severity] += 1
    if not found and not over and size <= WHOLE:
        file.seek(0)
        content = file.read()
        for severity in SEVERITIES:
            counts[severity] = content.count(f'"text": {json.dumps(f"{DOCTOR}{severity} from step")[:-1]}'.encode())
    return counts
