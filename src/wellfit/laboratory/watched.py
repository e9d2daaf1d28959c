"""The process in which the lab's programs run: torch is loaded once, and each program is run in a fork, watched by the doctor.

It is started as `python -m wellfit.laboratory.watched JOBS`, where JOBS is a JSON list of `Job`s, runs one after the other and
writes a line for each that is over to its standard output: its number, and how its process ended (an exit status, minus the number
of a signal, or `late`). Watched means: by `doctor/script.py`, as in `wellfit doctor SCRIPT`. Where a system cannot fork, the
programs run in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, TypedDict

PATIENCE = 300.0  # seconds for one program
LATE = "late"  # how one ended that took longer


class Job(TypedDict):
    """A program, its seed, and where its output (the curves), its errors and what the doctor found are written."""

    program: str
    seed: int
    curves: str
    log: str
    found: str


def main(jobs: Path) -> None:
    """Runs all jobs of the file."""
    # Once, here, for all forks.
    import sklearn.datasets  # noqa: F401
    import torch

    import wellfit.doctor.script  # noqa: F401

    torch.set_num_threads(1)
    todo: list[Job] = json.loads(jobs.read_text(encoding="utf-8"))
    for number, job in enumerate(todo):
        ended = "0"
        if not hasattr(os, "fork"):
            _run(job)
        elif (child := os.fork()) == 0:
            _child(job)
        else:
            ended = _wait(child)
        print(number, ended, flush=True)


def _child(job: Job) -> NoReturn:
    """Runs a program, and leaves without what the parent would do at its own end."""
    status = 1
    try:
        _run(job)
        status = 0
    except BaseException:  # not the program's, which `_run` writes down: ours
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _run(job: Job) -> None:
    """Runs a program and writes what came of it."""
    from wellfit.doctor import script
    from wellfit.doctor.doctor import Doctor
    from wellfit.doctor.finding import Finding

    told_at: dict[str, int] = {}

    def found(finding: Finding) -> None:
        told_at[finding.id] = doctor.history(finding.of).step

    doctor = Doctor(found)
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with open(job["curves"], "w", encoding="utf-8") as curves, open(job["log"], "w", encoding="utf-8") as log:
        os.dup2(curves.fileno(), 1)
        os.dup2(log.fileno(), 2)
        began = time.perf_counter()
        try:
            status, error = script.run(job["program"], [str(job["seed"])], doctor)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
    told: dict[str, Any] = {
        "findings": [finding.as_dict() for finding in doctor.findings()],
        "told_at": told_at,
        "failures": doctor.failures,
        "status": status,
        "error": f"{type(error).__name__}: {error}" if error is not None else "",
        "seconds": time.perf_counter() - began,
    }
    Path(job["found"]).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")


def _wait(child: int) -> str:
    """Until the child is over, or out of patience; then it is killed, and what it did not write is missing. Returns how it ended."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        over, status = os.waitpid(child, os.WNOHANG)
        if over:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return LATE


if __name__ == "__main__":
    main(Path(sys.argv[1]))
