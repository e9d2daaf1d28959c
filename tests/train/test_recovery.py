"""What a run does by itself: out of memory it cuts the batch and changes nothing else; numbers that break are left behind.

Memory runs out in these tests where a network is given more samples at a time than there is room for: with torch's own
error of an accelerator, or with a real request to the CPU's allocator that no machine can grant.
"""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import optimizer as hooks
from torch.utils.data import DataLoader, Dataset, TensorDataset

import commands
import wellfit
from wellfit import api
from wellfit.data.arrays import Samples
from wellfit.data.batches import FromDataset, InMemory, OfSamples, Order
from wellfit.errors import OutOfMemory, RecipeError
from wellfit.events import Evaluated, Noted, Saved, Started, Stepped
from wellfit.recipe import Recipe
from wellfit.run import Run
from wellfit.tasks import Supervised
from wellfit.tasks.sentence_embeddings import Contrastive
from wellfit.train.fit import fit as turn
from wellfit.train.recovery import _is_finite, check, ran_out
from wellfit.train.setup import from_given

X = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long() + (X[:, 0] > 1).long()
SETTINGS = {
    "training.batch_size": 16,
    "training.epochs": 4,
    "optimizer.learning_rate": 1e-2,
    "evaluation.batch_size": 64,
}


class Tight(nn.Module):
    """A network with dropout and batch norm that runs out of memory behind both, given more samples than it has `room` for."""

    def __init__(self, room: int = 1000, norm: bool = True, at_rest: bool = False, real: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16) if norm else nn.LayerNorm(16)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(16, 3)
        self.room, self.at_rest, self.real = room, at_rest, real

    def forward(self, x):
        hidden = self.drop(self.norm(self.first(x)).tanh())
        if self.training is not self.at_rest and len(x) > self.room:
            if self.real:
                torch.empty(1 << 52)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 8.00 GiB.")
        return self.last(hidden)


