"""The cure: faulty runs get better and it is proven, healthy runs are left alone, and nothing that helps is nothing claimed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wellfit
from wellfit.cli import app
from wellfit.errors import RunError
from wellfit.events import Stepped
from wellfit.recipe import Recipe
from wellfit.run import Run
from wellfit.trials.treatment import CURED, Cure, cure

TABLE: dict[str, Any] = {
    "data.source": "breast-cancer", "model": {"kind": "mlp", "widths": [32, 32]}, "training.epochs": 12, "training.batch_size": 32,
}  # fmt: skip


def trained(folder: Path, **changes: Any) -> Run:
    settings = TABLE | {name.replace("__", "."): value for name, value in changes.items()}
    return wellfit.fit_recipe(Recipe(), set=settings, folder=folder, quiet=True, yardsticks=False)


@pytest.fixture(scope="module")
def cured(tmp_path_factory: pytest.TempPathFactory) -> Cure:
    """A rate of ten, treated."""
    return cure(trained(tmp_path_factory.mktemp("cure") / "run", optimizer__learning_rate=10.0), quiet=True)


def test_what_was_found_is_treated_and_proven(cured: Cure) -> None:
    assert [one["id"] for one in cured.findings] == ["learning-rate-too-high"]
    assert cured.recipe is not None
    assert cured.comparison is not None
    assert cured.recipe.optimizer.learning_rate is not None
    assert cured.recipe.optimizer.learning_rate <= 1
    before, after = cured.comparison.arms
    assert cured.comparison.verdict(after).says == "better"
    assert len(after.scores) == 3
    assert len(before.folders) == 3
    assert cured.comparison.split == "test"
    assert not [one for one in cured.left if one["id"] == "learning-rate-too-high"]


def test_the_change_is_small_shown_and_has_its_reason(cured: Cure) -> None:
    assert {change.path for change in cured.changes} <= {
        "optimizer.learning_rate",
        "optimizer.weight_decay",
        "schedule.warmup_steps",
    }
    assert f"optimizer.learning_rate: 10 -> {cured.recipe.optimizer.learning_rate:g}" in str(cured)  # type: ignore[union-attr]
    origin = cured.recipe.origin("optimizer.learning_rate")  # type: ignore[union-attr]
    assert origin.by == "measured"
    assert "90 % interval over 3 seeds" in origin.why


def test_the_cured_recipe_repeats_what_was_proven(cured: Cure, tmp_path: Path) -> None:
    assert cured.file is not None
    assert cured.file.name == CURED
    again = wellfit.fit_recipe(cured.file, folder=tmp_path / "again", quiet=True, yardsticks=False)
    assert again.scores("test") == Run(Path(cured.comparison.arms[1].folders[0])).scores("test")  # type: ignore[union-attr]


def test_trials_lie_under_the_run_and_a_second_call_trains_nothing(cured: Cure) -> None:
    folder = cured.run.folder / "cure"
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/events.jsonl")}
    assert len(stamps) >= 4
    again = cure(cured.run, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/events.jsonl")} == stamps
    assert again.changes == cured.changes
    assert again.tried == cured.tried
    assert json.loads((folder / "cure.json").read_text(encoding="utf-8"))["changes"]


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    found = cure(trained(tmp_path / "run"), quiet=True)
    assert not found.tried
    assert found.recipe is None
    assert "nothing to cure" in found.reason
    assert not (tmp_path / "run" / "cure").exists()


def test_a_run_that_broke_is_rescued(tmp_path: Path) -> None:
    run = wellfit.fit_recipe(
        Recipe(),
        set={
            "data.source": "diabetes", "model": {"kind": "mlp", "widths": [16]}, "training.epochs": 4, "optimizer.kind": "sgd",
            "optimizer.learning_rate": 80.0, "training.max_grad_norm": None,
        },
        folder=tmp_path / "run", quiet=True, yardsticks=False,
    )  # fmt: skip
    assert run.ended().reason == "loss-not-finite"  # type: ignore[union-attr]
    found = cure(run, quiet=True)
    assert found.recipe is not None
    assert found.comparison is not None
    assert found.comparison.verdict(found.comparison.arms[1]).rescued == 3 or found.comparison.arms[0].failed


def test_nothing_is_claimed_where_nothing_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remedies that change nothing of consequence."""
    from wellfit.trials import treatment

    monkeypatch.setattr(treatment, "_changes_of", lambda _: ["hold-out", "stop-early"])
    found = cure(trained(tmp_path / "run", optimizer__learning_rate=10.0), quiet=True)
    assert found.tried
    assert found.recipe is None
    assert "No remedy helped" in found.reason
    assert not (tmp_path / "run" / "cure" / CURED).exists()


