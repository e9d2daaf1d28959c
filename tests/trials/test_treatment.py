"""The cure: faulty runs get better and it is proven, healthy runs are left alone, and nothing that helps is nothing claimed."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wellfit
from wellfit.cli import app
from wellfit.errors import OutOfMemory, RunError
from wellfit.events import Stepped
from wellfit.recipe import Recipe
from wellfit.report.comparison import Arm, Comparison
from wellfit.run import Run
from wellfit.trials import candidates, treatment
from wellfit.trials.candidates import Candidate
from wellfit.trials.compare import Way
from wellfit.trials.treatment import CURED, Cure, cure, judged_by, plan

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


@pytest.fixture(scope="module")
def judged(cured: Cure, tmp_path_factory: pytest.TempPathFactory) -> Cure:
    """The same, where nothing is so plain that it is not judged."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("wellfit.trials.treatment.PLAIN", float("inf"))
        return cure(copied(cured, tmp_path_factory.mktemp("judged")), quiet=True)


def copied(cured: Cure, folder: Path) -> Run:
    """The run with all of its trials, for what must not train them again."""
    return Run(Path(shutil.copytree(cured.run.folder, folder / "run")))


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
    assert "Test accuracy: " in str(cured)
    assert cured.comparison.split == "test"
    assert not set(cured.comparison.seeds) & {0, 1, 2, 3}
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
    seed, proven = next(iter(cured.comparison.arms[1].folders.items()))  # type: ignore[union-attr]
    again = wellfit.fit_recipe(
        cured.file, set={"training.seed": seed}, folder=tmp_path / "again", quiet=True, yardsticks=False
    )
    assert again.scores("test") == Run(Path(proven)).scores("test")
    assert Recipe.load(cured.file).training.seed == cured.run.recipe.training.seed


def test_what_is_plain_is_screened_and_proven(cured: Cure) -> None:
    """It halved the loss and left nothing of its kind to find, so none behind it was trained against that, and it was not judged."""
    against = [
        one for one in cured.tried if one.finding == "learning-rate-too-high" and one.before == cured.tried[0].before
    ]
    plain = against[-1]
    assert plain.adopted
    assert plain.remedy == "usual-learning-rate"
    assert "for the proof to judge" in plain.sentence
    assert not any(one.adopted for one in against[:-1])
    assert "clip-gradients" not in {one.remedy for one in cured.tried}  # which is the next
    places = list((cured.run.folder / "cure").glob("usual-learning-rate-*-seed*"))
    assert {place.name.rpartition("-seed")[2] for place in places} == {
        "0",
        "1",
        "2",
        "3",
    }  # the last three, beside the measured rate
    assert cured.comparison is not None
    assert cured.comparison.seeds == (4, 5, 6)


@pytest.mark.parametrize(("gain", "kept"), [(1.05, "usual"), (1.2, "measured")])
def test_the_usual_rate_is_kept_within_a_standard_error(
    cured: Cure, monkeypatch: pytest.MonkeyPatch, gain: float, kept: str
) -> None:
    """Of the held-out samples few are wrong, so what they tell of two good rates is mostly chance."""
    course = treatment._Course.of(cured.run, 3, None, None, lambda _: None)
    of = {name: Way(name, name, cured.run.recipe, {0: cured.run.folder}) for name in ("ill", "measured", "usual")}
    monkeypatch.setattr(course, "_screened", lambda *_: (1.0, of["usual"], 1))
    monkeypatch.setattr(course, "_is_plain", lambda *_: True)
    monkeypatch.setattr(course, "_error", lambda _: 0.1)
    monkeypatch.setattr(course, "_score", lambda _: 0.5)
    both = [
        Candidate(name, "learning-rate-too-high", cured.run.recipe) for name in (candidates.MEASURED, candidates.USUAL)
    ]
    assert course._or_the_usual_rate(of["ill"], (gain, of["measured"], 0), both[0], both)[1].name == kept
    assert course._or_the_usual_rate(of["ill"], (gain, of["measured"], 0), both[0], both[:1])[1].name == "measured"


