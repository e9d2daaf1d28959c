"""The run folder: everything a run was decided by and everything that happened in it.

    runs/2026-11-22-1015-digits-convnet/
      recipe.yaml  environment.json  task.json  events.jsonl  findings.jsonl  review.json  memory.json  checkpoints/  report.html

It can be copied, mailed and deleted; nothing in it is ever executed. This file reads and writes the folder and knows
nothing of training.

    >>> run = Run.open("runs/2026-11-22-1015-digits-convnet")
    >>> run.metrics()["loss"][-1], run.recipe.training.seed
"""

import contextlib
import errno
import json
import re
import secrets
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from wellfit import untrusted
from wellfit.errors import RunError
from wellfit.events import (
    LARGEST,
    Ended,
    Evaluated,
    Event,
    Noted,
    Paced,
    Saved,
    Started,
    Stepped,
    Vitals,
    decode,
    encode,
)
from wellfit.recipe import Recipe, nearest
from wellfit.whole import write

RECIPE, ENVIRONMENT, TASK, EVENTS, FINDINGS, REVIEW, MEMORY, CHECKPOINTS = (
    "recipe.yaml",
    "environment.json",
    "task.json",
    "events.jsonl",
    "findings.jsonl",
    "review.json",
    "memory.json",
    "checkpoints",
)

LONGEST = 1 << 20  # characters of a line of the journal; none that wellfit writes is so long


