"""The largest micro-batch that fits: the one that brute force finds, with the same gradient, and nothing changed by looking."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import wellfit
from wellfit.cli import app
from wellfit.data.batches import Held
from wellfit.errors import DataError, HardwareError, RecipeError, WellfitError
from wellfit.memory import memory_plan, memory_plan_recipe
from wellfit.plan.hardware import bytes_called
from wellfit.recipe import Recipe
from wellfit.report.memory import CONTEXT, needed
from wellfit.trials import find_batch as finding
from wellfit.trials.find_batch import _largest, find_batch

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(240, 64, generator=DRAW)
Y = torch.randint(0, 3, (240,), generator=DRAW)


def network(width: int = 512) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@pytest.mark.parametrize("share", [1, 2, 7, 12, 96, 122, 127, 128, 1000, 5040])
@pytest.mark.parametrize("whole_first", [True, False])
def test_growth_and_bisection_find_what_looking_at_all_finds(share: int, whole_first: bool) -> None:
    sizes = divisors(share)
    for room in {0, 1, 2, 3, 5, 60, 61, share // 2, share - 1, share}:
        looked: list[int] = []

        def fits(size: int, room: int = room, looked: list[int] = looked) -> bool:
            looked.append(size)
            return size <= room

        assert _largest(sizes, fits, whole_first) == max((n for n in sizes if n <= room), default=None)
        assert len(looked) == len(set(looked)) <= 2 * len(sizes).bit_length() + share.bit_length() + 1
        if not whole_first:  # grown to, so at most one size was much too large
            near = [n for n in sizes if n > room][:1]
            assert all(size <= 2 * room or [size] == near or (not room and size == share) for size in looked)


def test_it_is_what_the_plan_of_each_cut_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"training.batch_size": 96, "model": {"kind": "mlp", "widths": [256, 256]}, "training.steps": 5}

    def plan(size: int) -> int:
        asked = settings | {"training.gradient_accumulation_steps": 96 // size, "hardware.precision": "bf16"}
        return memory_plan_recipe("digits", set=asked).peak

    peaks = {size: plan(size) for size in (8, 12, 16, 24)}
    assert peaks[8] < peaks[12] < peaks[16] < peaks[24]
    monkeypatch.setattr(finding, "free_memory_bytes", lambda: needed((peaks[12] + peaks[16]) // 2) - CONTEXT)
    found = find_batch("digits", set=settings | {"hardware.precision": "bf16"})
    assert found.largest is not None
    assert found.largest.samples == 12
    assert found.change == {"training.gradient_accumulation_steps": 8}
    told = {one.samples: one for one in found.tried}
    assert not told[96].fits
    assert told[16].fits is False
    assert told[12].peak == peaks[12]
    assert [one.samples for one in found.timed][-1] == 12

    elsewhere = find_batch("digits", set=settings, gpu="L4")  # where the whole data does not lie on the device
    assert elsewhere.largest is not None
    assert elsewhere.largest.samples == 96
    assert 64 * 1000 < told[96].peak - elsewhere.largest.peak < 80 * 1400  # its pixels are bytes
    assert not elsewhere.timed
    assert {"It is planned in bf16.", "It was not timed: how fast it is there shows only there."} <= {*elsewhere.says}


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_gradient_is_the_same(tmp_path: Path, ranks: int) -> None:
    settings: dict[str, Any] = {
        "training.batch_size": 240, "training.steps": 3, "optimizer.kind": "sgd", "optimizer.momentum": 0.0, "hardware.precision": "fp32",
        "evaluation.restore_best": False,
    }  # fmt: skip
    masked = Y.clone()
    masked[::5] = -100  # uneven weights
    model, asked = network(32), dict(loss="cross-entropy", set=settings, ranks=ranks)
    ends = [one.peak for one in find_batch(model, (X, masked), memory="100 MB", **asked).tried]
    assert len(ends) == 2  # one sample, and the whole share
    found = find_batch(model, (X, masked), memory=needed(sum(ends) // 2), **asked)
    assert found.largest is not None
    assert 1 < found.largest.samples < 240 // ranks
    assert found.largest.samples * found.largest.accumulation * ranks == 240
    accumulation = ranks * found.change["training.gradient_accumulation_steps"]  # here one rank does the work of all
    runs = [
        wellfit.fit(
            network(32), (X, masked), loss="cross-entropy", set=settings | change, folder=tmp_path / str(i), quiet=True
        )
        for i, change in enumerate(({}, {"training.gradient_accumulation_steps": accumulation}))
    ]
    norms = [run.metrics()["grad_norm"] for run in runs]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    for one, other in zip(runs[0].model.parameters(), runs[1].model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_nothing_is_changed_by_looking(tmp_path: Path) -> None:
    model = network(32)
    loader = DataLoader(TensorDataset(X, Y), batch_size=30, shuffle=True)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    model.eval()
    found = find_batch(model, loader, (X, Y), loss="cross-entropy", set={"training.gradient_accumulation_steps": 2})
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert (found.batch, found.present) == (60, 30)
    # The loader's size would follow the accumulation, so the batch is said, too.
    assert found.change == {"training.batch_size": 60, "training.gradient_accumulation_steps": 1}
    run = wellfit.fit(
        model,
        loader,
        loss="cross-entropy",
        set={**found.change, "training.epochs": 1},
        folder=tmp_path / "run",
        quiet=True,
    )
    assert len(run.metrics()["loss"]) == 240 // 60


def test_sizes_are_timed_where_it_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_: Any, work: Any) -> float:
        work()
        return 1e-3 + 1e-5 * rows[-1] ** 2 if "backward" in getattr(work, "func", len).__name__ else 1e-3

    rows: list[int] = []
    model = network(32)
    model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    found = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 40})
    assert [one.samples for one in found.timed] == [2, 5, 10, 20, 40]
    assert all(0 < one.seconds < 1 for one in found.timed)
    assert found.fastest in found.timed
    monkeypatch.setattr(finding, "_seconds", slow)
    found = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 40})
    assert found.largest is not None
    assert found.largest.samples == 40
    assert found.fastest is not None
    assert found.fastest.samples == 10  # 1 + 0.01 n^2 ms a micro-batch: least a sample at n = 10
    assert found.fastest.seconds == pytest.approx((4 * 2e-3 + 1e-3) / 40)
    assert any("of 10 are faster" in sentence for sentence in found.says)
    monkeypatch.setattr(finding, "CHEAP", 1e-6)
    found = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 40})
    assert [one.samples for one in found.timed] == [2]
    assert any("too long to be timed" in sentence for sentence in found.says)


class Full(nn.Module):
    """A device whose memory ends at so many rows, in the forward pass, the backward pass or an evaluation."""

    def __init__(self, rows: int, where: str):
        super().__init__()
        self.rows, self.where, self.inner = rows, where, network(16)
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        full = len(x) > self.rows
        if full and (self.where == "forward" if self.training else self.where == "evaluation"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        y = self.inner(x)
        if full and self.training and self.where == "backward":
            y.register_hook(_ends)
        return y


def _ends(_: torch.Tensor) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize("where", ["forward", "backward", "evaluation"])
@pytest.mark.parametrize(("rows", "best"), [(1000, 60), (13, 12), (0, None)])
def test_on_a_device_it_is_tried_with_real_steps(monkeypatch: Any, where: str, rows: int, best: int | None) -> None:
    if where == "evaluation" and rows < 2:
        pytest.skip("the first look at the data ends there")
    monkeypatch.setattr(finding, "on_an_accelerator", lambda _: True)
    monkeypatch.setattr(Held, "__iter__", lambda self: iter([(X[: self.batch_size // 4], Y[: self.batch_size // 4])]))
    settings = {"training.batch_size": 60, "training.max_grad_norm": 1.0}
    found = find_batch(Full(rows, where), (X, Y), (X, Y), loss="cross-entropy", set=settings)
    assert (found.largest.samples if found.largest else None) == best
    assert found.really
    assert "real steps" in found.says[0]
    sizes = [one.samples for one in found.tried]
    assert sizes == sorted(sizes)
    if best is None:
        assert "Not even micro-batches of 1 sample fit" in found.says[0]
        assert not found.change
        assert "is not known" in found.says[-1]  # the plan runs the same passes
    else:
        assert found.change.get("training.gradient_accumulation_steps", 1) == 60 // best


def test_another_error_is_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("a bug of the model's own")
            return self.inner(x)

    monkeypatch.setattr(finding, "on_an_accelerator", lambda _: True)
    with pytest.raises(RuntimeError, match="bug of the model's own"):
        find_batch(Breaks(), (X, Y), loss="cross-entropy", set={"training.batch_size": 8})


def test_where_not_one_sample_fits_the_ways_are_ranked(tmp_path: Path) -> None:
    model = network(1024)
    least = memory_plan(model, (X[:1], Y[:1]), "cross-entropy", micro_batches=2).peak
    found = find_batch(
        model, (X, Y), loss="cross-entropy", set={"training.batch_size": 64}, memory=needed(least - 10**6)
    )
    assert found.largest is None
    assert not found.change
    assert [way.fits for way in found.ways] == sorted((way.fits for way in found.ways), reverse=True)
    assert found.ways[0].fits
    assert any("adafactor" in way.what for way in found.ways)
    assert not any("micro-batches" in way.what for way in found.ways)
    assert "Any one of the ways" in " ".join(found.says)

    out = tmp_path / "found.json"
    done = CliRunner().invoke(app, ["find-batch", "wine", "--memory", "600 MB", "--json", str(out)])
    assert done.exit_code == 3, done.output
    told = json.loads(out.read_text())
    assert told["largest"] is None
    assert told["ways"]
    assert "Not even micro-batches of 1 sample" in done.output


def test_batch_norm_keeps_two_samples() -> None:
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.Linear(256, 3))
    found = find_batch(
        model, (X, Y), loss="cross-entropy", set={"training.batch_size": 32}, memory=bytes_called("600MB")
    )
    assert found.tried[0].samples == 2
    assert not any("micro-batches" in way.what for way in found.ways)
    asked = {"training.batch_size": 32, "training.gradient_accumulation_steps": 4}
    wider = find_batch(model, (X, Y), loss="cross-entropy", set=asked, memory="2 GB")
    assert any("batch norm takes its statistics" in sentence for sentence in wider.says)


def test_a_batch_that_can_hardly_be_divided_is_said() -> None:
    model = network(1024)

    def peak(size: int) -> int:
        return memory_plan(model, (X[:size], Y[:size]), "cross-entropy", micro_batches=2).peak

    room = needed((peak(2) + peak(61)) // 2)
    found = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 122}, memory=room)
    assert found.largest is not None
    assert found.largest.samples == 2
    assert found.better == (112, 128)
    assert any("1, 2, 61 or 122" in sentence and "112 or 128" in sentence for sentence in found.says)
    found = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 128}, memory=room)
    assert not found.better


def test_ranks_share_the_batch_and_hold_the_buckets_of_ddp() -> None:
    asked = dict(set={"training.batch_size": 64}, memory="2 GB")
    alone, four = (find_batch("wine", ranks=ranks, **asked) for ranks in (1, 4))
    assert (alone.tried[-1].samples, four.tried[-1].samples) == (64, 16)
    model = network(1024)
    one = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 8}, memory="2 GB")
    two = find_batch(model, (X, Y), loss="cross-entropy", set={"training.batch_size": 16}, memory="2 GB", ranks=2)
    numbers = sum(p.numel() for p in model.parameters())
    assert one.tried[-1].peak is not None
    assert two.tried[-1].peak is not None
    assert two.tried[-1].peak - one.tried[-1].peak == 4 * numbers


def test_the_command_proposes_what_trains(tmp_path: Path) -> None:
    settings = ["--set", "training.batch_size=32", "--set", "training.gradient_accumulation_steps=8"]
    done = CliRunner().invoke(app, ["find-batch", "wine", *settings, "--json", str(tmp_path / "found.json")])
    assert done.exit_code == 0, done.output
    last = done.output.strip().splitlines()[-1]
    proposed = "wellfit train wine --set training.batch_size=32 --set training.gradient_accumulation_steps=1"
    assert last == f"Train with it: {proposed}"
    told = json.loads((tmp_path / "found.json").read_text())
    assert (told["largest"], told["present"], told["batch"]) == (32, 4, 32)
    assert len(told["timed"]) == 5


BAD: dict[str, tuple[Any, type[WellfitError], str]] = {
    "no amount": (lambda: find_batch("wine", memory="lots"), HardwareError, "'24 GB'"),
    "nothing": (lambda: find_batch("wine", memory=0), HardwareError, "'24 GB'"),
    "unknown GPU": (lambda: find_batch("wine", gpu="RTX 9999"), HardwareError, "table of GPUs"),
    "both": (lambda: find_batch("wine", gpu="L4", memory=10**9), RecipeError, "name one of them"),
    "no rank": (lambda: find_batch("wine", ranks=0), RecipeError, "at least 1"),
    "uneven ranks": (lambda: find_batch("wine", ranks=3, set={"training.batch_size": 32}), RecipeError, "30 or 33"),
    "ready-made": (
        lambda: find_batch(network(8), [(X[:8], Y[:8]), (X[8:16], Y[8:16])], loss="cross-entropy"), RecipeError, "ready-made"
    ),
    "no data": (lambda: find_batch(network(8), loss="cross-entropy"), DataError, "without data"),
    "a recipe with data": (lambda: find_batch("wine", (X, Y)), RecipeError, "names its own data"),
    "a recipe of given things": (lambda: find_batch(Recipe().override({"task": "given"})), RecipeError, "holds neither"),
    "pairs": (lambda: find_batch("docstrings", memory="8 GB"), RecipeError, "from the others"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_is_one_sentence(what: str) -> None:
    call, kind, says = BAD[what]
    with pytest.raises(kind) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        find_batch("wine")


def test_amounts_of_memory() -> None:
    told = {"24 GB": 24e9, "24gb": 24e9, "800MB": 8e8, "1.5 GiB": 1.5 * 2**30, "2e9": 2e9, "5000": 5000, "1T": 1e12}
    assert {text: bytes_called(text) for text in told} == {text: round(amount) for text, amount in told.items()}
    assert bytes_called(10**9) == 10**9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_what_was_found_trains_and_leaves_a_margin(tmp_path: Path) -> None:
    x, y = torch.randn(256, 64), torch.randint(0, 4, (256,))

    class Wide(nn.Module):
        """Layers that hold 4 MiB a sample for the backward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 1 << 20, bias=False), nn.Linear(1 << 8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x)).view(len(x), 1 << 12, 1 << 8).mean(1))

    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(2.6 * 2**30 / total)
    try:
        asked = {
            "training.batch_size": 256,
            "optimizer.kind": "sgd",
            "optimizer.momentum": 0.0,
            "hardware.precision": "fp32",
        }
        found = find_batch(Wide(), (x, y), loss="cross-entropy", set=asked)
        assert found.largest is not None
        assert found.really
        assert 16 <= found.largest.samples < 256
        assert found.timed
        again = torch.cuda.get_per_process_memory_fraction()
        assert again == pytest.approx(2.6 * 2**30 / total)
        settings = asked | dict(found.change) | {"training.steps": 3}
        run = wellfit.fit(Wide(), (x, y), loss="cross-entropy", set=settings, folder=tmp_path / "run", quiet=True)
        assert run.ended().reason == "finished"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