def test_the_standard_error_is_that_of_the_samples_which_are_wrong(cured: Cure) -> None:
    course = treatment._Course.of(cured.run, 3, None, None, lambda _: None)
    way = Way("ill", "ill", cured.run.recipe, {0: cured.run.folder})
    reached = treatment.outcome(cured.run.folder, "valid")
    assert reached is not None
    wrong = round(course.samples * (1 - reached.scores["accuracy"]))
    assert wrong > 4
    assert course._error(way) == pytest.approx(reached.scores["loss"] / wrong**0.5)
    assert course._least(way, candidates.MEASURED) == pytest.approx(course._error(way))
    assert course._least(way, "clip-gradients") == pytest.approx(0.03 * reached.scores["loss"])
    course.metric = "accuracy"
    share = reached.scores["accuracy"]
    assert course._error(way) == pytest.approx((share * (1 - share) / course.samples) ** 0.5)


def test_no_seed_chooses_and_judges_and_proves(judged: Cure) -> None:
    """Screened with the run's own seed, judged with others, proven with others again."""
    cured, own = judged, judged.run.recipe.training.seed
    assert cured.comparison is not None
    assert cured.comparison.seeds == (own + 4, own + 5, own + 6)
    seeds_of: dict[str, set[int]] = {}
    for file in (cured.run.folder / "cure").glob("*-seed*/recipe.yaml"):
        name, _, seed = file.parent.name.rpartition("-seed")
        seeds_of.setdefault(name, set()).add(int(seed))
    assert sorted(map(sorted, seeds_of.values()))[0][0] in (own, own + 1)
    screened_only = [seeds for seeds in seeds_of.values() if seeds == {own}]
    assert screened_only  # what was not worth a closer look took one run
    closely = [one for one in cured.tried if one.sentence and one.trained]
    assert closely
    assert all("over 3 seeds" in one.sentence for one in closely)


def test_it_is_proven_by_what_it_was_chosen_by(cured: Cure) -> None:
    assert cured.comparison is not None
    assert cured.comparison.metric == cured.metric == "loss"
    assert [other.metric for other in cured.others] == ["accuracy"]
    assert judged_by(cured.run.recipe, ["class-imbalance"], {"f1": 0.2, "accuracy": 0.9}) == "f1"


def test_all_that_was_trained_is_counted(cured: Cure) -> None:
    trained_steps = sum(
        Run(file.parent).ended().step  # type: ignore[union-attr]
        for file in (cured.run.folder / "cure").glob("*/recipe.yaml")
    )
    rates = cured.run.folder / "cure" / "rates.json"
    measured = sum(one["steps"] for one in json.loads(rates.read_text()).values()) if rates.is_file() else 0
    assert cured.steps == trained_steps + measured
    assert f"{cured.steps:,} steps" in str(cured)


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
    before, after = found.comparison.arms
    assert not after.failed
    assert found.comparison.verdict(after).says == "better"
    assert before.failed or before.mean > after.mean


