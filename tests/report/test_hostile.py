"""Folders that came by mail: whatever lies in them, the live page and the report answer at once, show nothing from elsewhere, and
one bad run hides no other."""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from told_runs import trained, treated

from journals import WHOLE, made
from wellfit import untrusted
from wellfit.errors import RunError
from wellfit.report.live import Shelf
from wellfit.report.page import page
from wellfit.run import Run

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
HUGE = "1" + "0" * 400


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What it gives, or raises; a call that hangs fails the test."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(call())
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert told, "it hangs"
    return told[0]


def asked(root: Path, name: str = "bad") -> list[Any]:
    """Everything that the live page tells of a folder and a run: texts, or RunErrors."""
    shelf = Shelf(root)
    rows, _ = within(20, shelf.all)
    assert "good" in [row["name"] for row in rows]
    told = [within(20, lambda: shelf.told(name)), within(20, lambda: shelf.report(name))]
    assert all(isinstance(one, str | bytes | RunError) for one in told), told
    assert isinstance(within(20, lambda: shelf.told("good")), bytes)
    return told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made(tmp_path / "runs", WHOLE, "good")
    made(tmp_path / "runs", WHOLE, "bad")
    treated(tmp_path / "runs" / "bad")
    return tmp_path / "runs"


PARTS = (
    "events.jsonl",
    "findings.jsonl",
    "review.json",
    "memory.json",
    "environment.json",
    "task.json",
    "cure/cure.json",
)


@needs_pipes
@pytest.mark.parametrize("part", [*PARTS, "cure/after-seed0/events.jsonl"])
def test_a_pipe_is_not_waited_for(root: Path, part: str) -> None:
    (root / "bad" / part).unlink(missing_ok=True)
    os.mkfifo(root / "bad" / part)
    asked(root)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", ["[" * 100_000, "\0\0", "null", '{"a": 1e999}', "[1, 2]"])
def test_a_file_that_holds_something_else(root: Path, part: str, content: str) -> None:
    (root / "bad" / part).write_text(content)
    asked(root)


@pytest.mark.parametrize("part", ["events.jsonl", "findings.jsonl", "cure/cure.json"])
def test_a_folder_in_place_of_a_file(root: Path, part: str) -> None:
    (root / "bad" / part).unlink(missing_ok=True)
    (root / "bad" / part).mkdir()
    asked(root)


FINDINGS = (
    '{"id": [1], "severity": [], "says": [1, 2]}', '{"id": "x", "severity": {}, "says": ""}',
    f'{{"id": "x", "severity": "error", "says": "y", "confidence": {HUGE}, "onset_step": {HUGE}}}',
    '{"id": "x", "severity": "error", "says": "y", "remedies": [{"words": [1], "snippet": {}}], "symptoms": [{"id": 3}]}',
)  # fmt: skip


@pytest.mark.parametrize("line", FINDINGS)
def test_findings_of_odd_types(root: Path, line: str) -> None:
    (root / "bad" / "findings.jsonl").write_text(line + "\n")
    report = asked(root)[1]
    assert isinstance(report, str)


EVENTS = (
    f'{{"event": "Stepped", "step": {HUGE}, "loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1}}',
    f'{{"event": "Stepped", "step": 1, "loss": {HUGE}, "grad_norm": 1.0, "learning_rate": 0.1}}',
    f'{{"event": "Evaluated", "step": 3, "split": "valid", "metrics": {{"loss": {HUGE}}}}}',
    f'{{"event": "Ended", "step": 6, "reason": "finished", "seconds": 1.0, "best_step": {HUGE}, "best_value": 1.0}}',
)


@pytest.mark.parametrize("line", EVENTS)
def test_numbers_that_nobody_wrote_are_torn_lines(root: Path, line: str) -> None:
    with (root / "bad" / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    assert all(isinstance(one, str | bytes) for one in asked(root))
    run = Run(root / "bad")
    run.events()
    assert run.torn == 1


def changed(root: Path, path: tuple[Any, ...], value: Any) -> None:
    """One value of the cure's file in another's place; `value` may be JSON that Python cannot write."""
    file = root / "bad" / "cure" / "cure.json"
    body = json.loads(file.read_text())
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = "@@"
    file.write_text(json.dumps(body).replace('"@@"', value))


CURES = [
    (("comparison", "scored"), "1e999"), (("comparison", "missing"), "Infinity"), (("comparison", "seeds"), "[1e999]"),
    (("comparison", "arms", 0, "scores", "0"), HUGE), (("comparison", "arms", 0, "steps"), "NaN"), (("tried", 0, "before"), HUGE),
    (("comparison", "arms", 0, "folders", "0"), json.dumps("a" * 300)), (("comparison", "arms", 0, "folders", "0"), '".."'),
    (("comparison", "arms", 0, "folders", "0"), '"\\u0000"'), (("changes",), "[[1, 2, 3, 4]]"), (("tried",), '{"a": 1}'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), CURES)
def test_a_cure_that_was_tampered_with(root: Path, path: tuple[Any, ...], value: str) -> None:
    changed(root, path, value)
    assert isinstance(asked(root)[1], str)


def test_links_below_a_cure_are_not_followed(root: Path, tmp_path: Path) -> None:
    trained(tmp_path, "secret", 31_338.0, 0.5)
    for part in ("cure/after-seed0", "cure/after-seed1/events.jsonl"):
        place = root / "bad" / part
        if place.is_dir():
            place.rename(tmp_path / "moved")
        else:
            place.unlink()
        place.symlink_to(tmp_path / "secret" / ("events.jsonl" if part.endswith("jsonl") else ""))
    report = asked(root)[1]
    assert isinstance(report, str)
    assert "31,3" not in report
    assert "31338" not in report
    assert "What cures it" in report


def test_a_circle_of_links_is_one_run_that_is_not_shown(root: Path) -> None:
    for path in sorted((root / "bad" / "cure").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "bad" / "cure").rmdir()
    (root / "bad" / "cure").symlink_to("cure")
    assert all(isinstance(one, RunError) for one in asked(root))


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_a_name_that_is_no_text(root: Path) -> None:
    os.rename(os.fsencode(root / "bad"), os.fsencode(root) + b"/bad\xff")
    assert "good" in [row["name"] for row in within(20, Shelf(root).all)[0]]


def test_many_classes_are_a_table_of_those_mistaken_most(root: Path) -> None:
    many = 1000
    confusion = [[10 if i == j else 0 for j in range(many)] for i in range(many)]
    confusion[500][3] = 7
    review = {
        "kind": "classes", "classes": [f"c{i}" for i in range(many)], "confusion": confusion, "mistaken": [["c500", "c3", 7]],
        "samples": 10_007, "split": "test", "calibration": [], "calibration_error": 0.1, "worst": [],
    }  # fmt: skip
    Run(root / "bad").keep_review(review)
    html = page(Run(root / "bad"), live=False)
    assert len(html) < 300_000
    assert "Of 1,000 classes the table has the 40 that are mistaken most." in html
    assert 'scope="row">c500<' in html
    assert 'scope="row">c999<' not in html


def test_only_plain_files_of_some_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert untrusted.content(tmp_path / "a", most=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        untrusted.content(tmp_path / "a", most=4)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=r"plain file|No such|directory"):
            untrusted.content(other)
    if Path("/dev/zero").exists():
        with pytest.raises(OSError, match="no plain file"):
            untrusted.content(Path("/dev/zero"))
    with pytest.raises(ValueError, match="nested"):
        untrusted.parsed("[" * 100_000)
