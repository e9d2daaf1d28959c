"""Killed at random instants, asked to stop, or damaged: a run goes on to the same bits, and says what happened."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import Started, wellfit
from wellfit.events import Evaluated, Noted, Stepped
from wellfit.run import Run

BENCH = Path(__file__).parents[2] / "bench" / "resume.py"
# Long enough (about two seconds) to be stopped in the middle, and told often enough to see that it has begun.
SETTINGS = ["--set", "training.epochs=15", "--set", "training.log_every=5"]


def test_kills_at_random() -> None:
    """Six of the twenty that the bench makes."""
    done = subprocess.run(
        [sys.executable, BENCH, "--kills", "6"], capture_output=True, text=True, timeout=290, check=False
    )
    assert "6 of 6 bit-identical" in done.stdout, done.stdout + done.stderr


def finished(*arguments: object) -> str:
    """What was said on stderr."""
    done = wellfit(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def numbers(folder: Path) -> list:
    return [event for event in Run(folder).events() if isinstance(event, (Stepped, Evaluated))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished("train", "digits", *SETTINGS, "--folder", folder)
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(tmp_path, whole, number) -> None:
    folder = tmp_path / "run"
    process = Started("train", "digits", *SETTINGS, "--folder", folder)
    deadline = time.time() + 100
    while not (folder / "events.jsonl").exists() or not numbers(folder):
        assert time.time() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    told, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"wellfit resume {folder}" in told
    assert "Traceback" not in said
    assert 0 < len(numbers(folder)) < len(numbers(whole))
    finished("resume", folder)
    assert numbers(folder) == numbers(whole)


def test_a_flipped_bit_is_named_and_the_one_before_is_used(whole) -> None:
    expected = numbers(whole)
    latest = sorted((whole / "checkpoints").glob("step-*"))[-1]
    content = bytearray((latest / "state.pt").read_bytes())
    content[1000] ^= 4
    (latest / "state.pt").write_bytes(content)
    assert latest.name in finished("resume", whole)
    assert any(latest.name in event.text for event in Run(whole).events() if isinstance(event, Noted))
    assert numbers(whole) == expected


def test_two_processes_cannot_train_one_run(tmp_path) -> None:
    folder = tmp_path / "run"
    first = Started("train", "digits", "--set", "training.epochs=100000", "--folder", folder)
    try:
        deadline = time.time() + 100
        while not (folder / "events.jsonl").exists():
            assert time.time() < deadline
            time.sleep(0.05)
        second = Started("resume", folder)
        _, said = second.communicate(timeout=100)
        assert second.returncode == 2
        assert "another process" in said
    finally:
        first.kill()
        first.communicate()
