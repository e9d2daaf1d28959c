"""Killed at random instants, resumed to the same bits."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "resume.py"


def test_twenty_kills() -> None:
    done = subprocess.run(
        [sys.executable, BENCH, "--kills", "20"], capture_output=True, text=True, timeout=280, check=False
    )
    assert "20 of 20 bit-identical" in done.stdout, done.stdout + done.stderr
