"""Where a step goes: the parts add up, what is slow is named, what helps is measured, and everything stays as it was."""

import copy
import gzip
import json
import os
import random
import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import commands
import wellfit
from wellfit.errors import DataError, ModelError, RecipeError, RunError, WellfitError
from wellfit.recipe import Hardware, Recipe
from wellfit.report.profile import Lever, Profile, surely
from wellfit.train.setup import from_given, from_recipe
from wellfit.trials.levers import Candidate, candidates, combined, decided, lengths, matmul_precision, threads, tried
from wellfit.trials.operators import covered
from wellfit.trials.short import ShortTraining
from wellfit.trials.stopwatch import Stopwatch

WINE = {"data.source": "wine", "model.kind": "mlp", "training.batch_size": 16, "training.steps": 400}


def table(samples: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 16, generator=draw)
    return x, (x[:, 0] > 0).long()


class Sleepy(nn.Module):
    """Computes next to nothing, and takes 10 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return self.inner(x)


class Heavy(torch.autograd.Function):
    """The identity, whose backward pass multiplies matrices for some milliseconds."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004
        big = torch.ones(400, 400)
        for _ in range(4):
            big = big @ big / 400
        return gradient * big.mean()


class HeavyBehind(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Heavy.apply(x)


class FromDisk(Dataset):
    """Each sample takes 4 ms."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.004)
        return torch.full((16,), i / 200), i % 2


def network(middle: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), middle or nn.Linear(32, 32), nn.Dropout(0.1), nn.Linear(32, 2))


def profiled(model: nn.Module, data=None, **more) -> Profile:
    more = {"steps": 12, "changes": [], "loss": "cross-entropy", "set": {"training.batch_size": 16}} | more
    return wellfit.profile(model, table() if data is None else data, **more)


# ---- the parts of a step


def test_parts_add_up_to_the_step_and_shares_to_one() -> None:
    began = time.perf_counter()
    found = profiled(network(), steps=40)
    spent = time.perf_counter() - began
    assert sum(found.shares.values()) == pytest.approx(1)
    assert sum(found.phases.values()) == pytest.approx(sum(found.each) / 40)
    assert len(found.each) == 40
    assert 0 < sum(found.each) < spent
    assert {part for part, seconds in found.phases.items() if seconds} == {
        "data",
        "forward",
        "backward",
        "update",
        "rest",
    }
    assert found.samples_per_second == pytest.approx(16 / found.seconds)
    assert 0 <= found.between < 1


def test_time_goes_to_the_verb_that_takes_it(monkeypatch) -> None:
    """A sleep in one verb of the loop is found in that part, and in no other."""
    job = from_given(Recipe().override({"training.batch_size": 16}), network(), table(), loss="cross-entropy")
    training = ShortTraining(job)
    for of, name, part in (
        (type(job.batches), "take", "data"), (type(job.task), "loss", "forward"), (type(job.precision), "backward", "backward"),
        (type(job.gradients), "clip", "update"), (type(job.task), "weight", "rest"),
    ):  # fmt: skip
        watch = Stopwatch(job, warm=2, steps=6)
        with monkeypatch.context() as patch:
            patch.setattr(of, name, sleeping(getattr(of, name)))
            training.turn(watch, watch.total, around=watch.watching)
        stretch = watch.stretch()
        assert stretch.mean(part) > 0.016, name  # of the first batch the ten that were gathered with it pay their share
        assert all(stretch.mean(other) < 0.01 for other in stretch.phases if other != part), name
    assert not {"take", "loss", "backward", "clip"} & set(vars(job.batches) | vars(job.task) | vars(job.precision))


def sleeping(verb):
    def call(*args, **more):
        time.sleep(0.02)
        return verb(*args, **more)

    return call


def test_what_is_gathered_for_many_steps_is_paid_by_all_of_them() -> None:
    """An augmentation of a whole chunk falls into one step; its time is shared by the batches that it made."""
    recipe = Recipe().override({"training.batch_size": 16, "data.shuffle": False})
    job = from_given(recipe, network(), table(160), loss="cross-entropy")
    job.batches.change = lambda chunk, *_: (time.sleep(0.1), chunk)[1]  # of all ten batches of an epoch
    watch = Stopwatch(job, warm=2, steps=4)
    ShortTraining(job).turn(watch, watch.total, around=watch.watching)
    waited = watch.stretch().mean("data")
    assert 0.1 / 8 * 0.9 < waited < 0.1 / 8 * 1.6, "two batches of the epoch were gone, eight are gathered"


def test_comparing_leaves_out_when_others_have_the_processor(monkeypatch) -> None:
    """Half of each sleep is told as time without a processor; in a comparison it is not counted, in a profile it is told."""
    job = from_given(Recipe().override({"training.batch_size": 16}), network(Sleepy()), table(), loss="cross-entropy")
    waited = 0.0

    plain = type(job.task).loss

    def loss(*arguments):
        nonlocal waited
        waited += 0.005
        return plain(*arguments)

    monkeypatch.setattr("wellfit.trials.stopwatch.queued_seconds", lambda: waited)
    monkeypatch.setattr(type(job.task), "loss", loss)
    left_out = []
    for _ in range(5):  # others may really have the processor, in one of the two
        stretches = {}
        for comparing in (False, True):
            watch = Stopwatch(job, warm=1, steps=20, comparing=comparing)
            ShortTraining(job).turn(watch, watch.total, around=watch.watching)
            stretches[comparing] = watch.stretch()
        left_out.append(stretches[False].typical - stretches[True].typical)
        if left_out[-1] == pytest.approx(0.005, abs=0.003):
            break
    assert left_out[-1] == pytest.approx(0.005, abs=0.003), left_out
    assert 0.1 < stretches[False].crowded < 0.6


# ---- what is slow is named


def test_a_slow_module_is_the_slowest() -> None:
    found = profiled(network(Sleepy()), trace=None)
    slowest = found.layers[0]
    assert (slowest.name, slowest.kind) == ("2", "Sleepy")
    assert slowest.forward > 0.01
    assert slowest.share > 0.5
    assert slowest.forward > 5 * next(one for one in found.layers if one.name == "2.inner").seconds
    assert found.shares["forward"] > 0.5
    assert "2" in str(found).partition("slowest layers")[2].splitlines()[1]


def test_a_layer_whose_backward_pass_is_slow_is_the_slowest() -> None:
    """What autograd computes belongs to the layer that made the node."""
    found = profiled(network(HeavyBehind()))
    slowest = found.layers[0]
    assert (slowest.name, slowest.kind) == ("2", "HeavyBehind")
    assert slowest.backward > 10 * slowest.forward
    product = next(one for one in found.operators if one.name == "aten::mm")
    assert product.where.startswith("2")
    assert product is found.operators[0]
    assert product.calls == 4 + 3, (
        "of the slow one, and two linear layers, of which the first needs no gradient of its inputs"
    )


def test_recomputed_blocks_count_in_the_backward_pass() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), Sleepy()) for _ in range(2)))
    settings = {"training.batch_size": 16, "hardware.activation_checkpointing": 1}
    found = profiled(network(blocks), set=settings, steps=5)
    sleepy = [one for one in found.layers if one.kind == "Sleepy"]
    assert {one.name for one in found.layers[:2]} == {one.name for one in sleepy}
    assert all(one.forward > 0.01 and one.backward > 0.01 for one in sleepy)


def test_overlapping_spans_count_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 3), (1, 1.5)]) == 4
    assert covered([]) == 0


def test_operations_are_counted() -> None:
    """Two linear layers: 2 x rows x in x out forward; backward twice that, but for the inputs' gradient, which nobody wants."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
    found = profiled(model)
    first, second = 2 * 16 * 16 * 64, 2 * 16 * 64 * 2
    assert found.flops == 2 * first + 3 * second
    assert found.attainable > 1e8
    recurrent = wellfit.profile("sunspots", steps=2, changes=[])
    assert recurrent.flops is None or not any(one.kind in ("LSTM", "GRU") for one in recurrent.layers)


# ---- data


def test_slow_data_is_told_and_workers_bring_a_real_gain() -> None:
    found = profiled(network(), FromDisk(), changes=None, steps=8)
    assert found.shares["data"] > 0.6
    assert found.loading == "here"
    two = next(lever for lever in found.levers if lever.change == "data.workers=2")
    assert two.verdict == "faster"
    assert two.factor > 1.3
    assert two.differs == 0, "loading elsewhere changes no bit"
    assert found.together.verdict == "faster"
    assert "data.workers" in found.held[0].change
    told = " ".join(found.says)
    assert "Data is the bottleneck" in told
    assert f"First: --set {found.gained[0].change}" in told
    assert "ahead of training, and keep the result" in told


def test_a_loader_is_told_its_own_setting() -> None:
    job = from_given(Recipe(), network(), DataLoader(FromDisk(), batch_size=8), loss="cross-entropy")
    found = [one for one in candidates(job, 0.5, 0.1, loader=True) if one.workers]
    assert [(one.told, one.kind, dict(one.change)) for one in found] == [("DataLoader(num_workers=2)", "code", {})]
    assert not [one for one in candidates(job, 0.01, 0.1, loader=True) if one.workers], "there is nothing to gain"


def test_loading_settles_before_it_is_timed() -> None:
    """Processes that prefetch make the first batches look fast: the warm-up takes those, and a round has several turns of all."""
    job = from_given(Recipe().override({"data.workers": 4}), network(), FromDisk(), loss="cross-entropy")
    timed, warm = lengths(job, 0.01)
    assert warm >= 8
    assert timed >= 16


# ---- changes


def test_a_change_that_does_nothing_is_not_called_a_gain() -> None:
    """False alarms of the rule by itself, on ratios that are noise; and a true gain is seen."""
    draw = np.random.default_rng(0)

    def verdict(gain: float, noise: float) -> str:
        factors: list[float] = []
        while True:
            factors.append(float(gain * np.exp(noise * draw.standard_normal())))
            lever = Lever("a=b", "recipe", "", "", tuple(factors))
            if decided(lever):
                return lever.verdict

    assert sum(verdict(1.0, 0.1) == "faster" for _ in range(600)) <= 24
    assert sum(verdict(1.0, 0.02) == "faster" for _ in range(600)) <= 24
    assert sum(verdict(1.5, 0.1) == "faster" for _ in range(100)) >= 95
    assert sum(verdict(0.6, 0.1) == "nothing" for _ in range(100)) <= 50, "clearly slower is left early, or told"
    assert verdict(1.01, 1e-4) == "nothing", "real, and not worth a sentence"


def test_the_interval_is_students() -> None:
    from scipy import stats

    factors = (1.2, 1.3, 1.25, 1.4)
    logs = np.log(factors)
    low, high = stats.t.interval(0.99, 3, logs.mean(), stats.sem(logs))
    assert surely(factors) == pytest.approx((np.exp(low), np.exp(high)))
    assert surely((1.0, 2.0)) is None


def test_less_recomputation_and_larger_micro_batches_are_tried_and_told() -> None:
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), Sleepy()) for _ in range(3)))
    settings = {
        "training.batch_size": 16, "hardware.activation_checkpointing": 1, "training.gradient_accumulation_steps": 2,
    }  # fmt: skip
    found = profiled(network(blocks), set=settings, steps=3, changes=None)
    gains = {lever.change: lever for lever in found.gained}
    assert set(gains) >= {"hardware.activation_checkpointing=0", "training.gradient_accumulation_steps=1"}
    assert gains["hardware.activation_checkpointing=0"].differs == 0
    assert gains["hardware.activation_checkpointing=0"].factor == pytest.approx(2, rel=0.2), "half of the sleeps"
    assert gains["training.gradient_accumulation_steps=1"].bits
    assert found.together.factor > 1.5 * gains["hardware.activation_checkpointing=0"].factor
    assert "All that gain, together" in " ".join(found.says)
    assert {one.change for one in found.held} >= set(gains)


