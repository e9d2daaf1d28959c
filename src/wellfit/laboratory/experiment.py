"""Programs of the lab, run over seeds under the doctor, and what came of each run.

The programs run in a process of their own (`watched.py`), on one thread, so that a seed gives the same numbers whatever else
the machine does. Their curves are the JSON lines that they print themselves.

    >>> for name, trial in run({"healthy": text()}, seeds=(0, 1, 2)): print(name, trial.seed, trial.accuracy[-1])
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellfit.errors import RunError
from wellfit.laboratory.watched import LATE, PATIENCE, Job


@dataclass(frozen=True)
class Trial:
    """One run of one program. Steps are optimizer steps from 1; the loss is the program's own, accuracy a share of 1.

    `findings` are the doctor's, as plain data and causes first; `told_at` says at which step it came out with each.
    """

    seed: int
    steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()
    gradients: Mapping[int, tuple[float, ...]] = field(default_factory=dict)  # step: norm by layer, from the input
    evaluated: tuple[int, ...] = ()
    held_out_loss: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    findings: tuple[Mapping[str, Any], ...] = ()
    told_at: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def told(self) -> list[tuple[Mapping[str, Any], str]]:
        """All findings, each with the id of the cause under which it stands, or an empty string."""
        found: list[tuple[Mapping[str, Any], str]] = []

        def add(one: Mapping[str, Any], cause: str) -> None:
            found.append((one, cause))
            for symptom in one.get("symptoms", ()):
                add(symptom, one["id"])

        for one in self.findings:
            add(one, "")
        return found


def run(programs: Mapping[str, str], seeds: Sequence[int]) -> Iterator[tuple[str, Trial]]:
    """Runs each program (name: its text) with each seed, and yields its name and the trial as soon as it is over, in that order.

    Raises RunError if a program ends with an error, or the process that runs them does.
    """
    with tempfile.TemporaryDirectory(prefix="wellfit-lab-", ignore_cleanup_errors=True) as place:
        folder = Path(place).resolve()
        runs, jobs = [], []
        for name, text in programs.items():
            program = folder / f"{name}.py"
            program.write_text(text, encoding="utf-8")
            for seed in seeds:
                runs.append((name, seed))
                jobs.append(_job(program, seed))
        for number, ended in _finished(jobs, folder):
            name, seed = runs[number]
            yield name, _read(name, seed, jobs[number], ended)


def _job(program: Path, seed: int) -> Job:
    beside = program.with_suffix("")
    return Job(
        program=str(program), seed=seed, curves=f"{beside}-{seed}.jsonl", log=f"{beside}-{seed}.log",
        found=f"{beside}-{seed}.json",
    )  # fmt: skip


def _finished(jobs: Sequence[Job], folder: Path) -> Iterator[tuple[int, str]]:
    """Runs the jobs in a process of their own, and yields the number of each when it is over, and in a few words how it ended."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(jobs), encoding="utf-8")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    errors = folder / "errors.log"
    with errors.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "wellfit.laboratory.watched", str(listed)],
            env=os.environ | threads, stdout=subprocess.PIPE, stderr=file, text=True, encoding="utf-8",
        )  # fmt: skip
    assert process.stdout is not None
    done = 0
    try:
        for line in process.stdout:
            number, ended = line.split()
            yield int(number), _ended(ended, errors)
            done += 1
        if process.wait() or done < len(jobs):
            raise RunError(
                f"The process that runs the lab's programs {_ended(str(process.returncode), errors)}, after {done} of {len(jobs)} runs."
            )
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        process.stdout.close()


def _ended(ended: str, errors: Path) -> str:
    """How a process ended, in words, with the last line of what it said."""
    if ended == LATE:
        return f"took more than {PATIENCE:.0f} s and was stopped"
    status = int(ended)
    if status < 0:
        with contextlib.suppress(ValueError):  # a signal without a name
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"
    said = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    return f"ended with status {status} ({said[-1]})"


def _read(name: str, seed: int, job: Job, ended: str) -> Trial:
    """What a run left that `ended` so. Raises RunError where it failed: no pathology of the lab is a crash."""
    found = Path(job["found"])
    if not found.is_file():
        raise RunError(f"The program {name} with seed {seed} left nothing: its process {ended}.")
    text = found.read_text(encoding="utf-8")
    told = json.loads(
        text.replace(json.dumps(f"{found.parent}{os.sep}", ensure_ascii=False)[1:-1], "")
    )  # a file's name is enough
    if told["status"] or told["failures"]:
        why = told["error"] or "; ".join(told["failures"]) or f"status {told['status']}"
        raise RunError(f"The program {name} with seed {seed} failed: {why}.")
    lines = [json.loads(line) for line in Path(job["curves"]).read_text(encoding="utf-8").splitlines()]
    steps, scores = [line for line in lines if "loss" in line], [line for line in lines if "accuracy" in line]
    return Trial(
        seed=seed,
        steps=tuple(line["step"] for line in steps),
        loss=tuple(line["loss"] for line in steps),
        gradients={line["step"]: tuple(line["gradients"]) for line in steps if "gradients" in line},
        evaluated=tuple(line["step"] for line in scores),
        held_out_loss=tuple(line["held_out_loss"] for line in scores),
        accuracy=tuple(line["accuracy"] for line in scores),
        findings=tuple(told["findings"]),
        told_at=told["told_at"],
        seconds=told["seconds"],
    )
