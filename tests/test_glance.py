"""A glance says how a run stands, and what the whole journal would say, from its ends alone."""

import math
import os
from dataclasses import replace

import pytest

from journals import BEGAN, FINDING, KILLED, WHOLE, made, started, stepped, valid
from wellfit import glance as glancing
from wellfit.events import Ended, Evaluated, Noted, Vitals
from wellfit.glance import glance
from wellfit.run import EVENTS, Journal, Run


def test_a_run_that_is_over(tmp_path) -> None:
    seen = glance(made(tmp_path, findings=(FINDING, {**FINDING, "severity": "error"}, FINDING)))
    assert (seen.state, seen.step, seen.steps, seen.began) == ("finished", 6, 6, BEGAN)
    assert (seen.split, seen.metrics) == ("test", {"loss": 0.8, "accuracy": 0.7})
    assert (seen.best_step, seen.best_value) == (3, 0.9)
    assert seen.findings == {"error": 1, "warning": 2, "advice": 0}


def test_without_a_test_part_the_best_validation_score_stands(tmp_path) -> None:
    events = [started(), *stepped(1, 2), valid(2, 0.5, 0.9), *stepped(3, 4), valid(4, 0.7, 0.8)]
    seen = glance(made(tmp_path, [*events, Ended(4, "early-stopping", 1.0, 2, 0.5)]))
    assert (seen.state, seen.split, seen.metrics["accuracy"]) == ("early-stopping", "valid", 0.9)
    assert glance(made(tmp_path, events, name="killed")).metrics["accuracy"] == 0.8  # the last one


@pytest.mark.parametrize("torn", ["", '{"event": "Step', "\0\0\0", "[" * 70_000])
def test_killed_trained_and_torn(tmp_path, torn: str) -> None:
    run = made(tmp_path, KILLED, torn=torn)
    seen = glance(run)
    assert (seen.state, seen.step, seen.split) == ("killed", 3, "valid")
    assert seen.findings["warning"] == 0
    journal = Journal(run)
    journal.write([Noted(3, "Doctor, warning from step 3: overfitting. The gap grows."), *stepped(4)])
    assert glance(run).state == "training"
    assert glance(run).findings["warning"] == 1
    journal.close()
    assert glance(run).state == "killed"


def test_looking_does_not_keep_a_training_from_beginning(tmp_path) -> None:
    run = made(tmp_path, WHOLE[:3])
    for _ in range(20):
        assert glance(run).state == "killed"
        Journal(run).close()


def test_a_resume_voids_what_came_after(tmp_path) -> None:
    run = made(tmp_path, [*WHOLE, started(3), *stepped(4)])
    seen = glance(run)
    assert (seen.state, seen.step) == ("killed", 4)
    over = [*WHOLE, started(6), Evaluated(3, "test", {"accuracy": 0.71}), Ended(6, "finished", 1.0, 3, 0.9)]
    assert glance(made(tmp_path, over, name="over")).metrics == {"accuracy": 0.71}


def test_it_says_what_the_whole_journal_says_of_a_long_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(glancing, "TAIL", 1 << 12)
    layers = [Vitals(900, "layer", f"block.{i}", {"norm": 1.0}) for i in range(200)]
    events = [replace(started(), steps=1000), *stepped(*range(1, 901)), valid(900, 0.4, 0.9), *layers, *stepped(901)]
    run = made(tmp_path, events)
    seen = glance(run)
    assert (seen.step, seen.steps, seen.metrics["accuracy"]) == (901, 1000, 0.9)
    assert (run.folder / EVENTS).stat().st_size > 1 << 16


def test_what_cannot_be_read_is_told_as_that(tmp_path) -> None:
    run = made(tmp_path, [])
    assert glance(run).state == "not begun"
    (run.folder / EVENTS).unlink()
    assert glance(run).state == "not begun"
    (run.folder / EVENTS).mkdir()
    assert glance(run).state == "unreadable"
    os.rmdir(run.folder / EVENTS)
    (run.folder / EVENTS).write_bytes(os.urandom(200_000))
    assert glance(run).state == "unreadable"
    assert glance(Run(tmp_path / "nowhere")).state == "not begun"
    assert math.isnan(glance(made(tmp_path, [started(), valid(0, math.nan, 0.1)], name="nan")).metrics["loss"])
