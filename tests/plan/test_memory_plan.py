"""The memory plan beside what torch allocates, beside closed forms, and beside published figures; and what it says of bad input."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

import wellfit
from wellfit.cli import app
from wellfit.errors import HardwareError, ModelError, RecipeError, WellfitError
from wellfit.memory import largest, subject_of
from wellfit.models.recompute import recompute
from wellfit.optim.optimizers import build, state_bytes
from wellfit.plan.hardware import GPUS, gpu_called
from wellfit.plan.meter import Meter, Peak
from wellfit.plan.sharding import sharded
from wellfit.plan.trace import Subject, faked, training
from wellfit.recipe import Optimizer, Recipe
from wellfit.report.memory import CONTEXT, MARGIN, size
from wellfit.train.setup import from_recipe

transformers = pytest.importorskip("transformers")


def optimizer(model: nn.Module, kind: str = "adamw"):
    return build(model, Optimizer(kind=kind, learning_rate=1e-3, weight_decay=0.01, beta2=0.99))


class Blocks(nn.Module):
    def __init__(self, width: int = 128, depth: int = 6):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def mean(model: nn.Module, batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def measured(model: nn.Module, batch, kind: str, precision: str) -> int:
    """The peak of torch's allocator over two plain steps, with what was there before."""
    optimizing = optimizer(model, kind)
    there = sum(t.numel() * t.element_size() for t in (*model.parameters(), *batch))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = mean(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizing.step()
            optimizing.zero_grad(set_to_none=False)
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most + there


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "precision", "every"),
    [("sgd", "fp32", 0), ("adamw", "fp32", 0), ("adamw", "bf16", 1), ("lion", "fp32", 2), ("adafactor", "bf16", 0)],
)
def test_the_peak_is_what_torch_allocates(kind: str, precision: str, every: int) -> None:
    batch = torch.randn(512, 128), torch.randint(0, 10, (512,))
    subject = Subject(Blocks(), mean, batch, lambda m: optimizer(m, kind), precision, checkpointing=every)
    predicted = training(subject).peak.bytes
    model = Blocks()
    if every:
        recompute(model, every)
    assert predicted == pytest.approx(measured(model, batch, kind, precision), rel=0.1)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "adafactor", "lion"])
def test_the_parts_are_those_of_closed_forms(kind: str) -> None:
    model = Blocks(512, 3)
    batch = torch.randn(4, 512), torch.randint(0, 10, (4,))
    found = training(Subject(model, mean, batch, lambda m: optimizer(m, kind))).phases["in the update"].parts
    numbers = sum(p.numel() for p in model.parameters())
    states = sum(state_bytes(kind, p.shape) for p in model.parameters())
    assert found["weights"] == pytest.approx(4 * numbers, rel=0.02)  # but for what an allocator rounds up
    assert found["gradients"] == pytest.approx(4 * numbers, rel=0.02)
    assert found["optimizer"] == pytest.approx(states, rel=0.05)


def test_nothing_of_the_model_changes_and_no_random_number_is_drawn() -> None:
    model = Blocks(32, 2)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    wellfit.memory_plan(model, (torch.randn(8, 32), torch.zeros(8, dtype=torch.long)), "cross-entropy", checkpointing=1)
    torch.randn(8, 32)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any("forward" in vars(block) for block in model.blocks)
    torch.set_rng_state(state)


def test_the_meter_counts_each_storage_once_and_sees_it_die() -> None:
    with faked(), Meter() as meter:
        meter.phase("first")
        x = torch.empty(1024)
        y = x.view(32, 32).t()
        z = x + 1
        del z
        meter.phase("second")
        meter.hold(y, "weights")
    assert meter.peaks()["first"] == Peak(8192, {"weights": 4096, "temporary": 4096}, "first")
    assert meter.peak().bytes == 8192


def test_masks_are_taken_to_choose_everything() -> None:
    def masked(model: nn.Module, batch) -> torch.Tensor:
        out = model(batch[0])
        return nn.functional.cross_entropy(out[batch[1] >= 0], batch[1][batch[1] >= 0])

    batch = torch.randn(16, 32), torch.randint(0, 10, (16,))
    traced = training(Subject(Blocks(32, 2), masked, batch, optimizer))
    assert "is counted as if all of it were" in traced.notes[0]


def test_a_model_without_weights_is_planned_and_made_to_fit() -> None:
    with torch.device("meta"):
        model = Blocks(8192, 16)
    batch = torch.empty(256, 8192), torch.zeros(256, dtype=torch.long)
    plan = wellfit.memory_plan(model, batch, "cross-entropy", gpu="RTX 3060")
    assert plan.fits is False
    assert plan.parts["weights"] == pytest.approx(4 * 16 * 8192**2, rel=0.01)
    assert plan.peak > 15.9 * 16 * 8192**2
    assert all(way.peak < plan.peak for way in plan.ways)
    assert [way.fits for way in plan.ways] == sorted((way.fits for way in plan.ways), reverse=True)
    assert "does not fit on the GeForce RTX 3060" in plan.says[0]
    assert plan.needed == round(plan.peak * (1 + MARGIN)) + CONTEXT
    assert [gpu.memory_gb for gpu in plan.fitting] == sorted(gpu.memory_gb for gpu in plan.fitting)
    assert all((gpu in plan.fitting) == (plan.needed <= gpu.bytes) for gpu in GPUS)


def test_a_recipe_is_planned_as_it_trains() -> None:
    job = from_recipe(Recipe.load("digits"))
    plan = wellfit.memory_plan_recipe("digits")
    assert plan.parameters == sum(p.numel() for p in job.model.parameters())
    assert plan.settings["training.batch_size"] == 64
    heavier = wellfit.memory_plan_recipe("digits", set={"training.batch_size": 512})
    assert heavier.peak > 2 * plan.peak
    assert subject_of(job).evaluated is not None


