"""Who is there: each rank says every second that it lives and how far it is, so that the one that others wait for has a name.

A rank that dies or hangs shows itself to the others only as an exchange that fails or never ends, and that names nobody. So
each rank writes a line into the store that it met the others in (torch's `TCPStore`), from a thread of its own. Where an
exchange fails, `told` reads all lines twice: a line that stands still is of a rank that is gone, and the rank that has come the
least far is the one that hangs. With NCCL, whose own end of patience is an abort of the process, the thread ends it
before, with the same words.

    >>> here = Presence(rank=0, world=2, patience=600.0)
    >>> here.told("Connection closed by peer")
    'Rank 1 (host a, process 4711) is gone; ...'
"""

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
from typing import Any

BEAT = 1.0  # seconds
LOST = 3.5  # beats after which a rank that says nothing is gone
REPORTS = 5.0  # seconds that a rank's last words may take to arrive


class Presence:
    """This rank's line in the store, and everybody's. `step` is set by the loop. `watching`: whether the thread may end the process."""

    def __init__(self, rank: int, world: int, patience: float, watching: bool = False):
        self.rank, self.world, self.patience, self.watching = rank, world, patience, watching
        self.step, self.exchanges = 0, 0  # counted up by those who exchange something
        self.said: list[str] = []  # the last words of this rank in each training that it left
        self.failing = False
        self._beats, self._over, self._lock = 0, threading.Event(), threading.Lock()
        self._store = _store()
        if self._store is not None:
            self._say()
            threading.Thread(target=self._beating, name="wellfit-presence", daemon=True).start()

    def begin(self) -> None:
        """A training begins."""
        self.step, self.failing = 0, False

    def leave(self, words: str) -> None:
        """The last words of this rank in this training, which it leaves because of an error of its own."""
        self.said.append(words.strip().splitlines()[0][:300] if words.strip() else "an error")
        self.failing = True
        self._say()

    def says_the_first(self) -> bool:
        """Whether rank 0 goes with the same words as this other rank, and so tells them. Waits a little for it."""
        ends = time.monotonic() + REPORTS
        while self.rank and time.monotonic() < ends:
            everyone = self._everyone()
            if everyone is None:
                return False
            first = everyone[0].get("said", [])
            if len(first) >= len(self.said):
                return bool(first[len(self.said) - 1] == self.said[-1])
            time.sleep(0.1)
        return False

    def close(self) -> None:
        self._over.set()

    def told(self, said: str) -> str:
        """Which ranks are missing, and what to do. Takes some seconds, in which it sees who still speaks."""
        first = said.strip().splitlines()[0][:300] if said.strip() else "nothing"
        then = self._everyone()
        if then is None:
            return (
                "The ranks have lost each other, and the store in which they met is gone, so rank 0's machine is the one to look at. "
                f"{GO_ON} torch says: {first}"
            )
        time.sleep(LOST * BEAT)
        now = self._everyone() or then
        failed = [line for line in now if line.get("failing") and line["rank"] != self.rank]
        gone = [
            new for old, new in zip(then, now, strict=True)
            if new["rank"] != self.rank and new.get("beats") == old.get("beats") and not new.get("failing")
        ]  # fmt: skip
        fewest = min(line.get("exchanges", 0) for line in now)
        behind = [line for line in now if line.get("exchanges", 0) == fewest and line["rank"] != self.rank]
        if failed:
            names = "; ".join(f"{_named(line)} failed: {line['said'][-1]}" for line in failed[:4])
        elif gone:
            names = "; ".join(
                f"{_named(line)} is gone; it was last heard of in step {line.get('step', 0) + 1:,}" for line in gone[:4]
            )
        elif behind:
            why = "hangs: it lives, and" if fewest < self.exchanges else "may hang: it lives,"
            names = "; ".join(
                f"{_named(line)} {why} has not come to its end of step {line.get('step', 0) + 1:,}"
                for line in behind[:4]
            )
        else:
            names = "no rank is missing now"
        return f"Rank {self.rank} could not go on without the others: {names}. {GO_ON} torch says: {first}"

    # ---- inside

    def _say(self) -> None:
        if self._store is None:
            return
        with self._lock:
            self._beats += 1
            line = {"rank": self.rank, "host": socket.gethostname(), "process": os.getpid(), "beats": self._beats,
                    "step": self.step, "exchanges": self.exchanges, "said": self.said, "failing": self.failing}  # fmt: skip
            with contextlib.suppress(RuntimeError):  # the store went with rank 0
                self._store.set(_key(self.rank), json.dumps(line))

    def _everyone(self) -> list[dict[str, Any]] | None:
        """Each rank's line; None where the store cannot be read."""
        if self._store is None:
            return None
        lines = []
        try:
            with self._lock:
                for rank in range(self.world):
                    known = self._store.check([_key(rank)])
                    lines.append(json.loads(self._store.get(_key(rank))) if known else {"rank": rank})
        except (RuntimeError, ValueError):
            return None
        return lines

    def _beating(self) -> None:
        since, seen = time.monotonic(), -1
        while not self._over.wait(BEAT):
            self._say()
            if not self.watching:
                continue
            if self.step != seen:
                since, seen = time.monotonic(), self.step
            elif time.monotonic() - since > self.patience + REPORTS and self._others_wait():
                print(f"wellfit: {self.told('no exchange came to its end')}", file=sys.stderr, flush=True)
                os._exit(1)

    def _others_wait(self) -> bool:
        """Whether this is not a long evaluation of all ranks: some rank is gone or behind."""
        now = self._everyone()
        return now is None or len({line.get("step", 0) for line in now}) > 1 or any(line.get("failing") for line in now)


GO_ON = "What was saved is untouched: start the ranks again with `wellfit resume RUN`."


def _key(rank: int) -> str:
    return f"wellfit/presence/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _named(line: dict[str, Any]) -> str:
    where = f" (host {line['host']}, process {line['process']})" if "host" in line else ""
    return f"rank {line['rank']}{where}"


def _store() -> Any:
    """A connection of its own to the store that the ranks met in; None where there is none."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        return TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=datetime.timedelta(seconds=10)
        )  # fmt: skip
    except (RuntimeError, KeyError, ValueError):
        return None