def test_what_is_not_said_to_change_numbers_changes_none() -> None:
    job = from_recipe(Recipe().override(WINE | {"hardware.activation_checkpointing": 1, "model.widths": [32, 32]}))
    base = ShortTraining(job)
    offered = candidates(job, 0.0, 0.01)
    assert "hardware.activation_checkpointing=0" in {one.told for one in offered}
    for one in offered:
        lever = tried(base, one, lambda recipe: ShortTraining(from_recipe(recipe)), 0.01)
        assert lever.bits or lever.differs == 0, lever


def test_bf16_is_asked_for_and_its_change_is_measured() -> None:
    found = wellfit.profile("wine", steps=4, changes=["hardware.precision=bf16"])
    [lever] = found.levers
    assert lever.change == "hardware.precision=bf16"
    assert 1e-6 < lever.differs < 0.1
    assert lever.verdict in ("nothing", "slower", "faster")
    assert len(lever.factors) >= 3
    rows = found.tried()
    assert rows[1][0] == "hardware.precision=bf16"
    assert "differ by" in rows[1][3]


def test_what_a_device_can_decides_what_is_tried(monkeypatch) -> None:
    job = from_recipe(Recipe().override({"data.source": "digits", "hardware.device": "cpu"}))

    def offered(**more) -> set[str]:
        return {one.told for one in candidates(job, 0.0, **{"seconds": 0.1} | more)}

    assert offered() == {"training.deterministic=false"} | channels_last()
    assert offered(seconds=10.0) - offered() == {"hardware.compile=true"}, "long enough to earn the compiler back"
    job.device = "cuda"
    for can, precision in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr("wellfit.trials.levers.multiplies_bf16", lambda _, can=can: can)
        found = offered()
        assert f"hardware.precision={precision}" in found
        assert 'torch.set_float32_matmul_precision("high")' in found
    job.device = "cpu"
    job.recipe = job.recipe.override({"training.deterministic": False, "training.gradient_accumulation_steps": 4})
    steps = "training.gradient_accumulation_steps="
    assert offered() == {f"{steps}1", f"{steps}2"} | channels_last()


