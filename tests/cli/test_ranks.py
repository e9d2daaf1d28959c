"""`--gpus N`: one command, several processes, one voice; lost ones are started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import commands
import wellfit
from wellfit.cli.ranks import without
from wellfit.events import Evaluated, Started, Stepped
from wellfit.run import Run

STEPS = [
    "--set",
    "hardware.device=cpu",
    "--set",
    "checkpoints.every=4",
    "--set",
    "training.steps=96",
    "--set",
    "model.kind=mlp",
]


def process(*words: str, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "wellfit", *words],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def below(pid: int) -> list[int]:
    found = []
    for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(word), *below(int(word))]
    return found


def rank_of(pid: int) -> str:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next((entry.removeprefix("RANK=") for entry in entries if entry.startswith("RANK=")), "")


def numbers(run: Run) -> list[object]:
    return [(e.step, e.loss, e.grad_norm) if isinstance(e, Stepped) else (e.step, e.split, e.metrics)
            for e in run.events() if isinstance(e, (Stepped, Evaluated))]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the ranks in /proc, which is Linux's")
def test_a_killed_rank_is_named_or_started_again_to_the_same_bits(tmp_path: Path) -> None:
    whole = process("train", "digits", "--gpus", "2", "--folder", "whole", *STEPS, folder=tmp_path)
    said, errors = whole.communicate(timeout=280)
    assert whole.returncode == 0, errors
    assert said.count("Run:    whole") == 1
    assert errors.count("Training 96 steps") == 1

    lost = process("train", "digits", "--gpus", "2", "--restarts", "1", "--folder", "lost", *STEPS, folder=tmp_path)
    run, killed = Run(tmp_path / "lost"), False
    while lost.poll() is None and not killed:
        time.sleep(0.02)
        if (run.folder / "events.jsonl").exists() and any(isinstance(e, Stepped) and e.step > 30 for e in run.events()):
            ranks = [pid for pid in below(lost.pid) if rank_of(pid) == "1"]
            os.kill(ranks[0], signal.SIGKILL)
            killed = True
    said, errors = lost.communicate(timeout=280)
    assert killed
    assert lost.returncode == 0, errors
    assert "The ranks of this launch were started again, so its run, lost, goes on." in errors
    journal = (run.folder / "events.jsonl").read_text().splitlines()
    assert (
        sum(f'"event": "{Started.__name__}"' in line or f'"event":"{Started.__name__}"' in line for line in journal)
        == 2
    )
    assert numbers(run) == numbers(wellfit.open(tmp_path / "whole"))
    for name, value in wellfit.open(tmp_path / "whole").best_weights().items():
        assert torch.equal(value, run.best_weights()[name]), name


def test_a_killed_rank_without_restarts_is_named(tmp_path: Path) -> None:
    if not Path("/proc/self/task").exists():
        pytest.skip("finds the ranks in /proc, which is Linux's")
    words = ("train", "digits", "--gpus", "2", "--folder", "lost", *STEPS, "--set", "training.steps=3000")
    lost = process(*words, folder=tmp_path)
    run = Run(tmp_path / "lost")
    while lost.poll() is None and not any(isinstance(e, Stepped) for e in run.events()):
        time.sleep(0.05)
    victim = next(pid for pid in below(lost.pid) if rank_of(pid) == "0")
    os.kill(victim, signal.SIGKILL)
    _, errors = lost.communicate(timeout=280)
    assert lost.returncode == 1
    assert f"wellfit: Rank 0 (process {victim}) was ended by SIGKILL" in errors
    assert "Traceback" not in errors


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    for words, said in (
        (("train", "wine", "--gpus", "0"), "`--gpus` is 0"),
        (("train", "wine", "--gpus", "99"), "`--gpus` is 99, and this machine has"),
        (("train", "digits", "--gpus", "2", "--cure", *STEPS), "`--cure` takes one process"),
        (
            ("train", "digits", "--gpus", "2", *STEPS, "--set", "training.batch_size=7"),
            "`training.batch_size` is 7, which cannot",
        ),
    ):
        if "training.batch_size=7" in words:  # which the ranks find
            done = process(*words, folder=tmp_path)
            _, errors = done.communicate(timeout=200)
        else:
            done = commands.wellfit(*words, folder=tmp_path)
            errors = done.stderr
        assert done.returncode == 2, errors
        assert errors.count("wellfit: ") == 1, errors
        assert said in errors
        assert "Traceback" not in errors


def test_the_launchers_own_words_are_left_out() -> None:
    words = ["train", "wine", "--gpus", "2", "--set", "a=1", "--restarts=3", "--folder", "x"]
    assert without(words) == ["train", "wine", "--set", "a=1", "--folder", "x"]