def test_nothing_is_claimed_where_nothing_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remedies that change nothing of consequence."""
    monkeypatch.setattr(candidates, "names", lambda _: ["hold-out", "stop-early"])
    found = cure(trained(tmp_path / "run", optimizer__learning_rate=10.0), quiet=True)
    assert found.tried
    assert found.recipe is None
    assert "No remedy was better by more than 3%" in found.reason
    assert not (tmp_path / "run" / "cure" / CURED).exists()


@pytest.mark.parametrize("runs", [8])
def test_a_budget_is_kept(cured: Cure, tmp_path: Path, runs: int) -> None:
    """Proof included, but for the comparison that is going on."""
    run = copied(cured, tmp_path)
    shutil.rmtree(run.folder / "cure")
    found = cure(run, steps=runs * found_steps(run), quiet=True)
    assert found.steps <= (runs + 6) * found_steps(run)
    assert found.tried


@pytest.mark.parametrize("given", [{"steps": 0}, {"steps": -5}, {"minutes": 0.0}, {"steps": 5, "minutes": 1.0}])
def test_a_budget_of_nothing_is_refused(cured: Cure, given: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="budget"):
        cure(cured.run, **given, quiet=True)


@pytest.mark.parametrize("gain", [0.0, -1.0])
def test_what_the_proof_does_not_confirm_is_no_cure(
    cured: Cure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    """The trials helped and the test does not show it: nothing is called a cure, and none of an earlier call is left."""
    run = copied(cured, tmp_path)
    honest = treatment.side_by_side

    def doubtful(ways: Any, seeds: Any, folder: Path, **how: Any) -> Comparison:
        done = honest(ways, seeds, folder, **how)
        if how.get("split") == "valid":
            return done
        first, second = done.arms
        scores = {seed: first.scores.get(seed, 1.0) - gain for seed in second.folders}
        return dataclasses.replace(
            done, arms=(Arm(first.name, first.about, {s: v + gain for s, v in scores.items()}, {}, first.folders),
                        dataclasses.replace(second, scores=scores)),
        )  # fmt: skip

    assert (run.folder / "cure" / CURED).is_file()
    monkeypatch.setattr(treatment, "side_by_side", doubtful)
    found = cure(run, quiet=True)
    assert found.recipe is None
    assert found.comparison is not None
    assert "not confirmed" in found.reason
    assert "What helps" not in str(found)
    assert not (run.folder / "cure" / CURED).exists()


def test_a_trial_that_cannot_be_trained_is_told_and_the_cure_goes_on(
    judged: Cure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(judged, tmp_path)
    monkeypatch.setattr(treatment, "PLAIN", float("inf"))
    honest = treatment.finished

    def short_of_memory(trial: Any) -> bool:
        if "warmup" in trial.folder.name:
            raise OutOfMemory("There is not enough memory.")
        return honest(trial)

    monkeypatch.setattr(treatment, "finished", short_of_memory)
    found = cure(run, quiet=True)
    assert "not trained. There is not enough memory." in str(found)
    assert found.recipe is not None


def test_two_changes_of_short_trials_are_both_in_the_cured_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that was derived anew is a number when the next change begins from it."""
    asked = iter([["usual-learning-rate"], ["slightly-higher-learning-rate"]])
    now: list[str] = []

    def in_turn(_: str) -> list[str]:
        return now

    monkeypatch.setattr(candidates, "names", in_turn)
    monkeypatch.setattr(
        candidates, "treatable", lambda found: now.__setitem__(slice(None), next(asked, [])) or list(found)
    )
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0, training__epochs=24)
    monkeypatch.setattr(treatment, "WORTH", -10.0)
    found = cure(run, steps=14 * found_steps(run), quiet=True)
    kept = [one.remedy for one in found.adopted]
    assert kept[0] == "usual-learning-rate"
    if found.recipe is not None and "slightly-higher-learning-rate" in kept:
        assert found.recipe.optimizer.learning_rate == pytest.approx(0.003)
    assert found.recipe is not None
    assert found.recipe.training.epochs == 24


def found_steps(run: Run) -> int:
    return run.ended().step  # type: ignore[union-attr]


def test_short_trials_are_proven_at_full_length(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0, training__epochs=24)
    found = cure(run, steps=16 * found_steps(run), quiet=True)
    assert found.recipe is not None
    assert found.comparison is not None
    assert found.recipe.training.epochs == 24
    assert found.recipe.training.steps is None
    assert {arm.steps for arm in found.comparison.arms} == {found_steps(run)}
    lengths = {Run(path.parent).ended().step for path in (run.folder / "cure").glob("*/recipe.yaml")}  # type: ignore[union-attr]
    assert min(lengths) < found_steps(run)


def test_what_cannot_be_treated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Nothing was held out"):
        cure(trained(tmp_path / "a", data__valid_share=0.0), quiet=True)
    with pytest.raises(RunError, match="at least 2"):
        cure(trained(tmp_path / "b"), seeds=1, quiet=True)


def test_the_command_shows_the_change_and_both_curves(cured: Cure) -> None:
    told = CliRunner().invoke(app, ["cure", str(cured.run.folder)])
    assert told.exit_code == 0, told.output
    assert "What helps:" in told.output
    assert (cured.run.folder / "cure" / "cure.png").stat().st_size > 10_000


def test_training_can_end_in_the_cure(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app,
        ["train", "diabetes", "--folder", str(tmp_path / "run"), "--cure"],
    )
    assert told.exit_code == 0, told.output
    assert "nothing to cure" in told.output


@pytest.mark.parametrize("at", [7])
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
    again = cure(cured.run, steps=10 * found_steps(cured.run), quiet=True)
    assert again.tried
    assert cure(cured.run, quiet=True).tried == cured.tried