class Run:
    """A run on disk. `model` is the trained network, in the process that trained it; None when opened again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model: Any = None
        self.torn = 0  # unreadable lines of events.jsonl, found by the last `events()`

    @classmethod
    def create(
        cls, root: Path, recipe: Recipe, environment: dict[str, Any], task: dict[str, Any], folder: Path | None = None
    ) -> "Run":
        """A new folder below `root`, named by the time and the recipe, or exactly `folder`; it appears whole or not at all.

        Raises RunError if it cannot be written or `folder` is in use.
        """
        stem = re.sub(r"[^\w.-]+", "-", f"{time.strftime('%Y-%m-%d-%H%M')}-{recipe.name}").strip("-.")
        target = folder or root / stem
        if folder is not None and folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a run needs a folder of its own. Name another place.")
        if folder is not None and folder.exists() and any(folder.iterdir()):
            hint = f"`wellfit resume {folder}` goes on with it; " if (folder / RECIPE).exists() else ""
            raise RunError(
                f"The folder {folder} is not empty, and a new run would mix with what is in it. {hint}name another one."
            )
        unfinished = target.parent / f".{target.name}-{secrets.token_hex(4)}"
        try:
            unfinished.mkdir(parents=True)
            (unfinished / CHECKPOINTS).mkdir()
            (unfinished / RECIPE).write_text(recipe.dump(), encoding="utf-8")
            (unfinished / ENVIRONMENT).write_text(json.dumps(environment, indent=1), encoding="utf-8")
            (unfinished / TASK).write_text(json.dumps(task, indent=1), encoding="utf-8")
            for number in range(1, 1000):
                final = target if number == 1 else target.with_name(f"{target.name}-{number}")
                if final.exists() and (folder is None or any(final.iterdir())):
                    continue
                try:
                    unfinished.rename(final)
                    return cls(final)
                except OSError as error:  # another process was quicker with this name
                    if folder is not None or error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
        except OSError as error:
            raise RunError(
                f"The run folder {target} cannot be written: {error.strerror or error}. "
                "Choose another place with `--runs FOLDER`, or mend the permissions or the free space there."
            ) from None
        raise RunError(f"There are a thousand runs named {target} already; delete some, or give the recipe a `name`.")

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run. Raises RunError if the path is not one."""
        folder = Path(path)
        if (folder / RECIPE).is_file():
            return cls(folder)
        if not folder.exists():
            beside = [run.folder.name for run in runs(folder.parent)] if folder.parent.is_dir() else []
            raise RunError(
                f"There is no run at {folder}.{nearest(folder.name, beside)} `wellfit runs` lists those that are here."
            )
        inside = (
            f"`wellfit runs {shlex.quote(str(folder))}` lists those in it."
            if runs(folder)
            else "`wellfit runs` lists those that are here."
        )
        raise RunError(f"{folder} is not a run folder: it holds no {RECIPE}. {inside}")

    # ---- reading

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe, with who set each value. Raises RunError if nothing of it is left."""
        file = self.folder / RECIPE
        if file.is_file() and not file.stat().st_size:
            raise RunError(
                f"{file} is empty, so what was trained here is not known. Bring it back from a copy, or delete the run."
            )
        return Recipe.load(self.folder)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, hardware, command, code commit and data fingerprint."""
        return self._json(ENVIRONMENT)

    @property
    def task(self) -> dict[str, Any]:
        """What is needed to read new data the same way: classes, columns, sizes. Raises RunError if it cannot be read."""
        return self._json(TASK, needed=True)

    def events(self) -> list[Event]:
        """What happened, each thing once: what a resume redid counts as redone. Torn lines are counted in `torn`."""
        heard = Heard.of(self._lines())
        self.torn = heard.torn
        return heard.events()

    def findings(self) -> list[dict[str, Any]]:
        """What the doctor found, causes first: `id`, `severity`, `onset_step`, `confidence`, `says`, `evidence`, `remedies`."""
        try:
            lines = untrusted.content(self.folder / FINDINGS).decode("utf-8").splitlines()
        except (OSError, ValueError):
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                body = untrusted.parsed(line)
                if isinstance(body, dict) and {"id", "severity", "says"} <= body.keys():
                    found.append(_whole(body))
        return found

    def keep_findings(self, findings: Iterable[dict[str, Any]]) -> None:
        """Writes what was found, in place of what stood there; it appears whole or not at all."""
        self._keep(FINDINGS, "".join(json.dumps(f, ensure_ascii=False) + "\n" for f in findings))

    def review(self) -> dict[str, Any]:
        """What the network gets wrong on held-out data, as `train/review.py` tells it; empty where that was not looked at."""
        return self._json(REVIEW)

    def keep_review(self, review: dict[str, Any]) -> None:
        """Writes what was looked at, in place of what stood there; it appears whole or not at all."""
        self._keep(REVIEW, json.dumps(review))

    def memory(self) -> dict[str, Any]:
        """What training was predicted to hold, beside what it held, as `MemoryPlan.as_dict` tells it; empty where neither is known."""
        return self._json(MEMORY)

    def keep_memory(self, memory: dict[str, Any]) -> None:
        """Writes what was predicted and measured, in place of what stood there; it appears whole or not at all."""
        self._keep(MEMORY, json.dumps(memory))

    def metrics(self) -> dict[str, list[float | None]]:
        """The run as a table: one list per column, all equally long, one row per optimizer step (step 0 first if scored).

        `step`, `loss`, `grad_norm`, `learning_rate`, then `valid_loss` and the other scores, None where not evaluated.
        `pandas.DataFrame(run.metrics())` makes a data frame of it.
        """
        rows: dict[int, dict[str, float | None]] = {}
        for event in self.events():
            if isinstance(event, Stepped):
                row = rows.setdefault(event.step, {})
                row |= {"loss": event.loss, "grad_norm": event.grad_norm, "learning_rate": event.learning_rate}
            elif isinstance(event, Evaluated) and event.of == "model":
                row = rows.setdefault(event.step, {})
                row |= {f"{event.split}_{name}": value for name, value in event.metrics.items()}
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        table: dict[str, list[float | None]] = {"step": [*sorted(rows)]}
        return table | {name: [rows[step].get(name) for step in sorted(rows)] for name in names}

    def scores(self, split: str = "valid") -> dict[str, float]:
        """The model's scores on a split, of the weights that the run kept: the best, or the last without `evaluation.restore_best`."""
        events = self.events()
        best = next((event.best_step for event in reversed(events) if isinstance(event, Ended)), None)
        best = best if self.recipe.evaluation.restore_best else None
        found = [
            event for event in events if isinstance(event, Evaluated) and event.split == split and event.of == "model"
        ]
        chosen = [event for event in found if event.step == best] or found
        return dict(chosen[-1].metrics) if chosen else {}

    def ended(self) -> Ended | None:
        """How the run ended, or None if it has not (or was killed)."""
        return next((event for event in reversed(self.events()) if isinstance(event, Ended)), None)

    def best_weights(self) -> dict[str, Any]:
        """The weights (name -> tensor on the CPU) of the best checkpoint, or of the latest where none is marked best.

        Raises CheckpointError or RunError if there is none that can be read.
        """
        from wellfit.checkpoint import Checkpoints

        checkpoints = Checkpoints(self.folder / CHECKPOINTS)
        best = checkpoints.best()
        if best is None and checkpoints.damaged:
            raise RunError(f"The best weights of {self.folder} cannot be given. {' '.join(checkpoints.damaged)}")
        found = best or checkpoints.latest()
        if found is None:
            raise RunError(
                f"The run {self.folder} has no checkpoint that can be read. {' '.join(checkpoints.damaged)}".rstrip()
            )
        return found.weights

    def __repr__(self) -> str:
        ended = self.ended()
        state = f"{ended.reason} at step {ended.step}" if ended else "not ended"
        return f"<Run {self.folder}: {state}>"

    def _repr_html_(self) -> str:
        import wellfit

        return wellfit.html(self)

    def _keep(self, name: str, text: str) -> None:
        """A file of the folder, whole or not at all. Raises RunError if it cannot be written."""
        again = f"`wellfit resume {shlex.quote(str(self.folder))}`"
        write(self.folder / name, text, f"Make room or mend the permissions there, then go on with {again}.")

    def _json(self, name: str, needed: bool = False) -> dict[str, Any]:
        """A mapping of plain data; empty if it cannot be read and is not `needed`."""
        path, wrong = self.folder / name, "holds no mapping"
        try:
            content = untrusted.plain(path)
            if isinstance(content, dict):
                return content
        except OSError as error:
            wrong = f"cannot be read ({error.strerror})"
        except ValueError as error:
            wrong = f"is no JSON ({error})"
        if needed:
            raise RunError(
                f"The run {self.folder} is damaged: {path} {wrong}. Take that file from a copy of the run, or train it anew."
            )
        return {}

    def _lines(self) -> Iterable[str]:
        try:
            with untrusted.opened(self.folder / EVENTS) as file:
                content = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self.folder / EVENTS} cannot be read: {error.strerror}.") from None
        return [line for line in content.split("\n") if line]