def channels_last() -> set[str]:
    """What convolutions may gain from, where a recipe has it."""
    return {"hardware.channels_last=true"} if "channels_last" in Hardware.model_fields else set()


def test_what_fails_is_told_and_the_rest_goes_on() -> None:
    """A network without blocks cannot recompute any; a batch that is larger than the data cannot be."""
    found = profiled(
        nn.Linear(16, 2), changes=["hardware.activation_checkpointing=1", "training.batch_size=1000"], steps=2
    )
    assert [lever.verdict for lever in found.levers] == ["failed", "failed"]
    assert "no blocks were found" in " ".join(found.says)
    assert "only 256 training samples" in " ".join(found.says)
    assert found.together is None
    assert "not measured" in str(found)


def test_time_that_is_over_is_told() -> None:
    found = profiled(
        network(), changes=["hardware.precision=bf16", "training.max_grad_norm=null"], steps=2, minutes=1e-9
    )
    assert not found.levers
    assert "Not tried" in " ".join(found.says)
    assert "training.max_grad_norm=null" in " ".join(found.says)


def test_a_change_that_begins_late_does_not_pay_in_a_short_training() -> None:
    late = Lever("hardware.compile=true", "recipe", "compiled", "rounding", (1.5, 1.51, 1.49, 1.5, 1.5), begins=60.0)
    assert late.verdict == "faster"
    assert late.pays_after(0.1) == pytest.approx(60 / (0.1 - 0.1 / 1.5))
    short, long = (told_by(whole=whole, levers=(late,)) for whole in (100, 100_000))
    assert not short.gained
    assert "does not pay here" in " ".join(short.says)
    assert long.gained == [late]
    assert "1,800 steps earn back" in " ".join(long.says)


