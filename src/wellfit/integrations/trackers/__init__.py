"""Trackers: TensorBoard, Weights & Biases, MLflow. An observer that costs a training nothing, and the same for runs that exist.

The observer starts a second process, which reads the run's journal as it grows and tells it (`follow.py`, `telling.py`). The
training never waits for a tracker while it trains, shares no random generator, lock or thread with it, and goes on if it dies; that
is said once, with how to send the rest. `track` tells a recorded run in this process, by the same code: what has arrived before is
not doubled, so it may be called again.

>>> wellfit.fit_recipe("digits", observers=[wellfit.Tracker("tensorboard")])
>>> wellfit.track("runs/first", "mlflow", "http://localhost:5000")
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from wellfit.addresses import masked
from wellfit.errors import MissingExtra, RecipeError, TrackerError, WellfitError
from wellfit.events import Evaluated, Event, Paced, Started
from wellfit.integrations.trackers.telling import Place, Teller
from wellfit.recipe import nearest
from wellfit.run import Run

KINDS = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}
PATIENCE = 60.0  # seconds that a training which is over waits for what is still to be sent


class Tracker:
    """Tells a run to TensorBoard, Weights & Biases or MLflow while it trains. One of `observers`.

    `kind`: `tensorboard`, `wandb` or `mlflow`. `place`: for TensorBoard the folder below which each run has one (its own
    `tensorboard/`, if not said); for MLflow a tracking URI or a folder (what MLflow itself is set to, if not said); for Weights &
    Biases a project. `project`: the experiment of MLflow, or the project. Weights & Biases sends nothing unless you have logged in or
    set `WANDB_MODE`; what it keeps lies in the run's folder, or in `WANDB_DIR`.

    `where` says how to look at it, once the training is over; empty where nothing was told.

    Raises MissingExtra where the package is not installed, RecipeError for a kind that there is not.
    """

    patience = PATIENCE

    def __init__(self, kind: str, place: str | Path | None = None, *, project: str | None = None):
        check(kind)
        self.kind, self.place, self.project = kind, str(place) if place is not None else "", project or ""
        self.run: Run | None = None
        self.where = ""
        self.trouble = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, event: Event) -> None:
        """Starts the second process at the first `Started`, and now and then looks whether it has died."""
        if self.run is None or self.trouble:
            return
        if self._process is None:
            if isinstance(event, Started):
                self._process = started(self.run, self.kind, self.place, self.project)
        elif isinstance(event, Paced | Evaluated) and self._process.poll() is not None:
            self._listen(self._process)
            raise TrackerError(self.trouble or "It ended before the training.")

    def close(self) -> None:
        """Waits, within reason, until all is told. What went wrong is in `trouble`."""
        process = self._process
        if process is None:
            return
        self._process = None
        try:
            if process.stdin is not None:
                with _suppressed():
                    process.stdin.write(b"end\n")
                    process.stdin.close()
            process.wait(self.patience)
            if not self.trouble:
                self._listen(process)
        except subprocess.TimeoutExpired:
            self.trouble = (
                f"{KINDS[self.kind]} had not taken everything {self.patience:g} seconds after the end. {self._again()}"
            )
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with _suppressed():
                        stream.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """What the second process said at its end."""
        said = process.stdout.read() if process.stdout is not None else b""
        try:
            told = json.loads(said)
        except ValueError:
            told = {"trouble": f"{KINDS[self.kind]}'s process ended with status {process.returncode} and no word."}
        self.where = told.get("where", "")
        trouble = told.get("trouble", "")
        self.trouble = f"{trouble} {self._again()}" if trouble else ""

    def _again(self) -> str:
        assert self.run is not None
        if self.project and self.kind == "mlflow":  # which the command line does not say
            where = f", {masked(self.place)!r}" if self.place else ""
            call = f'wellfit.track({str(self.run.folder)!r}, "mlflow"{where}, project={self.project!r})'
            return f"`{call}` in Python sends what is missing."
        said = self.place or self.project  # of Weights & Biases both are the project
        place = shlex.quote(f"{self.kind}={masked(said)}") if said else self.kind
        return f"`wellfit track {shlex.quote(str(self.run.folder))} {place}` sends what is missing."


def tracker(text: str) -> Tracker:
    """The tracker that `tensorboard`, `tensorboard=FOLDER`, `mlflow=URI` or `wandb=PROJECT` names."""
    kind, _, place = text.partition("=")
    return Tracker(kind.strip(), place.strip() or None)


def track(run: str | Path | Run, kind: str, place: str | Path | None = None, *, project: str | None = None) -> str:
    """Tells a run that exists, as far as its journal goes; returns where to look. May be repeated: nothing is doubled.

    The arguments are those of `Tracker`. Raises TrackerError where the tracker cannot be reached or written.
    """
    check(kind)
    opened = run if isinstance(run, Run) else Run.open(run)
    with troubles(kind), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracker's own libraries
        goal = place_of(kind, opened, str(place) if place is not None else "", project or "")
        teller = Teller(opened, goal)
        for event in opened.events():
            teller.see(event)
        teller.end()
    return goal.where


@contextmanager
def following(observers: Iterable[Any], run: Run) -> Iterator[None]:
    """The trackers among the observers follow this run; at the end they are given time, and what went wrong is said."""
    here = [one for one in observers if isinstance(one, Tracker)]
    for one in here:
        one.run, one.where, one.trouble = run, "", ""
    try:
        yield
    finally:
        for one in here:
            told = bool(one.trouble)  # as a note, in the middle of the training
            one.close()
            if one.trouble and not told:
                print(f"wellfit: {one.trouble}", file=sys.stderr)


# ---- both processes


def check(kind: str) -> None:
    """Raises RecipeError for a kind that there is not, MissingExtra for one whose package is not here."""
    if kind not in KINDS:
        raise RecipeError(f"{kind!r} is no tracker.{nearest(kind, KINDS)} There are {', '.join(KINDS)}.")
    if importlib.util.find_spec(kind) is None:
        raise MissingExtra(kind, kind, f"Tracking with {KINDS[kind]}")


def place_of(kind: str, run: Run, place: str, project: str) -> Place:
    """The adapter of a kind, ready to begin."""
    if kind == "tensorboard":
        from wellfit.integrations.trackers.tensorboard import TensorBoard

        return TensorBoard(Path(place) / run.folder.resolve().name if place else run.folder / "tensorboard")
    if kind == "wandb":
        from wellfit.integrations.trackers.wandb import WeightsAndBiases

        return WeightsAndBiases(run.folder, project or place)
    from wellfit.integrations.trackers.mlflow import MLflow

    return MLflow(place, project)


@contextmanager
def troubles(kind: str) -> Iterator[None]:
    """Whatever a tracker's library raises, as a TrackerError in one sentence."""
    try:
        yield
    except WellfitError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        told = first if len(first) < 300 else first[:299] + "…"
        said = f"{KINDS[kind]} could not be told of the run: {type(error).__name__}: {told}"
        raise TrackerError(said.rstrip(":. ") + ".") from error


def started(run: Run, kind: str, place: str, project: str) -> subprocess.Popen[bytes]:
    """A second process that tells this run until its input ends or says so."""
    source = Path(__file__).parents[3]
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    words = ["-P", "-W", "ignore", "-m", "wellfit.integrations.trackers.follow", str(run.folder), kind, place, project]
    return subprocess.Popen(
        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True,  # Ctrl-C is for the training
    )  # fmt: skip


def _suppressed() -> AbstractContextManager[None]:
    return suppress(OSError, ValueError)
