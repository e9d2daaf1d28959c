"""A run again from one of its steps: the same bits with nothing changed, and what a change may and may not be."""

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import wellfit
from wellfit.checkpoint import Checkpoints
from wellfit.cli import app, main
from wellfit.data.batches import InMemory
from wellfit.errors import RecipeError, RunError
from wellfit.events import Evaluated, Noted, Stepped
from wellfit.run import CHECKPOINTS, Run
from wellfit.trials import counterfactual
from wellfit.trials.counterfactual import _compared, rerun, state_at

SMALL: dict[str, Any] = {
    "data.source": "digits",
    "model": {"kind": "mlp", "widths": [16], "dropout": 0.3},
    "training.epochs": 2,
    "training.batch_size": 128,
    "data.augment.shift": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Dropout and augmentation draw, so what is repeated must draw the same."""
    return wellfit.fit_recipe(
        wellfit.Recipe(), set=SMALL, folder=tmp_path_factory.mktemp("runs") / "run", quiet=True, yardsticks=False
    )


def steps_of(run: Run) -> list[Stepped]:
    return [event for event in run.events() if isinstance(event, Stepped)]


@pytest.mark.parametrize("step", [0, *random.Random(0).sample(range(1, 22), 4)])
def test_with_nothing_changed_every_bit_is_the_same(run: Run, step: int) -> None:
    again = rerun(run, from_step=step, quiet=True)
    assert again.identical
    assert again.weights_differ is False
    assert again.steps == len(steps_of(run)) - step
    assert [s for s in steps_of(again.run) if s.step > step] == [s for s in steps_of(run) if s.step > step]
    assert again.run.scores("test") == run.scores("test")
    assert "same bits" in str(again)


def test_the_record_before_the_step_is_the_old_one_and_the_run_can_be_resumed(run: Run, tmp_path: Path) -> None:
    again = rerun(run, from_step=7, set={"optimizer.learning_rate": 0.1}, folder=tmp_path / "again", quiet=True)
    old, new = steps_of(run), steps_of(again.run)
    assert new[:7] == old[:7]
    assert [s.step for s in new] == [s.step for s in old]
    assert new[7].learning_rate > 10 * old[7].learning_rate
    assert new[7].loss == old[7].loss
    assert new[8].loss != old[8].loss
    assert again.differs_at == 8
    assert not again.identical
    assert "optimizer.learning_rate: 0.001 -> 0.1" in str(again)
    assert wellfit.resume(tmp_path / "again", quiet=True).scores("valid") == again.run.scores("valid")


def test_the_state_between_two_checkpoints_is_that_of_a_run_that_passed_there(run: Run, tmp_path: Path) -> None:
    saving = wellfit.fit_recipe(
        wellfit.Recipe(),
        set={**SMALL, "checkpoints.every": 1, "checkpoints.keep": 100},
        folder=tmp_path / "all",
        quiet=True,
    )
    expected = Checkpoints(saving.folder / CHECKPOINTS).read("step-00000013")
    found = state_at(run, 13)
    assert found.step == 13
    assert all(torch.equal(value, expected.weights[name]) for name, value in found.weights.items())
    assert not list(run.folder.glob(".until*"))


def stopping(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """A signal comes while the loop takes this step."""
    take = InMemory.take

    def taken(self: InMemory) -> Any:
        if self.position == step:
            os.kill(os.getpid(), number)
        return take(self)

    monkeypatch.setattr(InMemory, "take", taken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_on_the_way_to_the_step_is_a_stop(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stopping(monkeypatch, 4, number)
    with pytest.raises(KeyboardInterrupt, match="on the way to step 9"):
        rerun(run, from_step=9, set={"model.dropout": 0.0}, folder=tmp_path / "again", quiet=True)
    assert not (tmp_path / "again").exists()
    assert not list(run.folder.glob(".until*"))


def test_a_stop_on_the_way_to_the_best_step_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint before the step is made again, too, where it is not kept any more."""
    whole = wellfit.fit_recipe(
        wellfit.Recipe(), set={**SMALL, "training.epochs": 3}, folder=tmp_path / "run", quiet=True, yardsticks=False
    )
    reached: list[int] = []
    original = counterfactual.state_at

    def state_at(run: Run, step: int) -> Any:
        reached.append(step)
        if len(reached) == 2:
            raise KeyboardInterrupt
        return original(run, step)

    monkeypatch.setattr(counterfactual, "state_at", state_at)
    with pytest.raises(KeyboardInterrupt):
        rerun(whole, from_step=25, set={"model.dropout": 0.0}, folder=tmp_path / "again", quiet=True)
    assert len(reached) == 2
    assert not (tmp_path / "again").exists()


def test_the_command_says_that_it_was_stopped(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping(monkeypatch, 4)
    folder = str(tmp_path / "again")
    monkeypatch.setattr(sys, "argv", ["wellfit", "rerun", str(run.folder), "--from-step", "9", "--folder", folder])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    assert capsys.readouterr().err == "wellfit: stopped on the way to step 9, so there is no new run.\n"


def test_a_run_that_breaks_on_the_way_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a library has changed."""
    monkeypatch.setattr(counterfactual.api, "turned", lambda *_: "loss-not-finite")
    with pytest.raises(RunError, match=r"cannot be reached again: .* \(loss-not-finite\)"):
        state_at(run, 9)


def test_scores_that_are_no_numbers_are_the_same_as_themselves() -> None:
    def of(value: float, **more: float) -> Evaluated:
        return Evaluated(4, "valid", {"loss": value, **more})

    assert _compared([of(float("nan"))], [of(float("nan"))], 0) == (0, None)
    for other in (of(1.0), of(float("nan"), accuracy=1.0), Evaluated(4, "valid", {})):
        assert _compared([of(float("nan"))], [other], 0) == (0, 4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer.kind": "sgd"}, "begins without its averages"),
        ({"training.batch_size": 64}, "Batches are of another size"),
    ],
)
def test_what_cannot_be_taken_over_is_said(run: Run, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    again = rerun(run, from_step=9, set=changes, folder=tmp_path / "again", quiet=True)
    assert any(says in event.text for event in again.run.events() if isinstance(event, Noted))


def test_dropout_may_change_in_the_middle_and_widths_may_not(run: Run, tmp_path: Path) -> None:
    assert rerun(run, from_step=9, set={"model.dropout": 0.0}, folder=tmp_path / "a", quiet=True).changes
    with pytest.raises(RecipeError, match="--from-step 0"):
        rerun(run, from_step=9, set={"model.widths": [32]}, folder=tmp_path / "b", quiet=True)
    assert not (tmp_path / "b").exists()
    assert rerun(run, set={"model.widths": [32]}, folder=tmp_path / "c", quiet=True).run.ended() is not None


@pytest.mark.parametrize("step", [-1, 10_000])
def test_a_step_that_the_run_does_not_have_is_refused(run: Run, step: int) -> None:
    with pytest.raises(RunError, match="has steps 0 to 22"):
        rerun(run, from_step=step, quiet=True)


def test_the_last_step_has_nothing_after_it(run: Run) -> None:
    with pytest.raises(RunError, match="nothing comes after it"):
        rerun(run, from_step=22, quiet=True)


def test_several_processes_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match="Repeating a run takes one process, and torchrun started 4"):
        rerun(run, quiet=True)
    with pytest.raises(RecipeError, match="A learning curve takes one process"):
        wellfit.learning_curve("digits", quiet=True)


def test_a_run_of_a_model_passed_in_python_is_refused(tmp_path: Path) -> None:
    x, y = torch.randn(64, 3), torch.randint(0, 2, (64,))
    given = wellfit.fit(
        torch.nn.Linear(3, 2),
        (x, y),
        loss="cross-entropy",
        set={"training.steps": 3},
        folder=tmp_path / "run",
        quiet=True,
    )
    with pytest.raises(RunError, match=r"passed to `wellfit\.fit`"):
        rerun(given, quiet=True)


def test_the_command_says_that_the_bits_are_the_same(run: Run, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["rerun", str(run.folder), "--from-step", "15", "--folder", str(tmp_path / "again")])
    assert told.exit_code == 0, told.output
    assert "same bits" in " ".join(told.output.split())


def test_the_command_notices_other_bits(run: Run, tmp_path: Path) -> None:
    """As if a library had changed: the parent's record says something else."""
    path = run.folder / "events.jsonl"
    before = path.read_text(encoding="utf-8")
    lines = before.splitlines()
    at = next(i for i, line in enumerate(lines) if '"Stepped"' in line and '"step": 18' in line)
    lines[at] = lines[at].replace('"loss": ', '"loss": 1')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        told = CliRunner().invoke(
            app, ["rerun", str(run.folder), "--from-step", "15", "--folder", str(tmp_path / "again")]
        )
    finally:
        path.write_text(before, encoding="utf-8")
    assert told.exit_code == 3
    assert "step 18 is the first" in " ".join(told.output.split())