class Heard:
    """What a journal told so far, each thing once. Lines are added in their order; torn ones are counted in `torn`."""

    def __init__(self) -> None:
        self.torn = 0
        self._told: dict[tuple[Any, ...], Event] = {}

    @classmethod
    def of(cls, lines: Iterable[str]) -> "Heard":
        heard = cls()
        for line in lines:
            heard.add(line)
        return heard

    def add(self, line: str) -> None:
        if not line:
            return
        if len(line) > LONGEST:
            self.torn += 1
            return
        try:
            event = decode(line)
        except ValueError:
            self.torn += 1
            return
        if isinstance(event, Started):
            told = self._told.items()
            self._told = {key: old for key, old in told if old.step <= event.step and not isinstance(old, Ended)}
        key = _identity(event)
        self._told.pop(key, None)
        self._told[key] = event

    def events(self) -> list[Event]:
        return list(self._told.values())


def runs(root: Path) -> list[Run]:
    """The runs directly below a folder, latest first."""
    try:
        found = [path.parent for path in root.glob(f"*/{RECIPE}") if not path.parent.name.startswith(".")]
    except OSError:
        return []
    return [Run(folder) for folder in sorted(found, key=lambda folder: folder.name, reverse=True)]


class Journal:
    """Appends events to a run's `events.jsonl`; only one process at a time can hold it.

    Raises RunError if another process does, or if the file cannot be written.
    """

    def __init__(self, run: Run):
        self.path = run.folder / EVENTS
        try:
            self._file: IO[bytes] = self.path.open("ab")
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}. Mend its permissions, or copy the run elsewhere."
            ) from None
        self._lock(run.folder)
        if self._file.tell() and self.path.read_bytes()[-1:] != b"\n":  # a kill tore the last line
            self._file.write(b"\n")

    def write(self, events: Iterable[Event]) -> None:
        """Appends the events and hands them to the system, which keeps them if this process is killed."""
        try:
            self._file.write(b"".join(encode(event).encode() + b"\n" for event in events))
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}. "
                f"Make room there, then go on with `wellfit resume {self.path.parent}`."
            ) from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _lock(self, folder: Path) -> None:
        for patience in (0.05, 0.1, 0.0):  # one who only looks whether it is held has it for a moment (`is_held`)
            if not is_held(self._file, keep=True):
                return
            time.sleep(patience)
        self._file.close()
        raise RunError(f"The run {folder} is being trained by another process. Wait for it, or stop it first.")


def is_held(journal: IO[bytes], keep: bool = False) -> bool:
    """Whether another process is writing this journal: training the run. Where files have no locks, it is not known to be.

    `keep`: hold it from now on, if nobody does.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two processes in one run are not noticed there
        return False
    try:
        fcntl.flock(journal, (fcntl.LOCK_EX if keep else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if not keep:
            fcntl.flock(journal, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _whole(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding whose parts are what they should be, though somebody edited the file."""
    onset, sure, evidence = (finding.get(part) for part in ("onset_step", "confidence", "evidence"))
    texts = {part: str(finding[part]) for part in ("id", "severity", "says")}
    remedies, symptoms = (_listed(finding.get(part)) for part in ("remedies", "symptoms"))
    for one, names in [*((r, ("words", "snippet")) for r in remedies), *((s, ("id", "says")) for s in symptoms)]:
        one |= {name: str(one[name]) for name in names if name in one}
    return finding | texts | {
        "onset_step": onset if isinstance(onset, int) and abs(onset) <= LARGEST else 0,
        "confidence": float(sure) if isinstance(sure, (int, float)) and 0 <= sure <= 1 else 1.0,
        "evidence": evidence if isinstance(evidence, dict) else {},
        "remedies": remedies,
        **({"symptoms": symptoms} if symptoms else {}),
    }  # fmt: skip


def _listed(told: Any) -> list[dict[str, Any]]:
    return [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []


def _identity(event: Event) -> tuple[Any, ...]:
    """What makes two events tell the same thing; the later one counts."""
    match event:
        case Stepped() | Paced() | Saved() | Started():
            return type(event), event.step
        case Evaluated():
            return Evaluated, event.step, event.split, event.of
        case Vitals():
            return Vitals, event.step, event.about, event.name, event.of
        case Noted():
            return Noted, event.text
        case Ended():
            return (Ended,)
