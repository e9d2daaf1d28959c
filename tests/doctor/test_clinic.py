"""A quick slice of the clinic: faults that must be named first, healthy programs on which the doctor must be silent."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CLINIC = Path(__file__).parents[2] / "bench" / "clinic"


@pytest.mark.timeout(280)
def test_a_quick_slice(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(CLINIC / "clinic.py"), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outcomes = json.loads(out.read_text())
    assert len(outcomes) >= 15
    for one in outcomes:
        assert one["failures"] == [], one["label"]
        if one["finding"]:
            assert one["findings"][0]["id"] in {one["finding"], *one["also"]}, one["label"]
        else:
            assert [f["id"] for f in one["findings"] if f["severity"] != "advice"] == [], one["label"]
