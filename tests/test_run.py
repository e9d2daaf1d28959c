"""The run folder appears whole, tolerates torn lines, and tells what a resume redid only once."""

import os
import threading

import pytest

from wellfit.errors import RunError
from wellfit.events import Ended, Evaluated, Noted, Started, Stepped
from wellfit.recipe import Recipe
from wellfit.run import EVENTS, FINDINGS, REVIEW, Journal, Run, runs

RECIPE = Recipe(name="toy")


def started(step: int) -> Started:
    return Started(step, 10, 5, 1, 1, 8, 2, 4, 4, 1, 1, "cpu", "fp32", 0.0)


def made(tmp_path) -> Run:
    return Run.create(tmp_path, RECIPE, {"python": "3"}, {"classes": ["a"]})


def test_create_and_open(tmp_path) -> None:
    run = made(tmp_path)
    again = Run.open(run.folder)
    assert again.recipe == RECIPE
    assert again.environment["python"] == "3"
    assert again.task["classes"] == ["a"]
    assert again.events() == []
    assert made(tmp_path).folder != run.folder
    assert [r.folder for r in runs(tmp_path)] == sorted((r.folder for r in runs(tmp_path)), reverse=True)


def test_what_a_resume_redid_counts_once(tmp_path) -> None:
    run = made(tmp_path)
    first = [
        started(0),
        Noted(0, "hello"),
        *(Stepped(i, 1.0 / i, 1.0, 0.1) for i in range(1, 6)),
        Evaluated(4, "valid", {"loss": 9.0}),
    ]
    second = [
        started(3),
        Noted(0, "hello"),
        *(Stepped(i, 2.0 / i, 1.0, 0.1) for i in range(4, 8)),
        Evaluated(4, "valid", {"loss": 1.0}),
    ]
    for part in (first, second):
        journal = Journal(run)
        journal.write(part)
        journal.close()
    events = run.events()
    assert [e.loss for e in events if isinstance(e, Stepped)] == [1, 1 / 2, 1 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7]
    assert [e.metrics for e in events if isinstance(e, Evaluated)] == [{"loss": 1.0}]
    assert [e.text for e in events if isinstance(e, Noted)] == ["hello"]
    table = run.metrics()
    assert table["step"] == [1, 2, 3, 4, 5, 6, 7]
    assert table["valid_loss"] == [None, None, None, 1.0, None, None, None]
    assert len({len(column) for column in table.values()}) == 1


def test_an_ended_run_that_goes_on_has_not_ended(tmp_path) -> None:
    run = made(tmp_path)
    journal = Journal(run)
    journal.write([started(0), Ended(2, "interrupted", 1.0)])
    assert run.ended() is not None
    journal.write([started(2)])
    assert run.ended() is None
    journal.close()


def test_torn_lines_are_counted_and_mended(tmp_path) -> None:
    run = made(tmp_path)
    (run.folder / EVENTS).write_bytes(b'{"event": "Noted", "step": 1, "text": "a"}\n{"event": "Not\xff')
    journal = Journal(run)
    journal.write([Noted(2, "b")])
    journal.close()
    assert [e.text for e in run.events()] == ["a", "b"]
    assert run.torn == 1


def test_one_writer_at_a_time(tmp_path) -> None:
    pytest.importorskip("fcntl")
    run = made(tmp_path)
    journal = Journal(run)
    with pytest.raises(RunError, match="another process"):
        Journal(run)
    journal.close()
    Journal(run).close()


def test_not_a_run(tmp_path) -> None:
    run = made(tmp_path)
    with pytest.raises(RunError, match=run.folder.name):
        Run.open(run.folder.with_name(run.folder.name + "x"))
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path / "other")


def test_a_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Run.create(tmp_path / "file" / "runs", RECIPE, {}, {})


def test_a_folder_in_use_is_not_mixed_into(tmp_path) -> None:
    run = made(tmp_path)
    with pytest.raises(RunError, match="resume"):
        Run.create(tmp_path, RECIPE, {}, {}, folder=run.folder)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_two_at_once_get_two_folders(tmp_path) -> None:
    made_here: list[Run] = []
    threads = [threading.Thread(target=lambda: made_here.append(made(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.folder for run in made_here}) == 8


@pytest.mark.parametrize(
    ("name", "keep"), [(FINDINGS, lambda run: run.keep_findings([])), (REVIEW, lambda run: run.keep_review({}))]
)
def test_what_cannot_be_kept_is_told_and_leaves_nothing_behind(tmp_path, name, keep) -> None:
    run = made(tmp_path)
    (run.folder / name).mkdir()
    before = sorted(run.folder.iterdir())
    with pytest.raises(RunError, match=f"{name} cannot be written: .*wellfit resume"):
        keep(run)
    assert sorted(run.folder.iterdir()) == before


def test_findings_that_somebody_edited_have_whole_parts(tmp_path) -> None:
    run = made(tmp_path)
    run.keep_findings(
        [{"id": "a", "severity": "error", "says": "b", "onset_step": None, "remedies": {"words": "c"}, "evidence": 3}]
    )
    assert run.findings() == [
        {
            "id": "a",
            "severity": "error",
            "says": "b",
            "onset_step": 0,
            "confidence": 1.0,
            "remedies": [],
            "evidence": {},
        }
    ]