def test_a_budget_is_kept(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0)
    found = cure(run, steps=4 * found_steps(run), quiet=True)
    assert found.steps <= 16 * found_steps(run)  # the round that is going on is ended


def found_steps(run: Run) -> int:
    return run.ended().step  # type: ignore[union-attr]


def test_short_trials_are_proven_at_full_length(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0, training__epochs=24)
    found = cure(run, steps=30 * 80, quiet=True)
    assert found.recipe is not None
    assert found.comparison is not None
    assert found.recipe.training.epochs == 24
    assert found.recipe.training.steps is None
    assert {arm.steps for arm in found.comparison.arms} == {found_steps(run)}
    assert min(Run(path.parent).ended().step for path in (run.folder / "cure").glob("1-*/recipe.yaml")) < found_steps(
        run
    )  # type: ignore[union-attr]


def test_what_cannot_be_treated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Nothing was held out"):
        cure(trained(tmp_path / "a", data__valid_share=0.0), quiet=True)
    with pytest.raises(RunError, match="at least 2"):
        cure(trained(tmp_path / "b"), seeds=1, quiet=True)


def test_the_command_shows_the_change_and_both_curves(cured: Cure) -> None:
    told = CliRunner().invoke(app, ["cure", str(cured.run.folder)])
    assert told.exit_code == 0, told.output
    assert "The smallest change that helps" in told.output
    assert (cured.run.folder / "cure" / "cure.png").stat().st_size > 10_000


def test_training_can_end_in_the_cure(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app,
        ["train", "diabetes", "--folder", str(tmp_path / "run"), "--cure"],
    )
    assert told.exit_code == 0, told.output
    assert "nothing to cure" in told.output


@pytest.mark.parametrize("at", [1, 9])
def test_a_stop_ends_the_cure_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A signal reaches the run that is going on, be it a first trial or one of further seeds; nothing is trained after it."""
    from wellfit.trials import trial

    run = trained(tmp_path / "run", optimizer__learning_rate=10.0)
    begun: list[Path] = []
    fit = trial.api.fit_recipe

    def stopped(recipe: Recipe, **given: Any) -> Run:
        begun.append(given["folder"])
        if len(begun) == at:
            given["observers"] = [
                lambda event: (
                    os.kill(os.getpid(), signal.SIGTERM) if isinstance(event, Stepped) and event.step == 1 else None
                )
            ]
        return fit(recipe, **given)

    monkeypatch.setattr(trial.api, "fit_recipe", stopped)
    first = cure(run, quiet=True)
    assert first.missing
    assert first.recipe is None
    assert len(begun) == at
    assert "goes on" in first.reason
    second = cure(run, quiet=True)
    assert not second.missing
    assert second.recipe is not None
    assert len(set(begun)) == len(begun)  # what was stopped was resumed, and nothing trained twice


def test_another_budget_makes_other_trials(cured: Cure) -> None:
    """Short trials have the names of long ones, and do not meet them."""
    again = cure(cured.run, steps=30 * 40, quiet=True)
    assert again.tried
    assert cure(cured.run, quiet=True).tried == cured.tried
