"""The plain script of a run trains the run's weights again, bit for bit, without wellfit; and what it cannot say is refused by name."""

import ast
import contextlib
import functools
import io
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

import wellfit
from commands import wellfit as command
from wellfit import api
from wellfit.data import stdlib
from wellfit.deliver import eject as ejecting
from wellfit.deliver.eject import networks
from wellfit.deliver.eject.script import Source, arrays, script
from wellfit.errors import RunError
from wellfit.recipe import MODELS, Recipe
from wellfit.run import Run
from wellfit.train.setup import from_recipe

MAY_IMPORT = {"copy", "itertools", "math", "collections", "pathlib", "numpy", "torch", "sklearn"}


def trained(folder: Path, preset: str = "wine", **settings) -> Run:
    chosen = {"training.epochs": 2, "hardware.device": "cpu", "training.doctor": False} | settings
    return api.fit_recipe(preset, set=chosen, folder=folder, quiet=True, yardsticks=False)


def apart(done, run: Run) -> float:
    """As `eject(check=True)`, but in this process: to load torch anew takes longer than most scripts."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            runpy.run_path(str(done.script), run_name="__main__")
    finally:
        torch.use_deterministic_algorithms(deterministic)
    weights, kept = torch.load(done.script.with_suffix(".pt"), weights_only=True), ejecting._kept(run)
    assert list(weights) == list(kept) or weights.keys() == kept.keys()
    if run.scores("test"):
        assert f"'loss': {run.scores('test')['loss']!r}" in said.getvalue(), "the score is the run's, to the last digit"
    return max(ejecting._difference(weights[name], kept[name]) for name in kept)


def modules(text: str) -> set[str]:
    nodes = [*ast.walk(ast.parse(text))]
    plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.fixture(scope="module")
def wine(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("wine") / "run")


# ---- the same bits


def test_digits_in_an_interpreter_of_their_own(tmp_path) -> None:
    """The preset with its shifts, smoothing, dropout, batch norm and choice of the best, for fewer steps."""
    run = trained(tmp_path / "run", "digits", **{"training.epochs": None, "training.steps": 12, "evaluation.every": 5})
    done = command("eject", run.folder, "digits.py", "--check", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the same bits as the run's" in done.stdout
    text = (tmp_path / "digits.py").read_text()
    assert modules(text) <= MAY_IMPORT
    assert len([line for line in text.splitlines() if line.strip()]) < 160, "a page or two, not a program"
    assert max(map(len, text.splitlines())) <= 160
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.py", "run"], "running it leaves nothing behind"


def test_the_preset_of_texts(tmp_path, monkeypatch) -> None:
    """Tokens, batches of like length, tokens left out, a Transformer with dropout everywhere."""
    monkeypatch.setattr(stdlib, "kinds", functools.cache(stdlib.kinds))  # read once, for it takes seconds
    short = {"training.epochs": None, "training.steps": 6, "data.train_samples": 200}
    run = trained(tmp_path / "run", "stdlib-kinds", **short)
    done = wellfit.eject(run, tmp_path / "texts.py")
    assert done.data == tmp_path / "texts.npz"
    assert modules(done.script.read_text()) <= MAY_IMPORT - {"sklearn"}
    assert apart(done, run) == 0


TABLES = {
    "wine": ("wine", {}),
    "breast-cancer": ("breast-cancer", {"training.epochs": 1}),
    "diabetes": ("diabetes", {}),
    "few": ("wine", {"data.train_samples": 49}),  # in a file beside the script; 49 = 3 x 16 + 1, and the one joins the last batch
    "sgd": ("wine", {"optimizer.kind": "sgd", "optimizer.learning_rate": 0.05, "optimizer.nesterov": True, "schedule.kind": "step"}),
    "adam": ("wine", {"optimizer.kind": "adam", "optimizer.weight_decay": 0.01, "schedule.kind": "one-cycle"}),
    "adafactor": ("wine", {"optimizer.kind": "adafactor", "schedule.kind": "linear", "schedule.final_share": 0.1}),
    "lion": ("wine", {"optimizer.kind": "lion", "optimizer.learning_rate": 3e-4, "schedule.kind": "warmup-stable-decay"}),
    "muon": ("wine", {"optimizer.kind": "muon", "schedule.kind": "constant"}),
    "micro-batches": ("wine", {"training.gradient_accumulation_steps": 3, "training.batch_size": 18, "loss.class_weights": "balanced",
                               "loss.label_smoothing": 0.1}),
    "focal": ("wine", {"loss.kind": "focal", "loss.class_weights": [1.0, 2.0, 0.5], "evaluation.metric": "f1"}),
    "patience": ("wine", {"training.epochs": 4, "evaluation.patience": 1, "evaluation.min_improvement": 0.05, "evaluation.metric": "accuracy",
                          "optimizer.learning_rate": 1e-5}),
    "the last": ("wine", {"evaluation.restore_best": False, "training.max_grad_norm": 0.3, "training.max_grad_value": 0.01}),
    "nothing held out": ("wine", {"data.valid_share": 0, "data.test_share": 0}),
    "batch norm": ("wine", {"model.norm": "batch", "model.activation": "tanh", "data.shuffle": False, "optimizer.reference_batch_size": 64}),
    "bf16": ("diabetes", {"hardware.precision": "bf16", "loss.kind": "smooth-l1", "loss.delta": 0.5, "evaluation.metric": "mae"}),
    "r2": ("diabetes", {"loss.kind": "huber", "evaluation.metric": "r2", "hardware.activation_checkpointing": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name: str) -> None:
    preset, settings = TABLES[name]
    run = trained(tmp_path / "run", preset, **settings)
    if name == "patience":
        assert run.ended().reason == "early-stopping"
    done = wellfit.eject(run, tmp_path / "table.py")
    assert (done.data is not None) == (name == "few")
    assert apart(done, run) == 0


IMAGES = {
    "lenet": {"model": {"kind": "lenet", "activation": "tanh", "pool": "average"}, "data.augment.flip": True},
    "a pixel for four quarters": {"model": {"kind": "convnet", "channels": [4, 4, 4, 4]}, "data.augment.shift": 0},
    "mlp": {
        "model": {"kind": "mlp", "widths": [16], "norm": "layer"},
        "optimizer.kind": "muon",
        "data.augment.flip": True,
    },
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(tmp_path, name: str) -> None:
    run = trained(tmp_path / "run", "digits", **{"training.epochs": None, "training.steps": 4, **IMAGES[name]})
    assert apart(wellfit.eject(run, tmp_path / "images.py"), run) == 0


TEXTS = {
    "bag": {"model": {"kind": "bag", "width": 16, "dropout": 0.3}, "data.augment.swap": 0.2, "optimizer.decay_embeddings": False},
    "post": {"model": {"kind": "encoder", "width": 16, "layers": 2, "order": "post", "positions": "sinusoidal", "mlp": "swiglu",
                       "norm": "rms"}, "evaluation.metric": "f1"},
    "learned": {"model": {"kind": "encoder", "width": 16, "layers": 2, "positions": "learned", "mlp": "relu"}, "optimizer.kind": "muon",
                "training.gradient_accumulation_steps": 2},
    "none": {"model": {"kind": "encoder", "width": 16, "positions": "none", "dropout": 0.0}, "data.augment.delete": 0.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    pytest.importorskip("pandas")
    path = tmp_path_factory.mktemp("films") / "films.csv"
    words = ["a", "film", "so", "very", "really", "it", "is", "was", "and", "then"]
    lines = [
        f"{' '.join(words[(i * j) % 10] for j in range(1, 2 + i % 7))} {'good' if i % 2 else 'bad'},{i % 2}"
        for i in range(90)
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, films, name: str) -> None:
    data = {
        "data.source": str(films),
        "data.text": "text",
        "data.target": "label",
        "data.augment.delete": 0.3,
        "training.batch_size": 16,
    }
    run = trained(tmp_path / "run", "stdlib-kinds", **{"training.epochs": 2, **data, **TEXTS[name]})
    assert apart(wellfit.eject(run, tmp_path / "texts.py"), run) == 0


# ---- nothing is silently ignored

CHANGED = {  # setting -> another value, and what must be on beside it
    "data.split_seed": (1, {}), "data.valid_share": (0.2, {}), "data.test_share": (0.3, {}), "data.train_samples": (50, {}),
    "data.draw_seed": (1, {"data.train_samples": 50}), "data.shuffle": (False, {}),
    "loss.kind": ("focal", {}), "loss.label_smoothing": (0.1, {}), "loss.class_weights": ("balanced", {}),
    "loss.gamma": (1.0, {"loss.kind": "focal"}),
    "optimizer.kind": ("sgd", {}), "optimizer.learning_rate": (0.1, {}), "optimizer.weight_decay": (0.3, {}),
    "optimizer.momentum": (0.5, {"optimizer.kind": "sgd"}), "optimizer.nesterov": (True, {"optimizer.kind": "sgd"}),
    "optimizer.beta1": (0.5, {}), "optimizer.beta2": (0.5, {}), "optimizer.eps": (1e-3, {}), "optimizer.reference_batch_size": (64, {}),
    "optimizer.batch_scaling": ("linear", {"optimizer.reference_batch_size": 64}),
    "schedule.kind": ("constant", {}), "schedule.warmup_steps": (7, {}), "schedule.final_share": (0.5, {}),
    "schedule.milestones": ([0.1, 0.2], {"schedule.kind": "step"}), "schedule.drop": (0.7, {"schedule.kind": "step"}),
    "schedule.decay_share": (0.7, {"schedule.kind": "warmup-stable-decay"}),
    "training.epochs": (4, {}), "training.steps": (11, {"training.epochs": None}), "training.batch_size": (8, {}),
    "training.gradient_accumulation_steps": (2, {}), "training.max_grad_norm": (0.1, {}), "training.max_grad_value": (0.1, {}),
    "training.seed": (1, {}), "training.deterministic": (False, {}),
    "hardware.precision": ("bf16", {}),
    "evaluation.every": (2, {}), "evaluation.metric": ("accuracy", {}), "evaluation.goal": ("max", {}), "evaluation.patience": (3, {}),
    "evaluation.min_improvement": (0.1, {}), "evaluation.restore_best": (False, {}), "evaluation.batch_size": (16, {}),
    "model.widths": ([8], {}), "model.activation": ("tanh", {}), "model.norm": ("rms", {}), "model.dropout": (0.7, {}),
}  # fmt: skip
ELSEWHERE = {  # settings that wine does not heed, or that choose which arrays there are
    "task", "data.source", "data.target", "data.categorical", "data.ignore", "data.text", "data.tokens", "data.vocabulary", "data.context",
    "data.missing", "data.valid", "data.test", "data.image_size", "data.workers", "data.augment.shift", "data.augment.flip",
    "data.augment.delete", "data.augment.swap", "loss.delta", "optimizer.decay_embeddings", "hardware.device", "hardware.channels_last",
}  # fmt: skip


def written(settings) -> tuple[str, dict]:
    job = from_recipe(Recipe.load("wine").override({"training.epochs": 3, "hardware.device": "cpu", **settings}))
    return script(job, Source("run", "2", 1, "wine.py")), {name: value.tolist() for name, value in arrays(job).items()}


def test_each_setting_that_passes_is_in_the_script() -> None:
    model = {f"model.{name}" for name in networks.KINDS["mlp"].settings}
    assert {*CHANGED} | ELSEWHERE == {*ejecting.WRITTEN} | model, "a setting that passes needs its proof here"
    plain = written({})
    for path, (value, beside) in CHANGED.items():
        assert written({**beside, path: value}) != (written(beside) if beside else plain), path


def test_whatever_is_not_known_to_be_written_is_refused(wine) -> None:
    """So a setting that is added later is refused until somebody writes it out."""
    recipe = wine.recipe
    other = object()  # what no default is
    accepted = set()
    for path in recipe.flat():
        with contextlib.suppress(RunError):
            ejecting._refuse_setting(recipe, path, other)
            accepted.add(path)
    idle = {
        path
        for path in recipe.flat()
        if any(path == one or path.startswith(one) for one in ejecting.IDLE if one != "name")
    } | {"name"}
    free = {path for path, values in ejecting.WRITTEN.items() if values is None}
    free |= {f"model.{name}" for name, values in networks.KINDS["mlp"].settings.items() if values is None} | {
        "model.kind"
    }
    augment = {path for path in recipe.flat() if path.startswith("data.augment.")}  # of which a table heeds none
    assert accepted - augment <= idle | free
    for path in ("optimizer.lookahead", "model.experts", "data.augment.noise", "averaging.decay"):
        with pytest.raises(RunError, match=f"`{path}"):
            ejecting._refuse_setting(recipe, path, 5)


def test_every_kind_names_settings_that_its_model_has() -> None:
    for kind, network in networks.KINDS.items():
        assert {*network.settings} <= {*MODELS[kind].model_fields}, kind


# ---- what is refused

REFUSED = {
    "model.kind=resnet": {"model": {"kind": "resnet"}},
    "data.augment.mixup=0.2": {"data.augment.mixup": 0.2},
    "hardware.channels_last=true": {"hardware.channels_last": True},
    "recovery.not_finite=3": {"recovery.not_finite": 3},
    "optimizer.learning_rates": {"optimizer.learning_rates": {"*head*": 1e-3}},
    "hardware.precision=fp16": {"hardware.precision": "fp16"},
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("ended") / "run", "digits", **{"training.epochs": None, "training.steps": 1})


@pytest.mark.parametrize("told", REFUSED)
def test_a_setting_that_cannot_be_written_out_is_named_before_anything_is_written(tmp_path, ended, told) -> None:
    run = Run(Path(shutil.copytree(ended.folder, tmp_path / "run")))
    recipe = ended.recipe.override(REFUSED[told])
    (run.folder / "recipe.yaml").write_text(recipe.dump())
    with pytest.raises(RunError, match="eject cannot express `" + re.escape(told)):
        wellfit.eject(run.folder, tmp_path / "digits.py")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_has_not_ended_or_has_no_recipe_of_its_own(tmp_path) -> None:
    stopped = trained(tmp_path / "stopped")
    lines = (stopped.folder / "events.jsonl").read_text().splitlines()
    (stopped.folder / "events.jsonl").write_text("\n".join(line for line in lines if '"Ended"' not in line) + "\n")
    with pytest.raises(RunError, match=r"has not ended.*wellfit resume"):
        wellfit.eject(stopped, tmp_path / "a.py")
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    own = wellfit.fit(
        torch.nn.Linear(3, 2),
        (x, y),
        loss="cross-entropy",
        set={"training.epochs": 1},
        folder=tmp_path / "own",
        quiet=True,
    )
    with pytest.raises(RunError, match="holds no code"):
        wellfit.eject(own, tmp_path / "a.py")
    assert not (tmp_path / "a.py").exists()


def test_names_from_a_run_folder_are_only_names(tmp_path, wine) -> None:
    """The check runs the script, and nothing in a run folder is ever executed."""
    hostile = '"""\nraise SystemExit(7)\n"""\\'
    folder = Path(shutil.copytree(wine.folder, tmp_path / "run"))
    (folder / "recipe.yaml").write_text(wine.recipe.override({"name": hostile, "data.train_samples": None}).dump())
    environment = (
        (folder / "environment.json").read_text().replace('"torch": "', '"torch": "\\"\\"\\"\\nraise SystemExit(7)\\n')
    )
    (folder / "environment.json").write_text(environment)
    done = wellfit.eject(folder, tmp_path / "wine.py")
    tree = ast.parse(done.script.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    assert "SystemExit" in ast.get_docstring(tree), "it is there, as a word"


@pytest.mark.parametrize("name", ["torch", "random"])
def test_no_script_stands_in_the_way_of_a_module(tmp_path, wine, monkeypatch, name: str) -> None:
    folder = Path(shutil.copytree(wine.folder, tmp_path / "run"))
    (folder / "recipe.yaml").write_text(wine.recipe.override({"name": name}).dump())
    environment = json.loads((folder / "environment.json").read_text()) | {"packages": None, "threads": -5}
    (folder / "environment.json").write_text(json.dumps(environment))
    monkeypatch.chdir(tmp_path)
    assert wellfit.eject(folder).script.name == f"{name}-run.py"
    with pytest.raises(RunError, match=f"imported in place of the module {name}"):
        wellfit.eject(folder, tmp_path / f"{name}.py")
    assert not (tmp_path / f"{name}.py").exists()


def test_data_that_has_changed(tmp_path, films) -> None:
    own = tmp_path / "films.csv"
    own.write_text(films.read_text())
    settings = {"data.source": str(own), "data.text": "text", "data.target": "label", "model": {"kind": "bag"}}
    run = trained(tmp_path / "run", "stdlib-kinds", **settings)
    own.write_text(films.read_text().replace("very", "film"))
    with pytest.raises(RunError, match="not what the run"):
        wellfit.eject(run, tmp_path / "a.py")


# ---- the check, and the command


def test_the_check_tells_other_bits_and_a_script_that_fails(tmp_path, wine) -> None:
    done = wellfit.eject(wine, tmp_path / "wine.py")
    text = done.script.read_text()
    done.script.write_text(text.replace("SEED = 0", "SEED = 1"))
    assert 0 < ejecting.apart(done, wine) < 10
    done.script.write_text("raise ValueError('no')\n" + text)
    with pytest.raises(RunError, match="running it fails: ValueError: no"):
        ejecting.apart(done, wine)


def test_the_command(tmp_path, wine) -> None:
    done = command("eject", wine.folder, "wine.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Run it: python wine.py" in done.stdout
    again = command("eject", wine.folder, "wine.py", folder=tmp_path)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert command("eject", wine.folder, "wine.py", "--force", folder=tmp_path).returncode == 0
    assert "does not end in .py" in command("eject", wine.folder, "wine.txt", folder=tmp_path).stderr
