"""Training that goes on from trained weights: what learns when, that nothing else moves, and that a resume knows it too."""

import contextlib
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import wellfit
from wellfit import api, finetune
from wellfit.checkpoint import Checkpoints
from wellfit.deliver.predict import predict
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.finetune import NEVER, adapters, blocks, laid_into, plan, read
from wellfit.models.resnet import cifar_resnet
from wellfit.models.transformer import Classifier, Encoder
from wellfit.recipe import Finetune, Recipe
from wellfit.train.setup import from_recipe

X = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long()
SMALL = {"data.source": "digits", "model": {"kind": "convnet", "channels": [4, 8]}, "training.batch_size": 64}


def network(outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(depth=8, outputs=outputs)


def fit(folder, model, **settings):
    changes = {"training.batch_size": 16, "training.epochs": 3, "evaluation.restore_best": False} | {
        name.replace("__", "."): value for name, value in settings.items()
    }
    return wellfit.fit(model, (X, Y), (X[:32], Y[:32]), loss="cross-entropy", set=changes, folder=folder, quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the digits to start from."""
    folder = tmp_path_factory.mktemp("start") / "run"
    return api.fit_recipe(Recipe(), set={**SMALL, "training.epochs": 2}, folder=folder, quiet=True)


# ---- blocks and stages


def test_blocks_are_in_order_and_hold_everything_once() -> None:
    for model, count in ((network(), 5), (Classifier(Encoder(20, 16, 2, 2), 3), 5), (nn.Linear(2, 2), 1)):
        found = blocks(model)
        names = [name for block in found for name in block]
        assert names == [name for name, _ in model.named_parameters()]
        assert len(found) == count, [block[0] for block in found]


def test_what_learns_is_a_function_of_the_step() -> None:
    model = network()
    stages = plan(model, Finetune(strategy="progressive", thawed=0.5), total=80, per_epoch=10)
    stages.freeze()
    learning = {}
    for step in (0, 9, 10, 39, 40, 79, 10):
        stages.at(step)
        learning[step] = sum(p.requires_grad for p in model.parameters())
    assert learning[0] == learning[9] == 2, "the head"
    assert learning[0] < learning[10] < learning[39] < learning[40] == learning[79] == len(list(model.parameters()))
    stages.at(0)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)
    stages.at(79)
    assert all(m.training for m in norms)


def test_the_recipe_begins_anew_at_a_tenth_when_the_head_has_learnt() -> None:
    stages = plan(network(), Finetune(strategy="recipe", head_epochs=2), total=100, per_epoch=10)
    assert stages.head_until == 20
    linear = lambda step, total: 1 - step / total  # noqa: E731
    assert stages.share(0, 100, linear) == 1
    assert stages.share(20, 100, linear) == 0.1
    assert stages.share(60, 100, linear) == pytest.approx(0.05)
    with pytest.raises(
        RecipeError, match=r"`finetune.head_epochs` is 2, which is 20 steps, and the whole training has 20"
    ):
        plan(network(), Finetune(strategy="recipe"), total=20, per_epoch=10)


def test_without_a_head_phase_everything_has_the_smaller_rate() -> None:
    stages = plan(network(), Finetune(strategy="recipe", head_epochs=0), total=100, per_epoch=10)
    assert stages.share(0, 100, lambda step, total: 1 - step / total) == 0.1


def test_what_came_frozen_stays_frozen(tmp_path) -> None:
    model = network()
    model.stem.requires_grad_(False)
    before = [p.clone() for p in model.stem.parameters()]
    for strategy in ("full", "progressive"):
        fit(tmp_path / strategy, model, finetune__strategy=strategy)
        assert all(torch.equal(a, b) for a, b in zip(before, model.stem.parameters(), strict=True))


def test_what_lora_finds_new_learns_whole(tmp_path) -> None:
    """Weights of three channels for images of one: the stem is drawn anew, learns as it is, and has no adapter."""
    pytest.importorskip("peft")
    torch.save(cifar_resnet(depth=8, outputs=2).state_dict(), tmp_path / "colour.pt")
    model = cifar_resnet(depth=8, channels=1, outputs=2)
    run = wellfit.fit(
        model, (X[:, :1], Y), (X[:32, :1], Y[:32]), loss="cross-entropy", folder=tmp_path / "run", quiet=True,
        set={"finetune.weights": str(tmp_path / "colour.pt"), "finetune.strategy": "lora", "training.epochs": 1, "training.batch_size": 16},
    )  # fmt: skip
    learns = {name for name, p in run.model.named_parameters() if p.requires_grad and "lora_" not in name}
    assert learns == {"stem.0.weight"}
    assert not [name for name, _ in run.model.named_parameters() if name.startswith("stem.") and "lora_" in name]


def test_texts_are_cut_as_the_weights_know_them(tmp_path) -> None:
    lines = [f"{word} number {i % 7},{'yes' if i % 2 else 'no'}" for i, word in enumerate(["alpha", "beta"] * 40)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    (tmp_path / "b.csv").write_text("text,label\n" + "\n".join(f"zeta {line}" for line in reversed(lines)) + "\n")
    base = {"task": "text-classification", "training.steps": 2, "training.batch_size": 16}
    old = api.fit_recipe(
        Recipe(), set={**base, "data.source": str(tmp_path / "a.csv")}, folder=tmp_path / "old", quiet=True
    )
    more = {"data.source": str(tmp_path / "b.csv"), "finetune.weights": str(old.folder)}
    new = api.fit_recipe(Recipe(), set={**base, **more}, folder=tmp_path / "new", quiet=True)
    assert new.task["tokens"] == old.task["tokens"]
    assert new.recipe.data.tokens == str(old.folder)


def test_rates_fall_with_depth_and_the_users_own_stand(tmp_path) -> None:
    run = fit(tmp_path / "run", network(), finetune__strategy="differential", finetune__depth_decay=0.5,
              optimizer__learning_rate=0.1, optimizer__learning_rates={"stem.*": 0.007})  # fmt: skip
    model = network()
    stages = plan(model, Finetune(strategy="differential", depth_decay=0.5), total=1, per_epoch=1)
    rates = stages.rates(run.recipe.optimizer)
    assert rates["stem.*"] == 0.007
    assert rates["blocks.2.branch.0.weight"] == 0.05
    assert rates["blocks.0.branch.0.weight"] == 0.0125
    assert "head.weight" not in rates
    assert not any(name.startswith("stem.0") for name in rates)


# ---- training


def test_frozen_moves_the_head_and_nothing_else(tmp_path) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = fit(tmp_path / "run", model, finetune__strategy="frozen")
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}, "no statistics of batch norms either"
    assert not [f for f in run.findings() if f["severity"] != "advice"]
    checkpoint = Checkpoints(run.folder / "checkpoints").latest()
    assert len(checkpoint.state["optimizer"]["state"]) == 2


def test_each_strategy_trains_and_is_quiet(tmp_path) -> None:
    for strategy in ("full", "differential", "progressive", "recipe"):
        model = network()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        settings = {"finetune__head_epochs": 1.0} if strategy == "recipe" else {}
        run = fit(tmp_path / strategy, model, finetune__strategy=strategy, **settings)
        assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters()), strategy
        assert math.isfinite(run.scores()["loss"])
        found = [f["id"] for f in run.findings() if f["severity"] != "advice"]
        assert not found, (strategy, found)


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [("progressive", "adamw"), ("progressive", "sgd"), ("recipe", "adamw"), ("lora", "adamw")],
)
def test_a_resume_in_the_middle_is_the_run_that_was_never_stopped(tmp_path, trained, strategy, optimizer) -> None:
    """Stopped before and after blocks thaw; weights, optimizer and every recorded number are the same bits."""
    if strategy == "lora":
        pytest.importorskip("peft")
    settings = {
        **SMALL, "finetune.weights": str(trained.folder), "finetune.strategy": strategy, "training.epochs": 2,
        "finetune.head_epochs": 0.5, "checkpoints.every": 1.0, "checkpoints.keep": 100, "evaluation.every": 10.0,
        "optimizer.learning_rate": 1e-3, "optimizer.kind": optimizer,
    }  # fmt: skip
    whole = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "whole", quiet=True)
    steps = len(whole.metrics()["loss"])
    for stop in (steps // 8, steps // 3, 3 * steps // 4):
        part = tmp_path / f"part{stop}"

        def interrupt(event, stop=stop) -> None:
            if getattr(event, "step", 0) == stop and type(event).__name__ == "Stepped":
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            changes = {**settings, "training.log_every": 1}
            api.fit_recipe(Recipe(), set=changes, folder=part, quiet=True, observers=[interrupt])
        api.resume(part, quiet=True)
        again = wellfit.open(part)
        assert again.metrics()["loss"] == whole.metrics()["loss"], stop
        a, b = (Checkpoints(run.folder / "checkpoints").latest() for run in (whole, again))
        assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights), stop
        for one, other in zip(
            a.state["optimizer"]["state"].values(), b.state["optimizer"]["state"].values(), strict=True
        ):
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_what_pulls_towards_the_start_holds_it_there(tmp_path) -> None:
    distances = []
    for strength in (0.0, 30.0):
        model = network()
        start = torch.cat([p.detach().flatten() for p in model.parameters()])
        fit(tmp_path / f"{strength}", model, finetune__strategy="full", finetune__towards_start=strength,
            optimizer__learning_rate=1e-2, optimizer__kind="sgd")  # fmt: skip
        distances.append(float((torch.cat([p.detach().flatten() for p in model.parameters()]) - start).norm()))
    assert distances[1] < 0.5 * distances[0]


def test_the_pull_is_the_closed_form_however_the_batch_is_cut() -> None:
    model = nn.Linear(3, 2)
    task = finetune.TowardsStart(Constant(), model, 0.5, [])
    with torch.no_grad():
        model.weight += 2.0
    assert task.loss(model, torch.zeros(5)).item() == pytest.approx(5 * 0.5 / 2 * 4 * 6)


class Constant:
    def weight(self, batch) -> int:
        return len(batch)

    def loss(self, *_) -> torch.Tensor:
        return torch.zeros(())


# ---- weights


def test_weights_go_in_by_name_by_prefix_and_by_order(tmp_path) -> None:
    source = {name: torch.randn_like(v) if v.is_floating_point() else v for name, v in network(10).state_dict().items()}
    torch.save({"state_dict": {f"module.{name}": v for name, v in source.items()}, "epoch": 3}, tmp_path / "a.pth")
    model = network(2)
    laid = laid_into(model, read(tmp_path / "a.pth"))
    assert laid.fresh == ["head.weight", "head.bias"]
    assert laid.unused == ["module.head.weight", "module.head.bias"]
    assert not laid.by_order
    assert torch.equal(model.state_dict()["stem.0.weight"], source["stem.0.weight"])

    other = {f"layer{i}": v for i, (name, v) in enumerate(source.items()) if not name.endswith("num_batches_tracked")}
    torch.save(other, tmp_path / "b.pt")
    laid = laid_into(network(2), read(tmp_path / "b.pt"))
    assert laid.by_order
    assert laid.fresh == ["head.weight", "head.bias"]
    assert "by their order, as no names agree" in str(laid)


def test_weights_that_are_none_or_do_not_fit(tmp_path) -> None:
    with pytest.raises(DataError, match="there is nothing there"):
        read(tmp_path / "no.pt")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"ending in \.safetensors"):
        read(tmp_path / "a.txt")
    (tmp_path / "a.pt").write_text("x")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read(tmp_path / "a.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(DataError, match=r"save the `state_dict\(\)`"):
        read(tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="have LoRA adapters beside them"):
        laid_into(network(), {"head.base_layer.weight": torch.zeros(2, 64)})
    with pytest.raises(ModelError, match="Choose the architecture"):
        laid_into(network(), nn.Linear(3, 3).state_dict())


def test_turned_channels_are_turned_images() -> None:
    model, x = network(), torch.randn(2, 3, 8, 8)
    turned = network()
    turned.load_state_dict(finetune._turned(model.state_dict()))
    torch.testing.assert_close(model.eval()(x), turned.eval()(x.flip(1)))


def test_a_run_goes_on_at_a_tenth_of_the_rate(trained) -> None:
    settings = {**SMALL, "finetune.weights": str(trained.folder), "training.steps": 3}
    job = from_recipe(Recipe().override(settings))
    assert job.recipe.finetune.strategy == "full"
    assert job.recipe.optimizer.learning_rate == pytest.approx(1e-4), "a tenth of the usual"
    weights = trained.best_weights()
    assert torch.equal(job.model.state_dict()["standardize.mean"], weights["standardize.mean"])
    assert torch.equal(job.model.state_dict()["network.head.weight"], weights["network.head.weight"])


def test_of_weights_drawn_at_random_there_is_nothing_to_keep() -> None:
    with pytest.raises(RecipeError, match=r"begins with weights drawn at random.*Name trained ones"):
        from_recipe(Recipe().override({**SMALL, "finetune.strategy": "frozen"}))


# ---- LoRA


def test_lora_learns_beside_frozen_weights_predicts_and_is_saved_as_peft_has_it(tmp_path, trained) -> None:
    peft = pytest.importorskip("peft")
    settings = {**SMALL, "finetune.weights": str(trained.folder), "finetune.strategy": "lora", "finetune.rank": 2,
                "training.epochs": 1}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "run", quiet=True)
    start, now = trained.best_weights(), run.best_weights()
    base = {name.replace(".base_layer", ""): value for name, value in now.items() if "lora_" not in name}
    moved = {name for name, value in start.items() if not torch.equal(value, base[name])}
    assert not moved, "the head has learnt these classes before"
    assert len(predict(run, torch.zeros(1, 8, 8, dtype=torch.uint8))) == 1

    job = from_recipe(Recipe().override(settings))
    job.model.load_state_dict(now)
    x = torch.randint(0, 17, (4, 1, 8, 8), dtype=torch.uint8)
    apart = job.model.eval()(x)
    adapters.save(job.model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(
        from_recipe(Recipe().override({**SMALL, "training.steps": 1})).model, tmp_path / "adapter"
    )
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert set(state) == {name.replace(".default", "") for name, _ in again.named_parameters() if "lora_" in name}
    merged = adapters.merge(job.model)
    assert not adapters.learnt(merged)
    torch.testing.assert_close(merged.eval()(x), apart, atol=1e-5, rtol=1e-5)


def test_targets_are_attentions_or_all_but_the_head() -> None:
    encoder = Classifier(Encoder(20, 16, 2, 2), 3)
    assert {name.rpartition(".")[2] for name in adapters.targets(encoder)} == {"q", "kv"}
    assert "head" not in adapters.targets(network(), head=["head.weight", "head.bias"])
    with pytest.raises(ModelError, match=r"no layer's name ends so; the layers that can be adapted .* end in"):
        adapters.targets(encoder, ["nothing"])
    stages = plan(encoder, Finetune(strategy="lora"), total=1, per_epoch=1)
    assert stages.starts["encoder.embedding.weight"] == NEVER


def test_a_head_whose_name_ends_as_a_targets_does_gets_no_adapter() -> None:
    pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))
    assert adapters.lay_in(model, Finetune(strategy="lora", targets=("0",)), ["2.0.weight", "2.0.bias"]) == ["0"]
    assert not [name for name in adapters.learnt(model) if name.startswith("2.")]