def test_what_would_be_tried_is_shown_without_training(cured: Cure, tmp_path: Path) -> None:
    run = copied(cured, tmp_path)
    shutil.rmtree(run.folder / "cure")
    first = plan(run)
    assert [one.remedy for one in first][:3] == ["measured-learning-rate", "warmup", "usual-learning-rate"]
    assert not (run.folder / "cure").exists()
    told = CliRunner().invoke(app, ["cure", str(run.folder), "--dry-run"])
    assert told.exit_code == 0, told.output
    assert "optimizer.learning_rate: 10 -> " in told.output
    assert not (run.folder / "cure").exists()


def test_causes_come_in_the_experts_order_and_few_at_a_time() -> None:
    """Data before structure before the rate, however they were ranked; no recipe twice."""
    found = [
        {"id": "learning-rate-too-high", "severity": "error"},
        {"id": "data-not-shuffled", "severity": "warning"},
        {
            "id": "batch-statistics-unreliable",
            "severity": "warning",
            "symptoms": [{"id": "underfitting", "severity": "warning"}],
        },
        {"id": "training-too-short", "severity": "advice"},
    ]
    recipe = Recipe().override(TABLE | {"data.shuffle": False, "optimizer.learning_rate": 1.0, "model.norm": "batch"})
    few = list(candidates.groups(candidates.treatable(found), recipe, same_loss=True))
    assert all(len(group) <= candidates.FEW for group in few)
    order = list(dict.fromkeys(one.finding for group in few for one in group))
    assert order == ["data-not-shuffled", "batch-statistics-unreliable", "underfitting", "learning-rate-too-high"]
    flats = [one.recipe.flat() for group in few for one in group]
    assert all(flat not in flats[:i] for i, flat in enumerate(flats))
    assert not any(
        change.path.startswith("loss.") for group in few for one in group for change in recipe.diff(one.recipe)
    )


def test_other_data_is_no_matter_of_a_remedy(tmp_path: Path) -> None:
    """The labels of the file are not what they were: neither a cure nor a comparison sets new runs beside old ones."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    file = tmp_path / "table.csv"

    def write(targets: Any) -> None:
        rows = [
            ",".join([*(f"{value:g}" for value in x[:6]), f"class-{y}"])
            for x, y in zip(found.data, targets, strict=True)
        ]
        file.write_text("\n".join([",".join([*"abcdef", "label"]), *rows]) + "\n", encoding="utf-8")

    settings = {"data.source": str(file), "data.target": "label", "data.test_share": 0.2, "training.epochs": 3}
    write(found.target)
    run = wellfit.fit_recipe(
        Recipe(),
        set={**settings, "optimizer.learning_rate": 30.0},
        folder=tmp_path / "run",
        quiet=True,
        yardsticks=False,
    )
    wellfit.compare(
        Recipe().override(settings), "optimizer.weight_decay=0.1", seeds=1, folder=tmp_path / "beside", quiet=True
    )
    write(1 - found.target)
    with pytest.raises(RunError, match="not what it was"):
        cure(run, quiet=True)
    with pytest.raises(RunError, match="other data"):
        wellfit.compare(
            Recipe().override(settings), "optimizer.weight_decay=0.1", seeds=2, folder=tmp_path / "beside", quiet=True
        )
    again = wellfit.rerun(run, set={"optimizer.learning_rate": 0.01}, quiet=True)
    assert "The training data is not what it was" in str(again)


def test_what_a_run_lost_is_said(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0)
    record = (run.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    (run.folder / "events.jsonl").write_text("\n".join(line for line in record if "Started" not in line) + "\n")
    with pytest.raises(RunError, match="damaged"):
        cure(run.folder, quiet=True)
    (run.folder / "recipe.yaml").write_text("")
    with pytest.raises(RunError, match="empty"):
        cure(run.folder, quiet=True)


def test_findings_that_were_not_written_are_read_anew(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", optimizer__learning_rate=10.0)
    (run.folder / "findings.jsonl").unlink()
    assert plan(run)[0].finding == "learning-rate-too-high"
    (run.folder / "findings.jsonl").write_text('{"id": "nonsense", "severity": "error", "says": ""}\n')
    assert not plan(run)


def test_a_run_that_was_resumed_when_it_was_over_has_the_same_budget(tmp_path: Path) -> None:
    from wellfit.trials.budget import Budget

    run = trained(tmp_path / "run", optimizer__learning_rate=10.0)
    before = Budget.of(run, seeds=3, steps=None, minutes=None)
    wellfit.resume(run.folder, quiet=True)
    assert Budget.of(run, seeds=3, steps=None, minutes=None).limit == before.limit