class Rows(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + 0.01 * torch.randn(6), Y[i]


def fit(folder, model, train=(X, Y), valid=(X[:32], Y[:32]), observers=(), resume=None, **settings):
    chosen = SETTINGS | {name.replace("__", "."): value for name, value in settings.items()}
    if resume is not None:
        return wellfit.fit(model, train, valid, loss="cross-entropy", resume=resume, observers=observers, quiet=True)
    return wellfit.fit(
        model, train, valid, loss="cross-entropy", set=chosen, folder=folder, observers=observers, quiet=True
    )


def numbers(run: Run) -> list:
    return [event for event in run.events() if isinstance(event, (Stepped, Evaluated))]


def notes(run: Run, word: str) -> list[Noted]:
    return [event for event in run.events() if isinstance(event, Noted) and word in event.text]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


# ---- memory


@pytest.mark.parametrize("train", [(X, Y), Rows()], ids=["tensors", "dataset"])
@pytest.mark.parametrize("real", [False, True], ids=["accelerator", "cpu"])
def test_out_of_memory_is_as_if_the_batch_had_been_cut_from_the_start(tmp_path, train, real) -> None:
    """To the bit, dropout and running statistics included: nothing of the failed attempts remains."""
    cut = fit(tmp_path / "cut", Tight(), train, training__gradient_accumulation_steps=4)
    tight = fit(tmp_path / "tight", Tight(room=4, real=real), train, recovery__out_of_memory=True)
    assert same(cut.model, tight.model)
    assert numbers(cut) == numbers(tight)
    told = [note.text for note in notes(tight, "Memory ran out")]
    assert len(told) == 2
    assert "in step 1, with micro-batches of 16 (" in told[0]
    assert "); micro-batches now have 4 samples, 4 of them per step. The batch" in told[1]
    assert "Batch norm" in told[1]


def test_a_half_done_step_is_undone(tmp_path) -> None:
    """Memory runs out in the second micro-batch, when the first has left its gradient and its running statistics."""

    class Once(Tight):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            self.room = 4 if self.training and self.calls == 2 else 1000
            return super().forward(x)

    cut = fit(tmp_path / "cut", Tight(), training__gradient_accumulation_steps=4)
    once = fit(tmp_path / "once", Once(), training__gradient_accumulation_steps=2, recovery__out_of_memory=True)
    assert "in step 1, with micro-batches of 8 " in notes(once, "Memory ran out")[0].text
    assert numbers(cut) == numbers(once)
    assert same(cut.model, once.model)


def test_it_can_run_out_at_any_step_and_a_resume_goes_on_cut(tmp_path) -> None:
    """Compared with a run of the same job that is cut by hand after step 9."""

    def by_hand():
        run = Run.create(tmp_path, Recipe(), {}, {}, tmp_path / "hand")
        job = from_given(Recipe().override(SETTINGS), Tight(), (X, Y), (X[:32], Y[:32]), loss="cross-entropy")
        record = api._record(job, run, ())
        job.until = 9
        assert turn(job, record) == "interrupted"
        job.recovered.finer = 4
        turn(job, record)
        record.close()
        return job.model

    model = Tight()

    def shrink(event):
        if isinstance(event, Stepped) and event.step == 9:
            model.room = 4

    settings = {"recovery__out_of_memory": True, "evaluation__restore_best": False, "training__log_every": 1}
    run = fit(tmp_path / "run", model, observers=[shrink], **settings)
    assert same(by_hand(), model)
    assert "in step 10," in notes(run, "Memory ran out")[0].text
    assert len(numbers(run)) == 24 + 4

    stopped = Tight()

    def stop(event):
        shrink(event)
        if isinstance(event, Stepped) and event.step == 9:
            stopped.room = 4
        if isinstance(event, Stepped) and event.step == 14:
            os.kill(os.getpid(), 15)

    part = fit(tmp_path / "part", stopped, observers=[stop], **settings)
    assert part.ended().reason == "interrupted"
    rest = fit(None, Tight(room=4), resume=part)
    assert same(rest.model, model)
    assert numbers(rest) == numbers(run)
    assert len(notes(rest, "Memory ran out")) == 2  # said once each, and not again after the resume
    started = [event for event in rest.events() if isinstance(event, Started)][-1]
    assert (started.gradient_accumulation_steps, started.micro_batch_size) == (4, 4)


def test_the_gradient_is_that_of_the_whole_batch(tmp_path) -> None:
    whole = Tight(norm=False)
    tight = Tight(norm=False, room=3)
    whole.drop = tight.drop = nn.Identity()
    a = fit(tmp_path / "a", whole, training__max_grad_norm=None)
    b = fit(tmp_path / "b", tight, training__max_grad_norm=None, recovery__out_of_memory=True)
    sizes = [note.text.split("micro-batches now have ")[1].split(" ")[0] for note in notes(b, "Memory ran out")]
    assert sizes == ["8", "4", "2"]
    assert a.metrics()["loss"] == pytest.approx(b.metrics()["loss"], rel=1e-4)
    assert a.metrics()["grad_norm"][:6] == pytest.approx(b.metrics()["grad_norm"][:6], rel=1e-4)


class Words:
    """Samples that differ in size, as `OfSamples` takes them."""

    def __init__(self):
        self.rows = [torch.full((1 + i % 5,), i) for i in range(90)]

    def __len__(self):
        return len(self.rows)

    def batch(self, samples, epoch=0):  # noqa: ARG002 - nothing is drawn here
        return nn.utils.rnn.pad_sequence([self.rows[i] for i in samples], batch_first=True), samples


def source(kind: str, accumulation: int):
    order = Order(90, 16, accumulation=accumulation)
    if kind == "tensors":
        return InMemory((X, Y), order)
    if kind == "samples":
        held: Samples = Words()
        return OfSamples(held, order)
    return FromDataset(Rows(), order, workers=1 if kind == "workers" else 0)


@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("kind", ["tensors", "samples", "dataset", "workers"])
def test_every_source_is_cut_as_if_it_had_always_been(kind) -> None:
    cut, always = source(kind, 1), source(kind, 4)
    for _ in range(3):
        cut.take()
        always.take()
    assert cut.micro_batch_size == 16
    cut.cut(4)
    assert cut.micro_batch_size == 4
    for _ in range(10):  # over the end of an epoch, whose last batch has ten samples
        for one, other in zip(cut.take(), always.take(), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_last_small_batch_stays_in_its_place() -> None:
    """A run that had begun with 8 parts would have joined the last four samples to the batch before; a plan is kept."""
    order = Order(20, 16)
    batches = InMemory((X[:20], Y[:20]), order)
    batches.cut(8)
    assert batches.steps_per_epoch == 2
    assert [[len(x) for x, _ in batches.take()] for _ in range(2)] == [[2] * 8, [1] * 4]
    batches.cut(8, least=2)
    assert [[len(x) for x, _ in batches.take()] for _ in range(2)] == [[2] * 8, [2] * 2]


def test_where_nothing_is_left_to_cut_it_says_what_was_tried_and_what_else_to_change(tmp_path) -> None:
    model = Tight(norm=False)

    def shrink(event):
        if isinstance(event, Stepped) and event.step == 9:
            model.room = 0

    with pytest.raises(OutOfMemory) as caught:
        fit(tmp_path / "run", model, observers=[shrink], recovery__out_of_memory=True, training__log_every=1)
    told = str(caught.value)
    assert "in step 10, with micro-batches of 16, 8, 4, 2, 1, and they cannot be cut any smaller" in told
    ranked = ["precision=bf16", "activation_checkpointing=1", "adafactor", "smaller model", "parallel=fsdp"]
    assert sorted(ranked, key=told.index) == ranked
    assert "What was saved of step 6 is untouched" in told
    assert isinstance(caught.value, MemoryError)
    model.room = 1000
    assert fit(None, Tight(norm=False), resume=tmp_path / "run").ended().reason == "finished"
    with pytest.raises(OutOfMemory, match=r"micro-batches of 16, 8, 4, 2, and they cannot"):  # batch norm wants two
        fit(tmp_path / "norm", Tight(room=1), recovery__out_of_memory=True)


def test_off_it_is_an_error_that_names_the_fields_and_the_run_can_go_on_with_them(tmp_path) -> None:
    model = Tight(real=True)

    def shrink(event):
        if isinstance(event, Stepped) and event.step == 9:
            model.room = 8

    with pytest.raises(OutOfMemory) as caught:
        fit(tmp_path / "run", model, observers=[shrink], training__log_every=1)
    told = str(caught.value)
    for words in ("in step 10, with micro-batches of 16", "allocate", "(1) `training.gradient_accumulation_steps=2`",
                  "recovery.out_of_memory=true", "step 6 is untouched", "recipe.yaml"):  # fmt: skip
        assert words in told, words
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("out_of_memory: false", "out_of_memory: true"))
    run = fit(None, model, resume=tmp_path / "run")
    assert run.ended().reason == "finished"
    assert notes(run, "micro-batches now have 8 samples")
    whole = fit(tmp_path / "small", Tight(room=8, real=True), valid=None, recovery__out_of_memory=True)
    assert notes(whole, "micro-batches now have 8 samples")


def test_the_first_look_is_cut_too(tmp_path) -> None:
    class Always(Tight):
        def forward(self, x):
            if len(x) > 8:
                raise MemoryError("Unable to allocate 3.00 GiB for an array")
            return super().forward(x)

    with pytest.raises(OutOfMemory, match=r"with the first batch: Unable to allocate.*gradient_accumulation_steps=2"):
        fit(tmp_path / "a", Always())
    settings = {"evaluation__batch_size": 8, "recovery__out_of_memory": True}
    run = fit(tmp_path / "b", Always(), **settings)
    assert "with the first batch, with micro-batches of 16" in notes(run, "Memory ran out")[0].text
    started = next(event for event in run.events() if isinstance(event, Started))
    assert (started.gradient_accumulation_steps, started.micro_batch_size) == (2, 8)
    cut = fit(tmp_path / "c", Tight(), training__gradient_accumulation_steps=2, evaluation__batch_size=8)
    assert same(run.model, cut.model)


@pytest.mark.parametrize("valid", [(X, Y), Rows()], ids=["tensors", "dataset"])
def test_evaluation_is_cut_too(tmp_path, valid) -> None:
    plain = fit(tmp_path / "a", Tight(), valid=valid, evaluation__batch_size=64)
    tight = Tight(room=16, at_rest=True)
    run = fit(tmp_path / "b", tight, valid=valid, evaluation__batch_size=64, recovery__out_of_memory=True)
    told = [note.text for note in notes(run, "while evaluating")]
    assert [text.split("held-out batches now have ")[1].split(".")[0] for text in told] == ["32 samples", "16 samples"]
    for one, other in zip(numbers(plain), numbers(run), strict=True):
        assert one == other if isinstance(one, Stepped) else one.metrics == pytest.approx(other.metrics, rel=1e-5)
    with pytest.raises(OutOfMemory, match=r"while evaluating, in batches of 64.*`evaluation\.batch_size=32`"):
        fit(tmp_path / "c", Tight(room=16, at_rest=True), valid=valid, evaluation__batch_size=64)
    ready_made = [(X[:40], Y[:40])]
    with pytest.raises(OutOfMemory, match="smaller held-out batches"):
        fit(tmp_path / "d", Tight(room=16, at_rest=True), valid=ready_made, recovery__out_of_memory=True)


def test_an_update_that_finds_no_memory_is_not_tried_again(tmp_path) -> None:
    """It may have changed half of the weights already."""
    model = Tight()

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = hooks.register_optimizer_step_pre_hook(full)
    try:
        with pytest.raises(OutOfMemory, match="in step 1, with micro-batches of 16: CUDA out of memory"):
            fit(tmp_path / "a", model, recovery__out_of_memory=True)
    finally:
        handle.remove()


def test_recovery_is_refused_where_it_could_not_keep_its_word(tmp_path, monkeypatch) -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 1, 2], [3, 4, 5]])
    with pytest.raises(RecipeError, match="come ready-made"):
        fit(tmp_path / "a", Tight(), loader, recovery__out_of_memory=True)
    asked = Recipe().override({"recovery.out_of_memory": True})
    with pytest.raises(RecipeError, match="tells each sample from the others of its micro-batch"):
        check(asked, Supervised(Contrastive()), source("tensors", 1))
    monkeypatch.setattr("wellfit.train.recovery.world", lambda: 2)
    with pytest.raises(RecipeError, match="with 2 ranks"):
        fit(tmp_path / "c", Tight(), recovery__out_of_memory=True)
    for value in (-1, 2.5):
        with pytest.raises(RecipeError, match=r"recovery\.not_finite"):
            Recipe().override({"recovery.not_finite": value})