def told_by(**more) -> Profile:
    usual = dict(
        name="n", settings={}, parameters=1, whole=100, each=(0.1,) * 5, phases={"data": 0.02, "forward": 0.08}, samples_per_second=1.0,
        profiled=0.1, operators=(), between=0.0, layers=(),
    )  # fmt: skip
    return Profile(**(usual | more))


def test_what_did_not_hold_is_not_recommended() -> None:
    lucky = Lever("a.b=1", "recipe", "luck", "", (1.3, 1.31, 1.3))
    again = Lever("a.b=1", "recipe", "luck", "", (0.98, 1.01, 1.02, 1.0, 0.99))
    found = told_by(levers=(lucky,), together=again)
    assert found.held == []
    assert "did not hold" in " ".join(found.says)


def test_several_changes_are_one_and_switches_are_put_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    import functools

    both = combined([
        Candidate("a.b=1", "", change={"a.b": 1}), Candidate("data.workers=2", "", change={"data.workers": 2}, workers=2),
        Candidate("code()", "", "rounding", kind="code", switch=functools.partial(matmul_precision, "high")),
        Candidate("OMP_NUM_THREADS=2", "", kind="environment", switch=functools.partial(threads, 2)),
    ])  # fmt: skip
    assert both.told == "--set a.b=1 --set data.workers=2 code() OMP_NUM_THREADS=2"
    assert both.change == {"a.b": 1, "data.workers": 2}
    assert both.workers == 2
    assert both.bits == "rounding"
    with both.switch():
        assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("high", 2)
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before