def test_the_longest_batch_counts() -> None:
    job = from_recipe(Recipe.load("stdlib-kinds"))
    rows = [batch[0].shape for batch in (job.batches.take()[0] for _ in range(20))]
    assert largest(job.batches)[0].shape[1] >= max(shape[1] for shape in rows)


def test_shards_are_shares_and_what_is_fetched() -> None:
    peak = Peak(100, {"weights": 40, "gradients": 40, "activations": 20}, "in the update")
    shared = sharded(peak, 4, largest=5)
    assert shared.parts == {"weights": 10, "gradients": 10, "activations": 20, "gathered": 15}
    assert sharded(peak, 1, largest=5) == peak
    kept = Peak(80, {"weights": 40, "cache": 40}, "while the prompt is read")
    assert sharded(kept, 4, largest=5, serves=True).parts == {"weights": 10, "cache": 10}


# ---- after a run


def test_a_run_is_told_beside_its_plan(tmp_path: Path) -> None:
    wellfit.fit_recipe("wine", set={"training.epochs": 2}, folder=tmp_path / "run", quiet=True, yardsticks=False)
    plan = wellfit.memory_plan_recipe(tmp_path / "run")
    assert plan.measured is not None
    assert not plan.measured.comparable
    assert any("measured" in said and "which is not the same" in said for said in plan.says)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "run"), "--json", str(tmp_path / "plan.json")])
    assert done.exit_code == 0
    assert json.loads((tmp_path / "plan.json").read_text())["measured_bytes"] == plan.measured.bytes


# ---- the command line, and what cannot be


def test_a_run_keeps_what_was_predicted_and_its_report_tells_it(tmp_path: Path) -> None:
    short = {"training.steps": 4, "model.kind": "mlp"}
    run = wellfit.fit_recipe("wine", set=short, folder=tmp_path / "run", quiet=True, yardsticks=True)
    kept = run.memory()
    assert kept["parts"] == dict(wellfit.memory_plan_recipe("wine", set=short).parts)
    assert kept["measured_bytes"] > kept["peak_bytes"] > 0
    page = (run.folder / "report.html").read_text()
    assert f"Predicted {size(kept['peak_bytes'])}; measured {size(kept['measured_bytes'])}" in page
    trial = wellfit.fit_recipe("wine", set=short, folder=tmp_path / "trial", quiet=True, yardsticks=False)
    assert trial.memory() == {}  # nobody reads the report of a trial
    for name, weights in run.model.state_dict().items():
        assert torch.equal(weights, trial.model.state_dict()[name]), name


def test_what_cannot_be_planned_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModelError("It asks for values.")

    monkeypatch.setattr("wellfit.memory.memory_plan_job", fails)
    short = {"training.steps": 3, "model.kind": "mlp"}
    run = wellfit.fit_recipe("wine", set=short, root=tmp_path, quiet=True, yardsticks=True)
    assert run.ended().reason == "finished"
    assert run.memory()["says"] == ["What a step holds was not predicted. It asks for values."]
    assert "was not predicted" in (run.folder / "report.html").read_text()


def test_a_network_that_was_given_is_not_planned_by_itself(tmp_path: Path) -> None:
    class Strict(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert type(x) is torch.Tensor
            return super().forward(x)

    data = torch.randn(64, 4), torch.randint(0, 2, (64,))
    run = wellfit.fit(Strict(4, 2), data, loss="cross-entropy", set={"training.steps": 3}, root=tmp_path, quiet=True)
    assert run.memory() == {}


def test_the_command_tells_parts_and_cards() -> None:
    done = CliRunner().invoke(app, ["plan", "digits", "--precision", "bf16", "--gpu", "RTX 4090"])
    assert done.exit_code == 0
    assert "activations" in done.output
    assert "It fits on the GeForce RTX 4090, which has 24 GB." in done.output
    assert CliRunner().invoke(app, ["hardware"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["plan", "no/such/config.json"], ModelError, "There is no configuration at"),
        (["plan", "digits", "--gpu", "RTX 4900"], HardwareError, "The nearest name is GeForce RTX 4090"),
        (["plan", "digits", "--gpu", "A100"], HardwareError, "may be A100 40GB or A100 80GB SXM"),
        (["plan", "digits", "--lora", "8"], RecipeError, "is for a configuration of Hugging Face"),
        (["plan", "digits", "--batch", "0"], WellfitError, "batch_size"),
        (["plan", "digits", "--devices", "0"], RecipeError, "at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], error: type, says: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, error)
    assert says in str(done.exception)


def test_what_cannot_be_traced_is_said() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.from_numpy(x.detach().numpy() * 2))

    batch = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    with pytest.raises(ModelError, match="cannot be trained on tensors without numbers"):
        wellfit.memory_plan(Reads(), batch, "cross-entropy")
    with pytest.raises(RecipeError, match="Did you mean `adamw`"):
        wellfit.memory_plan(Blocks(), batch, "cross-entropy", optimizer="adamww")
    with pytest.raises(RecipeError, match="it can be fp32, bf16, fp16"):
        wellfit.memory_plan(Blocks(), batch, "cross-entropy", precision="int8")


def test_names_of_gpus() -> None:
    assert gpu_called("rtx 4090").memory_gb == 24
    assert gpu_called("H100").name == "H100 SXM"
    assert all(gpu_called(gpu.name) is gpu for gpu in GPUS)
    assert size(14.02e9) == "14.0 GB"
    assert size(999) == "999 B"
    assert size(123.4e6) == "123 MB"