def test_other_errors_are_nobodys_memory() -> None:
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory."))
    assert ran_out(
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")
    )
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("out of memory"))
    assert not ran_out(OutOfMemory("Memory ran out."))


# ---- numbers


class Broken(nn.Module):
    """A network with batch norm and dropout, of which some training passes give no number (counted from 1)."""

    def __init__(self, breaks=lambda _: False, falls=None):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))
        self.calls, self.breaks, self.falls = 0, breaks, falls

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls == self.falls:
                raise KeyboardInterrupt
            if self.breaks(self.calls):
                x = x * torch.nan
        return self.body(x)


def test_a_skipped_step_leaves_no_trace_and_the_rest_goes_on(tmp_path) -> None:
    """As a plain loop that passes over the batch: weights, averages, running statistics; the schedule counts the step."""
    bad = X.clone()
    bad[7] = torch.nan  # in one batch of each epoch
    model = Broken()
    model.body[3] = nn.Identity()
    run = fit(
        tmp_path / "a", model, (bad, Y), recovery__not_finite=3, evaluation__restore_best=False, training__log_every=1,
        optimizer__weight_decay=0.0, optimizer__kind="sgd",
    )  # fmt: skip
    steps = [event for event in run.events() if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 25))
    assert [event.skipped for event in steps].count(True) == 4
    assert all(event.skipped == math.isnan(event.loss) for event in steps)
    assert run.ended().reason == "finished"
    first = next(event.step for event in steps if event.skipped)
    assert [note.text.split(",")[0] for note in notes(run, "because its loss is not finite")] == [
        f"Step {first} was skipped"
    ]
    assert (
        "4 steps of 24 changed nothing: their loss or gradient was not finite"
        in (run.folder / "report.html").read_text()
    )

    plain = Broken()
    plain.body[3] = nn.Identity()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1e-2, momentum=0.9)
    order, taken = Order(90, 16), iter(steps)
    for epoch in range(4):
        for samples in order.epoch(epoch).split(16):
            optimizer.param_groups[0]["lr"] = next(taken).learning_rate
            before = {name: buffer.clone() for name, buffer in plain.named_buffers()}
            loss = nn.functional.cross_entropy(plain(bad[samples]), Y[samples])
            optimizer.zero_grad()
            if loss.isfinite():
                loss.backward()
                nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
                optimizer.step()
            else:
                plain.load_state_dict(before, strict=False)
    for name, value in plain.state_dict().items():
        assert (value - model.state_dict()[name]).abs().max() < 1e-4, name


