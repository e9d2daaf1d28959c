"""The process beside a training: reads the run's journal as it grows, and tells a tracker.

It ends when the training says that it is over, or is gone; then it tells what is left, and writes one line of JSON: where to look at
it, or what went wrong. It is started by `Tracker` and holds nothing of the training but the path of its folder.

$ python -m wellfit.integrations.trackers.follow RUN tensorboard "" ""
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.events import Event, decode
from wellfit.integrations.trackers import place_of, troubles
from wellfit.integrations.trackers.telling import Teller
from wellfit.run import EVENTS, Heard, Run

SECONDS = 1.0  # between two looks at the journal


class Over:
    """Knows when the training is over: it has said so, its end of the pipe is closed, or this process has another parent."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._said = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        sys.stdin.buffer.readline()
        self._said.set()

    def wait(self, seconds: float) -> bool:
        """Waits so long at most; whether it is over."""
        return self._said.wait(seconds) or os.getppid() != self._parent


def growing(path: Path, over: Over) -> Iterator[list[Event]]:
    """What a journal holds, each thing once, and then what is added to it, until the training is over."""
    with path.open("rb") as file:
        whole = file.read().rpartition(b"\n")[0]  # a line that is being written comes whole the next time
        file.seek(len(whole))
        yield Heard.of(whole.decode("utf-8", "replace").split("\n")).events()
        rest, done = b"", False
        while not done:
            done = over.wait(SECONDS)
            lines = (rest + file.read()).split(b"\n")
            rest = lines.pop()
            events = []
            for line in lines:
                with contextlib.suppress(ValueError):
                    events.append(decode(line.decode("utf-8", "replace")))
            yield events


def follow(run: Run, kind: str, place: str, project: str, over: Over) -> str:
    """Tells the run until it is over; returns where to look at it."""
    with troubles(kind):
        goal = place_of(kind, run, place, project)
        teller = Teller(run, goal)
        for events in growing(run.folder / EVENTS, over):
            for event in events:
                teller.see(event)
            teller.flush()
        teller.end()
    return goal.where


def main() -> None:
    """Everything that libraries print goes nowhere; the answer goes to the training."""
    answer = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    folder, kind, place, project = sys.argv[1:]
    over = Over()
    with contextlib.suppress(OSError):
        os.nice(5)  # the training goes first
    try:
        told = {"where": follow(Run(Path(folder)), kind, place, project, over)}
    except WellfitError as error:
        told = {"trouble": str(error)}
    os.write(answer, json.dumps(told).encode())
    sys.exit("trouble" in told)


if __name__ == "__main__":
    main()
