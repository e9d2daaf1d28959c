"""The loop's promises: accumulation is exact, observers change nothing, the numbers are those of a plain loop."""

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

import wellfit
from wellfit import api
from wellfit.data.batches import Order
from wellfit.errors import DataError, HardwareError, ModelError, RecipeError, RunError
from wellfit.events import Ended, Evaluated, Noted, Paced, Saved, Started, Stepped, Vitals
from wellfit.recipe import Recipe

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3].sum(1) > 0).long() + (X[:, 0] > 1).long()


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))


def fit(folder, model=None, train=(X, Y), valid=(X[:32], Y[:32]), loss="cross-entropy", observers=(), **settings):
    settings = {"training.batch_size": 16, "training.epochs": 4} | {
        k.replace("__", "."): v for k, v in settings.items()
    }
    model = model if model is not None else network()
    return wellfit.fit(model, train, valid, loss=loss, set=settings, folder=folder, observers=observers, quiet=True)


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_equals_the_plain_loop(tmp_path) -> None:
    """Cosine with warmup, AdamW with decay on weights only, clipping: the weights of a hand-written loop."""
    run = fit(
        tmp_path / "run", evaluation__restore_best=False, optimizer__learning_rate=3e-3, optimizer__weight_decay=0.1
    )
    model = network()
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    warmup = max(1, round(0.05 * 24))
    taken, step = Order(96, 16, 0), 0
    rates = run.metrics()["learning_rate"]
    for epoch in range(4):
        for samples in taken.epoch(epoch).split(16):
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            loss = nn.functional.cross_entropy(model(X[samples]), Y[samples])
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert run.metrics()["loss"][step] == pytest.approx(loss.item(), rel=1e-5)
            assert run.metrics()["grad_norm"][step] == pytest.approx(norm.item(), rel=1e-4)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    torch.testing.assert_close(flat(run.model), flat(model), rtol=1e-5, atol=1e-6)
    assert rates[warmup - 1] == pytest.approx(3e-3, rel=0.02)
    assert rates[-1] < 3e-4


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_the_full_batch(tmp_path, parts: int) -> None:
    """Uneven windows: 96 samples in batches of 40, the last of which has 16; targets masked at random."""
    masked = Y.clone()
    masked[torch.rand(96, generator=torch.Generator().manual_seed(3)) < 0.4] = -100
    settings = {"training__batch_size": 40, "optimizer__kind": "sgd", "training__epochs": 6}
    whole = fit(tmp_path / "1", train=(X, masked), **settings)
    cut = fit(tmp_path / "n", train=(X, masked), training__gradient_accumulation_steps=parts, **settings)
    assert (flat(whole.model) - flat(cut.model)).abs().max() < 1e-6
    for a, b in zip(whole.metrics()["loss"], cut.metrics()["loss"], strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_an_observer_sees_everything_and_changes_nothing(tmp_path) -> None:
    seen: list = []

    def curious(event) -> None:
        seen.append(event)
        torch.rand(3), np.random.rand(3), random.random()

    plain = fit(tmp_path / "a", network(0.5))
    watched = fit(tmp_path / "b", network(0.5), observers=[curious])
    assert torch.equal(flat(plain.model), flat(watched.model))
    assert plain.metrics() == watched.metrics()
    assert {type(event) for event in seen} - {Noted} == {Started, Stepped, Paced, Evaluated, Saved, Vitals, Ended}
    assert [e.step for e in seen if isinstance(e, Stepped)] == list(range(1, 25))
    written = [e for e in watched.events() if isinstance(e, (Stepped, Evaluated))]
    assert [e for e in seen if isinstance(e, (Stepped, Evaluated))] == written


def test_an_observer_that_fails_is_said_and_dropped(tmp_path, capsys) -> None:
    calls = []

    def broken(event) -> None:
        calls.append(event)
        raise ValueError("oh")

    run = fit(tmp_path / "a", observers=[broken])
    assert len(calls) == 1
    assert "broken failed and was dropped: ValueError: oh" in capsys.readouterr().err
    assert any("dropped" in e.text for e in run.events() if isinstance(e, Noted))
    assert run.ended().reason == "finished"


def test_best_weights_are_given_back(tmp_path) -> None:
    unrelated = Y.roll(5)[:32]  # so that learning soon makes the validation loss worse
    run = fit(tmp_path / "a", valid=(X[:32], unrelated), optimizer__learning_rate=0.03, training__epochs=12)
    valid = {e.step: e.metrics["loss"] for e in run.events() if isinstance(e, Evaluated)}
    best = min(valid, key=valid.get)
    assert run.ended().best_step == best
    assert best != max(valid), "the last being the best would prove nothing"
    loss = nn.functional.cross_entropy(run.model.eval()(X[:32]), unrelated).item()
    assert loss == pytest.approx(valid[best], rel=1e-5)
    reopened = wellfit.open(run.folder)
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in reopened.best_weights().items())
    assert reopened.scores()["loss"] == valid[best]