def test_after_a_row_of_them_it_goes_back_and_on_with_lower_rates_and_other_data(tmp_path) -> None:
    """Bit for bit what a job does that is put there by hand."""
    settings = {"recovery.not_finite": 3, "training.log_every": 2, "evaluation.restore_best": False}
    named = {name.replace(".", "__"): value for name, value in settings.items()}
    run = fit(tmp_path / "run", Broken(lambda call: call in (15, 16, 17)), **named)
    assert run.ended().reason == "finished"
    [told] = notes(run, "went back")
    assert told.step == 12
    assert (
        "Steps 15 to 17 were skipped as not finite, so the run went back to step 12 (1 of at most 3 times)" in told.text
    )
    assert "rates are 0.5 of what the recipe says" in told.text
    assert [(e.step, e.went_back) for e in run.events() if isinstance(e, Started)] == [(0, False), (12, True)]
    page = (run.folder / "report.html").read_text()
    assert "Resumed" not in page
    assert "The last part" not in page
    assert not notes(run, "failed and was dropped")
    steps = [event for event in run.events() if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 25))
    assert not any(event.skipped for event in steps)  # those were done again
    assert sorted(path.name for path in (run.folder / "checkpoints").glob("step-*")) == [
        "step-00000018",
        "step-00000024",
    ]

    plain = fit(tmp_path / "plain", Broken(), evaluation__restore_best=False)
    rates = plain.metrics()["learning_rate"]
    assert run.metrics()["learning_rate"] == [rate * (1.0 if step < 12 else 0.5) for step, rate in enumerate(rates)]
    assert run.metrics()["loss"][:12] == plain.metrics()["loss"][:12]
    assert run.metrics()["loss"][12] != plain.metrics()["loss"][12]

    job = from_given(Recipe().override(SETTINGS | settings), Broken(), (X, Y), (X[:32], Y[:32]), loss="cross-entropy")
    record = api._record(job, Run.create(tmp_path, Recipe(), {}, {}, tmp_path / "hand"), ())
    job.until = 12
    assert turn(job, record) == "interrupted"
    for _ in range(5):
        job.batches.take()  # two good ones that came before the row, and the row
    job.recovered.factor = 0.5
    turn(job, record)
    record.close()
    assert same(job.model, run.model)


