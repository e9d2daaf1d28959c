"""`wellfit runs` and `wellfit show`: on a terminal, in a pipe, narrow, hostile, and with hundreds of runs."""

import io
import os
import re
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest

from journals import BEGAN, FINDING, KILLED, made, started, stepped, valid
from wellfit.cli import main
from wellfit.events import Ended, Evaluated, Noted
from wellfit.run import EVENTS, Journal

HOSTILE = "a\x1b[2Jb\x1b]0;owned\x07c\r\nd\u202ee"
STEERS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x7f\r\u202e]")  # all but colours and line ends


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What a command prints: in a pipe, or on a terminal of so many columns."""

    def call(*words: str, columns: int = 0, status: int = 0) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["wellfit", *words])
        monkeypatch.setenv("TERM", "xterm-256color")
        stream: io.StringIO = Terminal() if columns else io.StringIO()
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        with redirect_stdout(stream), redirect_stderr(stream), pytest.raises(SystemExit) as left:
            main()
        assert (left.value.code or 0) == status, stream.getvalue()
        return stream.getvalue()

    return call


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


@pytest.fixture
def three(tmp_path):
    runs = tmp_path / "runs"
    made(runs, name="a-good", findings=(FINDING,))
    made(runs, KILLED, name="b-killed")
    broken = [started(), *stepped(1), Ended(1, "loss-not-finite", 1.0)]
    made(runs, broken, name="c-failed", findings=({**FINDING, "severity": "error", "id": "loss-not-finite"}, FINDING))
    return runs


@pytest.mark.usefixtures("three")
def test_the_table_in_a_pipe_is_plain_and_whole(told) -> None:
    text = told("runs")
    assert "\x1b" not in text
    head, *rows = plain(text)
    assert head.split() == ["run", "state", "steps", "score", "best", "findings", "age"]
    assert [row.split()[0] for row in rows] == ["c-failed", "b-killed", "a-good"], "latest name first"
    assert re.search(r"a-good +finished +6 +70.0 % test accuracy +step 3 +1 warning +just now|days ago", rows[2])
    assert "killed    3/6    60.0 % validation accuracy" in rows[1]
    assert "failed" in rows[0]
    assert "1 error, 1 warning" in rows[0]


@pytest.mark.usefixtures("three")
def test_sorted_and_filtered(told) -> None:
    def names(*words: str) -> list[str]:
        return [line.split()[0] for line in plain(told("runs", *words))[1:]]

    assert names("--sort", "name") == ["a-good", "b-killed", "c-failed"]
    assert names("--sort", "score")[:2] == ["a-good", "b-killed"]
    assert names("--sort", "findings")[0] == "c-failed"
    assert names("--sort", "steps")[0] == "a-good"
    assert names("--sort", "state")[0] == "a-good"
    assert names("--filter", "KILLED") == ["b-killed"]
    assert names("--filter", "accuracy") == ["b-killed", "a-good"]
    assert "None of the 3 runs" in told("runs", "--filter", "zzz")
    assert "it can be age, name" in told("runs", "--sort", "agee", status=2)
    assert "There is no folder elsewhere" in told("runs", "elsewhere", status=2)


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("columns", [20, 40, 60, 80, 140])
def test_a_terminal_of_any_width_is_fitted(told, columns: int) -> None:
    text = told("runs", columns=columns)
    assert "\x1b[1m" in text
    lines = plain(text)
    assert all(len(line) <= columns for line in lines)
    assert lines[1].startswith("c-failed")
    assert ("warning" in text) == (columns >= 80)
    for name in ("a-good", "b-killed", "c-failed"):
        assert all(len(line) <= max(columns, 40) for line in plain(told("show", f"runs/{name}", columns=columns)))


@pytest.mark.usefixtures("three")
def test_no_colour_where_none_is_wanted(told, monkeypatch) -> None:
    coloured = told("runs", columns=100)
    monkeypatch.setenv("NO_COLOR", "1")
    bare = told("runs", columns=100)
    assert re.search(r"\x1b\[3\dm", coloured)
    assert not re.search(r"\x1b\[[349]\dm", bare)
    assert plain(bare) == plain(coloured)


@pytest.mark.usefixtures("three")
def test_one_run_on_one_screen(told) -> None:
    text = told("show", "runs/a-good")
    assert "\x1b" not in text
    for part in (
        "a-good  finished", "70.0 % test accuracy after 2 epochs", "logistic regression, test", "75.0 %",
        "validation accuracy  █▁", "60.0 % -> 50.0 %, best 60.0 % at step 3", "loss", "1 -> 0.1667",
        "warning: overfitting, from step 3", "> Stop earlier.", "wellfit cure runs/a-good", "wellfit report runs/a-good",
    ):  # fmt: skip
        assert part in text, text
    assert len(text.splitlines()) <= 30


def test_how_to_go_on_follows_from_how_it_stands(three, told) -> None:
    killed = told("show", "runs/b-killed")
    assert "wellfit resume runs/b-killed" in killed
    assert "b-killed  killed" in killed
    from wellfit.run import Run

    journal = Journal(Run(three / "b-killed"))
    training = told("show", "runs/b-killed")
    journal.close()
    assert "It is being trained now: step 3 of 6." in training
    assert "wellfit resume" not in training
    with (three / "b-killed" / EVENTS).open("a") as file:
        file.write('{"event": "Stepp\n')
    assert "1 line of its events.jsonl could not be read" in told("show", "runs/b-killed")
    assert "There is no run at runs/nothing" in told("show", "runs/nothing", status=2)


@pytest.mark.parametrize("columns", [0, 100])
def test_names_cannot_steer_the_terminal(tmp_path, told, columns: int) -> None:
    events = [
        started(), *stepped(1, 2), Noted(1, f"note {HOSTILE}"), Evaluated(2, "valid", {HOSTILE: 0.5}),
        Evaluated(2, "test", {"accuracy": 0.5}, of=HOSTILE), Evaluated(2, "test", {"accuracy": 0.4}),
        Ended(2, HOSTILE, 1.0),
    ]  # fmt: skip
    bad = {"id": HOSTILE, "severity": HOSTILE, "onset_step": 1, "says": HOSTILE, "remedies": [{"words": HOSTILE}]}
    run = made(tmp_path / "runs", events, findings=(bad,))
    run.folder.rename(tmp_path / "runs" / "x\x1b[31my")
    for words in (("runs",), ("show", "runs/x\x1b[31my")):
        text = told(*words, columns=columns)
        assert "x [31my" in text
        assert not STEERS.search(text), repr(text)
    assert "\x1b" not in told("runs", "runs\x1b[31m", status=2)


@pytest.mark.usefixtures("three")
def test_a_terminal_that_spells_no_blocks_gets_signs(told, monkeypatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert "█" not in told("show", "runs/a-good", columns=100)


def test_five_hundred_runs_of_ten_thousand_steps_are_listed_quickly(tmp_path, told) -> None:
    """At most 3 s of a processor: the table of so many runs reads no whole journal."""
    runs = tmp_path / "runs"
    flushes = [event for first in range(1, 10_001, 50) for event in stepped(*range(first, first + 50))]
    first = made(
        runs, [started(steps=10_000), *flushes, valid(10_000, 0.1, 0.9), Ended(10_000, "finished", 9.0)], name="r-0"
    )
    size = (first.folder / EVENTS).stat().st_size
    assert size > 10**6
    for i in range(1, 500):
        other = runs / f"r-{i}"
        other.mkdir()
        for name in ("recipe.yaml", "environment.json", EVENTS):
            os.link(first.folder / name, other / name)
    began = time.process_time()
    text = told("runs")
    spent = time.process_time() - began
    assert len(text.splitlines()) == 501
    assert text.count("90.0 % validation accuracy") == 500
    assert spent < 3, spent


def test_age_is_told_from_the_first_start(tmp_path, told, monkeypatch) -> None:
    made(tmp_path / "runs")
    monkeypatch.setattr(time, "time", lambda: BEGAN + 7200)
    assert "2 h ago" in told("runs")
    assert "finished, 2 h ago" in told("show", "runs/toy")


def test_comparisons_are_named_beside_the_runs(tmp_path, told) -> None:
    made(tmp_path / "runs")
    made(tmp_path / "runs" / "compare-x", name="a-seed0")
    (tmp_path / "runs" / "compare-x" / "comparison.json").write_text("{}")
    assert "`wellfit runs runs/compare-x` lists its runs" in told("runs")
    assert "`wellfit runs runs/compare-x` lists those in it" in told("show", "runs/compare-x", status=2)