# ---- the trace


@pytest.mark.parametrize("name", ["steps.json", "steps.json.gz"])
def test_the_trace_has_our_ranges(tmp_path, name: str) -> None:
    profiled(network(Sleepy()), steps=4, trace=tmp_path / name)
    text = gzip.decompress((tmp_path / name).read_bytes()) if name.endswith("gz") else (tmp_path / name).read_bytes()
    events = json.loads(text)["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert names.count("wellfit: step") == 4
    for part in ("data", "forward", "backward"):
        assert names.count(f"wellfit: {part}") == 4, part
    assert names.count("layer: 2.inner") == 4
    assert any(one.startswith("aten::") for one in names)
    assert os.listdir(tmp_path) == [name]


def test_the_profiler_leaves_nothing_on_the_terminal() -> None:
    """In a process of its own: torch's profiler asks once, when it is first used, how much it may say."""
    program = """
import os, torch, wellfit
from torch import nn
wellfit.profile(nn.Linear(4, 2), (torch.randn(64, 4), torch.randint(0, 2, (64,))), loss="cross-entropy", steps=2, changes=[])
assert "KINETO_LOG_LEVEL" not in os.environ
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- nothing is touched


def test_model_optimizer_generators_and_files_stay_bit_for_bit(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = network(nn.BatchNorm1d(32)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    nn.functional.cross_entropy(model(table()[0]), table()[1]).backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(*table()), batch_size=32, shuffle=True, generator=generator)
    random.seed(1), np.random.seed(2), torch.manual_seed(4)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), generator.get_state()
    hooks = [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()]
    found = wellfit.profile(
        model, loader, loss="cross-entropy", optimizer=optimizer, steps=4, changes=["hardware.precision=bf16"]
    )
    assert found.name == "Sequential"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(torch.equal(p.grad, before) for p, before in zip(model.parameters(), gradients, strict=True))
    assert repr(optimizer.state_dict()) == repr(state)
    for mine, then in zip(optimizer.state_dict()["state"].values(), state["state"].values(), strict=True):
        assert all(torch.equal(mine[name], then[name]) for name in then)
    now = torch.get_rng_state(), np.random.get_state()[1], random.getstate(), generator.get_state()
    assert torch.equal(now[0], states[0])
    assert (now[1] == states[1]).all()
    assert now[2] == states[2]
    assert torch.equal(now[3], states[3])
    assert [(dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()] == hooks
    assert torch.get_deterministic_debug_mode() == 0
    assert os.listdir(tmp_path) == []


def test_own_batches_can_be_taken_again() -> None:
    """A list of batches, which nothing cuts or loads otherwise; and an optimizer that wellfit does not know."""
    model = network()
    x, y = table(64)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    found = wellfit.profile(
        model, batches, loss="cross-entropy", optimizer=torch.optim.RMSprop(model.parameters()), steps=9, changes=[]
    )
    assert found.loading == "batches"
    assert found.samples_per_second == pytest.approx(16 / found.seconds)


# ---- what cannot be asked


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: wellfit.profile("digitz"), RecipeError, "Did you mean `digits`?"),
        (lambda: wellfit.profile("wine", steps=0), RecipeError, "`steps` is 0"),
        (lambda: wellfit.profile("wine", minutes=0), RecipeError, "`minutes` is 0"),
        (lambda: wellfit.profile("wine", loss="mse"), RecipeError, "names its own data"),
        (lambda: wellfit.profile(Recipe(task="given")), RecipeError, "passed to `wellfit.fit`"),
        (lambda: wellfit.profile("wine", trace="no/such/folder/t.json"), RunError, "there is no folder"),
        (lambda: wellfit.profile("wine", trace="trace.txt"), RecipeError, ".json or .json.gz"),
        (lambda: wellfit.profile("wine", changes=["hardware.compil=true"]), RecipeError, "hardware.compile"),
        (lambda: wellfit.profile("wine", changes=["quick"]), RecipeError, "not an assignment"),
        (lambda: wellfit.profile(network()), DataError, "without data"),
        (lambda: wellfit.profile(network(), iter([table()])), DataError, "only once"),
        (lambda: wellfit.profile(3.0, table()), ModelError, "float"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(call, error, says: str, monkeypatch) -> None:
    """And told before anything is timed."""
    monkeypatch.setattr(ShortTraining, "turn", lambda *_, **__: pytest.fail("something was trained"))
    with pytest.raises(error, match=re.escape(says)) as caught:
        call()
    assert isinstance(caught.value, WellfitError)
    assert "\n" not in str(caught.value)


def test_a_trace_that_is_a_folder_is_told(tmp_path) -> None:
    (tmp_path / "t.json").mkdir()
    with pytest.raises(RunError, match="it is a folder"):
        wellfit.profile("wine", trace=tmp_path / "t.json")


# ---- recipes and the command line


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from wellfit.cli import main

    monkeypatch.chdir(tmp_path)
    arguments = [
        "wine",
        "--steps",
        "5",
        "--try",
        "training.deterministic=false",
        "--json",
        "p.json",
        "--trace",
        "t.json",
    ]
    monkeypatch.setattr(sys, "argv", ["wellfit", "profile", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    said = capsys.readouterr().out
    for words in (
        "wine:",
        "where a step goes",
        "a step",
        "slowest operators",
        "training.deterministic=false",
        "Trace: t.json",
    ):
        assert words in said, words
    kept = json.loads((tmp_path / "p.json").read_text())
    assert sum(kept["shares"].values()) == pytest.approx(1)
    assert kept["levers"][0]["change"] == "training.deterministic=false"
    assert len(kept["each"]) == kept["steps_timed"] == 5
    assert kept["operators"]
    assert sorted(os.listdir(tmp_path)) == ["p.json", "t.json"], "no run is kept"
    monkeypatch.setattr(sys, "argv", ["wellfit", "profile", "wine", "--steps", "0"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "`steps` is 0" in capsys.readouterr().err


def test_tokens_are_told_where_they_are_what_is_learnt() -> None:
    found = wellfit.profile("stdlib", steps=1, changes=[])
    assert found.tokens_per_second > 10 * found.samples_per_second
    assert "tokens that are learnt from" in found.says[0]
    assert found.loading == "made"


# ---- ranks


def of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
    }  # fmt: skip
    found = profiled(network(), changes=None, steps=6, trace=f"{folder}/t.json")
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found.as_dict(), file)


@pytest.mark.filterwarnings("ignore")  # the ranks' own start-up is not ours
def test_two_ranks_are_timed_and_what_they_exchange(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands.ranks(2, of_two, port, str(tmp_path))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["ranks"] == 2
        assert found["exchange_seconds"] > 0
        assert not found["levers"]
        assert "nothing is tried" in " ".join(found["says"])
        assert sum(found["shares"].values()) == pytest.approx(1)
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