ILL = X.clone()
ILL[32:80] = torch.nan  # the third to fifth batch of each epoch, in order
SICK = {
    "data.shuffle": False, "recovery.not_finite": 3, "recovery.rollbacks": 20, "recovery.rate_factor": 0.9, "training.log_every": 2,
    "training.steps": 18, "training.epochs": None, "checkpoints.keep": 1,
}  # fmt: skip
PLACES = [{"checkpoints.every": 2, "evaluation.every": 6}, {"checkpoints.every": 4, "evaluation.every": 2}]


def sick(folder, falls=None, resume=None, **settings):
    chosen = {"training.epochs": None} | {name.replace(".", "__"): value for name, value in (SICK | settings).items()}
    return fit(folder, Broken(falls=falls), (ILL, Y), resume=resume, **chosen)


@pytest.mark.parametrize("places", PLACES, ids=["saved-often", "best-often"])
def test_killed_and_resumed_it_goes_the_same_way(tmp_path, places) -> None:
    """Wherever it falls: before, in and behind the rows, between a rollback and the next save. The clock saves, too."""
    whole = sick(tmp_path / "whole", **places, **{"checkpoints.minutes": None})
    assert whole.ended().reason == "finished"
    assert len(notes(whole, "went back")) >= 3
    calls = whole.model.calls
    assert calls > 30
    for falls in range(2, calls, 4):
        folder = tmp_path / f"{falls}"
        with pytest.raises(KeyboardInterrupt):
            sick(folder, falls, **places, **{"checkpoints.minutes": 1e-9 if falls // 4 % 2 else None})
        rest = sick(None, resume=folder)
        assert numbers(rest) == numbers(whole), falls
        assert same(rest.model, whole.model), falls
        assert [note.text for note in notes(rest, "went back")] == [note.text for note in notes(whole, "went back")]


def test_a_process_that_dies_at_once_goes_on_alike(tmp_path) -> None:
    """As above, without the chance to write anything: `os._exit` in the first step after a rollback."""
    script = f"""
import os, sys
sys.path[:0] = {[str(folder) for folder in Path(__file__).parents[:2]]!r}
import test_recovery as t
class Dies(t.Broken):
    def forward(self, x):
        if self.calls == 6: os._exit(9)
        return super().forward(x)
t.Broken = Dies
t.sick({str(tmp_path / "part")!r}, **t.PLACES[0])
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    whole, rest = sick(tmp_path / "whole", **PLACES[0]), sick(None, resume=tmp_path / "part")
    assert numbers(rest) == numbers(whole)
    assert same(rest.model, whole.model)


def test_it_is_bounded_and_ends_as_it_would_have(tmp_path) -> None:
    run = fit(
        tmp_path / "a", Broken(lambda call: call > 14), recovery__not_finite=2, recovery__rollbacks=2,
        training__log_every=2,
    )  # fmt: skip
    assert run.ended().reason == "loss-not-finite"
    told = [note.text for note in notes(run, "skipped as not finite")]
    assert [text.split("(")[1][:1] for text in told[:2]] == ["1", "2"]
    assert told[2].endswith("skipped as not finite, and the run has gone back 2 times, so training ends.")
    assert all(value.isfinite().all() for value in run.best_weights().values())
    assert all(value.isfinite().all() for value in run.model.state_dict().values())
    never = fit(tmp_path / "b", Broken(lambda call: call > 14), recovery__not_finite=2, recovery__rollbacks=0)
    assert never.ended().reason == "loss-not-finite"


def ruin(model: nn.Module, step: int):
    """An observer that ruins the weights behind a step, once."""
    done = []

    def observer(event):
        if isinstance(event, Stepped) and event.step == step and not done:
            done.append(event)
            with torch.no_grad():
                model.body[4].weight.fill_(torch.inf)

    return observer


class Elsewhere(torch.Tensor):
    """A tensor as of another device: it cannot be stacked with those of the CPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.stack and len({isinstance(one, Elsewhere) for one in args[0]}) > 1:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("value", [1.0, math.inf])
def test_weights_and_averages_may_lie_on_several_devices(value: float) -> None:
    """Most of torch's optimizers count their steps on the CPU; `test_accelerator.py` has a real one."""
    job = from_given(Recipe().override(SETTINGS), Tight(), (X, Y), loss="cross-entropy")
    first = next(iter(job.model.parameters()))
    for place, own in ((torch.zeros(2).as_subclass(Elsewhere), value), (torch.zeros(1), 1.0), (torch.zeros(1), value)):
        place.fill_(own)
        job.optimizer.state[first] = {
            "average": torch.ones(3).as_subclass(Elsewhere),
            "step": torch.ones(()),
            "x": place,
        }
        assert _is_finite(job) is math.isfinite(own)


@pytest.mark.parametrize(("step", "back"), [(9, 8), (23, 22)], ids=["in the middle", "before the last"])
def test_ruined_weights_are_no_place_to_go_back_to(tmp_path, step: int, back: int) -> None:
    """They are saved before a loss shows it; nor may a run end with them because too few steps are left to show it."""
    model = Broken()
    run = fit(
        tmp_path / "a", model, observers=[ruin(model, step)], recovery__not_finite=3, training__log_every=1,
        checkpoints__every=1, evaluation__restore_best=False, valid=None,
    )  # fmt: skip
    assert f"went back to step {back} " in notes(run, "went back")[0].text
    assert run.ended().reason == "finished"
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_where_the_last_good_one_is_no_help_it_goes_back_to_the_best(tmp_path) -> None:
    """Weights that have exploded, and are finite still, break every step after them."""
    model = Broken()
    model.breaks = lambda call: call > 8 and float(model.body[4].weight.detach().abs().max()) > 100

    def explode(event):
        if isinstance(event, Stepped) and event.step == 7 and model.calls == 7:
            with torch.no_grad():
                model.body[4].weight.fill_(1e4)

    run = fit(
        tmp_path / "a", model, observers=[explode], recovery__not_finite=2, training__log_every=1, evaluation__every=2,
        checkpoints__every=2, evaluation__restore_best=False,
    )  # fmt: skip
    told = [note.text.split("went back to ")[1].split(" (")[0] for note in notes(run, "went back")]
    assert told == ["step 8", "step 6"]
    assert run.ended().reason == "finished"
    assert model.body[4].weight.abs().max() < 10


def test_what_breaks_at_the_start_goes_back_to_the_start(tmp_path) -> None:
    run = fit(tmp_path / "a", Broken(lambda call: call in (2, 3)), recovery__not_finite=2, training__log_every=1)
    assert "went back to step 0 " in notes(run, "went back")[0].text
    steps = [event for event in run.events() if isinstance(event, Stepped)]
    assert [event.step for event in steps] == list(range(1, 25))
    assert all(event.grad_norm > 0 for event in steps)  # the buffer of the gradients begins anew, too


def every_other(call: int) -> bool:
    return call % 2 == 0


OFTEN = {"training__epochs": 50, "training__log_every": 50, "recovery__not_finite": 3, "recovery__rollbacks": 2}


def test_where_every_other_step_is_skipped_it_goes_back_and_then_ends(tmp_path) -> None:
    """No row of them is ever longer than one."""
    run = fit(tmp_path / "a", Broken(every_other), **OFTEN)
    assert run.ended().reason == "loss-not-finite"
    assert run.ended().step < 300, "the whole training has so many"
    told = [note.text for note in notes(run, "of the last")]
    assert len(told) == 3
    assert told[0].startswith("50 of the last 100 steps were skipped as not finite, so the run went back to step ")
    assert "(1 of at most 2 times)" in told[0]
    assert told[2].endswith("and the run has gone back 2 times, so training ends.")
    assert all(value.isfinite().all() for value in run.model.state_dict().values())

    fewer = fit(tmp_path / "b", Broken(lambda call: call % 3 == 0), **OFTEN)
    assert fewer.ended().reason == "finished"
    assert not notes(fewer, "of the last")
    early = fit(tmp_path / "c", Broken(lambda call: call % 3 > 0), **OFTEN)
    assert notes(early, "50 of the last 75 steps were skipped"), "it need not wait for a hundred"
    longer = fit(tmp_path / "d", Broken(lambda call: call % 101 > 10), **{**OFTEN, "recovery__not_finite": 80})
    assert notes(longer, "Steps 11 to 90 were skipped"), "a longer row that is asked for comes first"


HALF = X.clone()
HALF[16:32] = HALF[48:64] = HALF[80:] = torch.nan  # every second batch of each epoch, in order


def test_what_was_skipped_lately_survives_a_kill(tmp_path) -> None:
    settings = {**OFTEN, "data__shuffle": False, "evaluation__restore_best": False, "checkpoints__every": 7}
    whole = fit(tmp_path / "whole", Broken(), (HALF, Y), **settings)
    assert len(notes(whole, "of the last")) == 3
    for falls in (70, 130):
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / f"{falls}", Broken(falls=falls), (HALF, Y), **settings)
        rest = fit(None, Broken(), (HALF, Y), resume=tmp_path / f"{falls}")
        assert numbers(rest) == numbers(whole)
        assert [note.text for note in notes(rest, "of the last")] == [note.text for note in notes(whole, "of the last")]


def test_fp16_overflow_is_the_scales_affair(tmp_path) -> None:
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 3), 0

        def forward(self, x):
            self.calls += self.training
            return 20 * self.linear(x) * (math.nan if self.calls in (20, 21) else 1.0)

    run = fit(
        tmp_path / "a", Loud(), hardware__precision="fp16", training__max_grad_norm=None, recovery__not_finite=2,
        training__log_every=1,
    )  # fmt: skip
    steps = [event for event in run.events() if isinstance(event, Stepped)]
    assert steps[0].skipped
    assert "Steps 20 to 21" in notes(run, "went back")[0].text
    assert len(notes(run, "went back")) == 1
    assert run.ended().reason == "finished"


