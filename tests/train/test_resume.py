"""Killed at random instants, resumed to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wellfit.events import Evaluated, Noted, Stepped
from wellfit.run import Run

BENCH = Path(__file__).parents[2] / "bench" / "resume.py"
SETTINGS = ["--set", "training.steps=400", "--set", "evaluation.every=20", "--set", "model={kind: mlp, dropout: 0.3}"]


def test_twenty_kills() -> None:
    done = subprocess.run(
        [sys.executable, BENCH, "--kills", "20"], capture_output=True, text=True, timeout=280, check=False
    )
    assert "20 of 20 bit-identical" in done.stdout, done.stdout + done.stderr


def wellfit(*arguments: str, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "wellfit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def numbers(folder: Path) -> list:
    return [event for event in Run(folder).events() if isinstance(event, (Stepped, Evaluated))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(tmp_path, number) -> None:
    whole = wellfit("train", "digits", *SETTINGS, "--folder", str(tmp_path / "whole"))
    assert whole.wait(120) == 0
    stopped = wellfit("train", "digits", *SETTINGS, "--folder", str(tmp_path / "run"))
    deadline = time.time() + 60
    while not (tmp_path / "run" / "events.jsonl").exists() or not numbers(tmp_path / "run"):
        assert time.time() < deadline
        time.sleep(0.01)
    stopped.send_signal(number)
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, err
    assert f"wellfit resume {tmp_path / 'run'}" in out
    assert "Traceback" not in err
    assert 0 < len([e for e in numbers(tmp_path / "run") if isinstance(e, Stepped)]) < 400
    resumed = wellfit("resume", str(tmp_path / "run"))
    out, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


def test_a_flipped_bit_is_named_and_the_one_before_is_used(tmp_path) -> None:
    whole = wellfit("train", "digits", *SETTINGS, "--folder", str(tmp_path / "run"))
    assert whole.wait(120) == 0
    expected = numbers(tmp_path / "run")
    latest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    content = bytearray((latest / "state.pt").read_bytes())
    content[1000] ^= 4
    (latest / "state.pt").write_bytes(content)
    resumed = wellfit("resume", str(tmp_path / "run"))
    _, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert latest.name in err
    assert any(latest.name in e.text for e in Run(tmp_path / "run").events() if isinstance(e, Noted))
    assert numbers(tmp_path / "run") == expected


def test_two_processes_cannot_train_one_run(tmp_path) -> None:
    first = wellfit("train", "digits", *SETTINGS, "--set", "training.steps=100000", "--folder", str(tmp_path / "run"))
    while not (tmp_path / "run" / "events.jsonl").exists():
        time.sleep(0.05)
    second = wellfit("resume", str(tmp_path / "run"))
    _, err = second.communicate(timeout=60)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert second.returncode == 2
    assert "another process" in err