def test_early_stopping(tmp_path) -> None:
    run = fit(tmp_path / "a", network(), optimizer__learning_rate=0.3, training__epochs=60, evaluation__patience=3)
    ended = run.ended()
    assert ended.reason == "early-stopping"
    assert ended.step == ended.best_step + 3 * 6
    again = wellfit.fit(network(), (X, Y), (X[:32], Y[:32]), loss="cross-entropy", resume=run.folder, quiet=True)
    assert again.ended().step == ended.step, "a resume does not train on past its patience"


def test_modes_are_right_and_restored(tmp_path) -> None:
    modes = {"train": [], "valid": []}

    class Spy(nn.Linear):
        def forward(self, x):
            modes["train" if torch.is_grad_enabled() else "valid"].append(self.training)
            return super().forward(x)

    model = nn.Sequential(Spy(6, 3))
    frozen = nn.BatchNorm1d(3)
    model.append(frozen)
    fit(tmp_path / "a", model)
    look, *steps = modes["train"]  # before the first step, one batch is looked at, in evaluation mode
    assert not look
    assert all(steps)
    assert not any(modes["valid"])
    assert modes["valid"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_keeps_fp32_weights(tmp_path, precision: str) -> None:
    run = fit(tmp_path / precision, hardware__precision=precision, training__epochs=10, optimizer__learning_rate=1e-2)
    assert all(p.dtype is torch.float32 for p in run.model.parameters())
    losses = run.metrics()["loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_fp16_overflow_skips_and_says_so(tmp_path) -> None:
    class Loud(nn.Module):
        """Overflows fp16's loss scale at first: 65536 x the gradient is beyond 65504."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            return 20 * self.linear(x)

    run = fit(tmp_path / "a", Loud(), hardware__precision="fp16", training__max_grad_norm=None)
    skipped = [e.skipped for e in run.events() if isinstance(e, Stepped)]
    assert skipped[0]
    assert not skipped[-1]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good(tmp_path) -> None:
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 3), 0

        def forward(self, x):
            self.calls += self.training
            return self.linear(x) * (math.nan if self.calls > 14 else 1.0)

    run = fit(tmp_path / "a", Breaks(), training__epochs=50, training__log_every=5)
    assert run.ended().reason == "loss-not-finite"
    assert run.ended().step <= 20
    assert all(torch.isfinite(value).all() for value in run.best_weights().values())


def test_activation_checkpointing_changes_no_bit(tmp_path) -> None:
    def deep():
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3)) for _ in range(4)]
        model = nn.Sequential()
        model.blocks = nn.Sequential(*blocks)
        model.head = nn.Linear(6, 3)
        return model

    plain = fit(tmp_path / "a", deep())
    saving = fit(tmp_path / "b", deep(), hardware__activation_checkpointing=1)
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, saving.model.state_dict()[name]), name
    assert plain.metrics()["loss"] == saving.metrics()["loss"]


def test_compiled_learns_the_same(tmp_path) -> None:
    plain = fit(tmp_path / "a", training__epochs=2)
    compiled = fit(tmp_path / "b", training__epochs=2, hardware__compile=True)
    assert (flat(plain.model) - flat(compiled.model)).abs().max() < 1e-5
    assert not [e.text for e in compiled.events() if isinstance(e, Noted)]
    assert compiled.metrics()["grad_norm"] == pytest.approx(plain.metrics()["grad_norm"], rel=1e-4)


def test_a_model_that_breaks_the_graph_is_still_right(tmp_path) -> None:
    """torch loses the gradients of a traced backward pass behind a graph break; only the model is compiled then."""

    class Breaking(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.inner = nn.Linear(6, 3)

        def forward(self, x):
            x = self.inner(x)
            torch._dynamo.graph_break()
            return x * 2

    plain = fit(tmp_path / "a", Breaking(), training__epochs=1)
    compiled = fit(tmp_path / "b", Breaking(), training__epochs=1, hardware__compile=True)
    assert (flat(plain.model) - flat(compiled.model)).abs().max() < 1e-5
    assert any("only the model is compiled" in e.text for e in compiled.events() if isinstance(e, Noted))


def test_value_clipping_and_differential_rates(tmp_path) -> None:
    run = fit(tmp_path / "a", training__max_grad_value=1e-9, training__max_grad_norm=None, optimizer__kind="sgd",
              optimizer__weight_decay=0.0, optimizer__learning_rates={"0.*": 1e-5}, training__epochs=1)  # fmt: skip
    assert (flat(run.model) - flat(network())).abs().max() < 1e-7


def test_rates_are_scaled_to_the_batch(tmp_path) -> None:
    for kind, factor in (("sgd", 4.0), ("adamw", 2.0)):
        run = fit(tmp_path / kind, optimizer__kind=kind, optimizer__learning_rate=0.01, optimizer__reference_batch_size=4,
                  optimizer__learning_rates={"0.*": 0.001}, schedule__kind="constant", schedule__warmup_steps=0, training__epochs=1)  # fmt: skip
        assert run.metrics()["learning_rate"] == pytest.approx(
            [0.001 * factor] * 6
        )  # the first layer's group is the first


DATASETS = {
    "dataset": lambda: torch.utils.data.TensorDataset(X, Y),
    "loader": lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=16, shuffle=True),
    "list": lambda: [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)],
    "dicts": lambda: [{"input": X[i : i + 16], "labels": Y[i : i + 16]} for i in range(0, 96, 16)],
    "arrays": lambda: (X.double().numpy(), Y.numpy()),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_any_kind_of_data(tmp_path, kind: str) -> None:
    run = fit(tmp_path / kind, train=DATASETS[kind](), valid=DATASETS[kind](), training__batch_size=None, training__epochs=3,
              optimizer__learning_rate=1e-2)  # fmt: skip
    assert run.ended().reason == "finished"
    assert run.metrics()["loss"][-1] < run.metrics()["loss"][0]
    assert run.scores()["accuracy"] > 0.5


def test_batch_norm_takes_batches_that_only_come_one_by_one(tmp_path) -> None:
    batches = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, 96, 16)]
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    run = fit(tmp_path / "a", model, train=batches, valid=batches, training__batch_size=None)
    assert run.recipe.training.batch_size == 16


def test_settings_beside_a_named_loss_count(tmp_path) -> None:
    smooth = fit(tmp_path / "b", loss="cross-entropy", loss__label_smoothing=0.3)
    plain = fit(tmp_path / "c", loss="cross-entropy")
    assert smooth.recipe.loss.kind == "cross-entropy"
    assert smooth.metrics()["loss"] != plain.metrics()["loss"]


def test_two_inputs_an_autoencoder_and_custom_metrics(tmp_path) -> None:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(12, 3)

        def forward(self, a, b):
            return self.linear(torch.cat([a, b], 1))

    run = wellfit.fit(
        Two(), (X, X, Y), (X, X, Y), loss=nn.CrossEntropyLoss(), set={"training.epochs": 1}, folder=tmp_path / "a", quiet=True,
        metrics={"share_right": lambda out, y: (out.argmax(1) == y).float().mean()},
    )  # fmt: skip
    assert run.scores()["share_right"] == pytest.approx(run.scores()["accuracy"], abs=1e-6)
    run = fit(tmp_path / "b", nn.Linear(6, 6), train=X, valid=X, loss="mse", training__epochs=1)
    assert set(run.scores()) >= {"loss", "mae", "rmse", "r2"}


def test_what_a_dataset_or_loader_does_to_its_samples_is_kept(tmp_path) -> None:
    """A subclass may change what comes out, and a sampler may leave samples out or repeat them."""
    calls = []

    class Changing(torch.utils.data.TensorDataset):
        def __getitem__(self, i):
            calls.append("dataset")
            return super().__getitem__(i)

    class Mixing(torch.utils.data.DataLoader):
        def __iter__(self):
            calls.append("loader")
            return super().__iter__()

    plain = torch.utils.data.TensorDataset(X, Y)
    part = torch.utils.data.SequentialSampler(range(32))
    few = torch.utils.data.RandomSampler(plain, replacement=True, num_samples=48)
    kinds = {
        "dataset": Changing(X, Y),
        "loader": Mixing(plain, 16),
        "wrapped": torch.utils.data.DataLoader(Changing(X, Y), 16),
    }
    for name, data in kinds.items():
        calls.clear()
        fit(tmp_path / name, train=data, training__epochs=1, training__batch_size=None)
        assert ("loader" if name == "loader" else "dataset") in calls
    for name, sampler, steps in (("part", part, 2), ("few", few, 3)):
        loader = torch.utils.data.DataLoader(plain, 16, sampler=sampler)
        assert fit(tmp_path / name, train=loader, training__epochs=1, training__batch_size=None).ended().step == steps


def test_a_damaged_best_is_not_replaced_in_silence(tmp_path) -> None:
    run = fit(tmp_path / "a")
    best = run.folder / "checkpoints" / (run.folder / "checkpoints" / "best").read_text() / "model.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    with pytest.raises(RunError, match="damaged"):
        run.best_weights()


BAD = {
    "a list of two tensors": (lambda: dict(train=[X, Y]), DataError, "tuple"),
    "shapes that broadcast": (lambda: dict(model=nn.Linear(6, 1), train=(X, X[:, 0]), valid=None, loss="mse"), ModelError, r"\[.*1\]"),
    "labels out of range": (lambda: dict(train=(X, Y + 1), valid=None), ModelError, "3"),
    "rows that do not match": (lambda: dict(train=(X, Y[:-1])), DataError, "95"),
    "no data": (lambda: dict(train=(X[:0], Y[:0])), DataError, "empty"),
    "batch larger than data": (lambda: dict(training__batch_size=1000), DataError, "1000"),
    "zero epochs": (lambda: dict(training__epochs=0), RecipeError, "greater than 0"),
    "no such device": (lambda: dict(hardware__device="cuda:7"), HardwareError, "cpu"),
    "unknown device": (lambda: dict(hardware__device="gpu"), HardwareError, "cpu"),
    "not a module": (lambda: dict(model=3), ModelError, "nn.Module"),
    "nothing to train": (lambda: dict(model=nn.ReLU()), ModelError, "train"),
    "data of no kind": (lambda: dict(train=7), DataError, "tuple of tensors"),
    "patience without validation": (lambda: dict(valid=None, evaluation__patience=2), RecipeError, "validation"),
    "metric of no known goal": (lambda: dict(evaluation__metric="top1"), RecipeError, r"evaluation\.goal"),
    "two losses": (lambda: dict(loss__kind="focal"), RecipeError, "Keep one"),
    "settings beside a loss of one's own": (
        lambda: dict(loss=nn.CrossEntropyLoss(), loss__label_smoothing=0.1), RecipeError, "Keep one"),
    "a wrong signature": (lambda: dict(train=(X, X, Y)), ModelError, "positional argument"),
    "types that do not fit": (lambda: dict(train=(X.double(), Y)), ModelError, r"\[16, 6\] float64"),
    "inputs of another size": (lambda: dict(model=nn.Linear(5, 3)), ModelError, "cannot be multiplied"),
    "batch norm on single samples": (
        lambda: dict(model=nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), training__batch_size=1), ModelError, "batch norm"),
    "detached loss": (lambda: dict(loss=lambda outputs, _: outputs.sum().detach()), ModelError, "detached"),
    "empty validation": (lambda: dict(valid=[]), DataError, "empty"),
    "empty validation tensors": (lambda: dict(valid=(X[:0], Y[:0])), DataError, "empty"),
    "numbers as data": (lambda: dict(train=(torch.tensor(1.0), torch.tensor(1))), DataError, "single number"),
    "endless": (lambda: dict(training__epochs=float("inf")), RecipeError, "finite"),
    "metric of no name": (lambda: dict(evaluation__metric="acuracy", evaluation__goal="max"), RecipeError, "`accuracy`"),
    "no blocks to recompute": (lambda: dict(model=nn.Linear(6, 3), hardware__activation_checkpointing=1), ModelError, "blocks"),
    "pattern that matches nothing": (lambda: dict(optimizer__learning_rates={"head.*": 1.0}), RecipeError, "head"),
    "validation that runs out": (lambda: dict(valid=iter([(X, Y)])), DataError, "once"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_step(tmp_path, case: str) -> None:
    if case == "no such device" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight GPUs")
    arguments, kind, says = BAD[case]
    with pytest.raises(kind, match=says):
        fit(tmp_path / "run", **arguments())
    assert not (tmp_path / "run").exists()


def test_no_validation_is_said(tmp_path) -> None:
    run = fit(tmp_path / "a", valid=None)
    assert any("no validation set" in e.text and "valid_share" in e.text for e in run.events() if isinstance(e, Noted))
    assert run.best_weights()


def test_resuming_with_something_else_says_what_changed(tmp_path) -> None:
    fit(tmp_path / "a", training__epochs=1)
    with pytest.raises(RunError, match=r"3\.weight is \[3, 8\] float32, not \[3, 16\]"):
        wellfit.fit(
            nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0), nn.Linear(8, 3)), (X, Y), (X, Y), loss="cross-entropy",
            resume=tmp_path / "a", quiet=True,
        )  # fmt: skip
    with pytest.raises(RunError, match="validation data"):
        wellfit.fit(
            network(), (X, Y), (X[:32], Y[:32].roll(1)), loss="cross-entropy", resume=tmp_path / "a", quiet=True
        )
    with pytest.raises(RecipeError, match="Keep one"):
        wellfit.fit(
            network(),
            (X, Y),
            (X[:32], Y[:32]),
            loss=lambda o, y: nn.functional.cross_entropy(o, y),
            resume=tmp_path / "a",
            quiet=True,
        )
    other = network()
    other[1] = nn.Tanh()
    with pytest.raises(RunError, match="module 1 is Tanh, not GELU"):
        wellfit.fit(other, (X, Y), (X[:32], Y[:32]), loss="cross-entropy", resume=tmp_path / "a", quiet=True)
    recipe = tmp_path / "a" / "recipe.yaml"
    written = recipe.read_text()
    recipe.write_text(written.replace("weight_decay: 0.01", "weight_decay: 0.5"))
    with pytest.raises(RunError, match=r"optimizer\.weight_decay` is 0\.5, not 0\.01"):
        wellfit.fit(network(), (X, Y), (X[:32], Y[:32]), loss="cross-entropy", resume=tmp_path / "a", quiet=True)
    recipe.write_text(written)
    with pytest.raises(RunError, match="training data"):
        wellfit.fit(network(), (X + 1, Y), (X, Y), loss="cross-entropy", resume=tmp_path / "a", quiet=True)
    with pytest.raises(RunError, match="resume="):
        wellfit.resume(tmp_path / "a")


def test_seeds_decide(tmp_path) -> None:
    def digits(name: str, seed: int):
        recipe = Recipe().override({"training.steps": 5, "training.seed": seed, "model.kind": "mlp"})
        return flat(api.fit_recipe(recipe, folder=tmp_path / name, quiet=True).model)

    first = digits("a", 0)
    torch.manual_seed(99)
    assert torch.equal(first, digits("b", 0))
    assert not torch.equal(first, digits("c", 1))


def test_what_was_set_globally_is_put_back(tmp_path) -> None:
    fit(tmp_path / "a", training__epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()