def test_off_nothing_is_saved_or_said_that_was_not_before(tmp_path) -> None:
    plain = fit(tmp_path / "a", Broken())
    on = fit(tmp_path / "b", Broken(), recovery__not_finite=3, recovery__out_of_memory=True)
    assert numbers(plain) == numbers(on)
    assert same(plain.model, on.model)
    assert [event.step for event in plain.events() if isinstance(event, Saved)] == [6, 12, 18, 24]
    assert [event.step for event in on.events() if isinstance(event, Saved)] == [0, 6, 12, 18, 24]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


ON_ONE_RANK = Y.clamp(max=1)
ON_ONE_RANK[32:37] = ON_ONE_RANK[48:53] = ON_ONE_RANK[64:69] = 2  # in the first rank's share of three batches


def without_bounds(outputs, targets):
    """Infinite for the third class, without a gradient that would carry it to the other rank."""
    return nn.functional.cross_entropy(outputs, targets, reduction="none").masked_fill(targets == 2, torch.inf)


def two_or_one(folder: str) -> None:
    settings = (
        SETTINGS | SICK | {"checkpoints.every": 2, "evaluation.every": 6, "training.steps": 12, "training.epochs": None}
    )
    train, valid = (X, ON_ONE_RANK), (X[:32], ON_ONE_RANK[:32])
    wellfit.fit(network(), train, valid, loss=without_bounds, set=settings, folder=folder, quiet=True)


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
    }  # fmt: skip
    two_or_one(folder)


@pytest.mark.filterwarnings("ignore")  # the ranks' own start-up is not ours
def test_two_ranks_go_back_together(tmp_path) -> None:
    two_or_one(str(tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands.ranks(2, one_of_two, port, str(tmp_path / "two"))
    one, two = wellfit.open(tmp_path / "one"), wellfit.open(tmp_path / "two")
    assert [note.text for note in notes(one, "went back")] == [note.text for note in notes(two, "went back")]
    assert len(notes(two, "went back")) >= 2
    for a, b in zip(numbers(one), numbers(two), strict=True):
        assert a.step == b.step
        if isinstance(a, Stepped):
            assert (a.loss, a.learning_rate) == pytest.approx((b.loss, b.learning_rate), abs=1e-6)
    for name, value in one.best_weights().items():
        assert (value - two.best_weights()[name]).abs().max() < 1e-6, name
