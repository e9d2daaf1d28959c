"""The plain PyTorch script of a run: about a hundred lines that import no wellfit and train the run's weights again, bit for bit.

The same data, split, first weights, order, augmentation, dropout, schedule, clipping, optimizer and choice of the best, in code
that one can read, teach from and change. What the script cannot do is refused by name before anything is written: a setting
passes if it cannot change weights (`IDLE`), if it is written out (`WRITTEN`, and those of the network in `networks.py`), or if it
is at its default. So a setting that is added later is refused until somebody writes it out.

    >>> wellfit.eject("runs/2026-11-28-1015-digits", "digits.py", check=True)
    Ejected(script=PosixPath('digits.py'), data=None, lines=131, apart=0.0)
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.checkpoint import Checkpoints
from wellfit.data.augment import FOR_IMAGES, FOR_TEXTS
from wellfit.data.batches import untouched_randomness
from wellfit.deliver.eject import networks
from wellfit.deliver.eject.script import VARIED, Source, arrays, script
from wellfit.errors import RunError
from wellfit.events import Started, Stepped
from wellfit.optim.gradients import LARGEST
from wellfit.recipe import MODELS, Recipe
from wellfit.run import CHECKPOINTS, Run
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings

SHADOWED = (
    "torch",
    "numpy",
    "sklearn",
    "scipy",
    "pandas",
    "wellfit",
    "tokenizers",
    "transformers",
)  # beside the standard library
IDLE = (  # what changes no weight, or says where the run takes place
    "name", "checkpoints.", "training.doctor", "training.log_every", "hardware.rank_timeout", "hardware.activation_checkpointing",
)  # fmt: skip
WRITTEN: dict[str, tuple[Any, ...] | None] = {  # path -> the values that are written out; None: all
    "task": ("image-classification", "tabular-classification", "tabular-regression", "text-classification"),
    # How data is read and split is in the arrays beside the script, where scikit-learn does not carry them.
    **dict.fromkeys(
        (
            "data.source", "data.target", "data.categorical", "data.ignore", "data.text", "data.tokens", "data.vocabulary", "data.context",
            "data.missing", "data.valid", "data.test", "data.valid_share", "data.test_share", "data.train_samples", "data.draw_seed",
            "data.split_seed", "data.image_size", "data.shuffle", "data.workers",
            "data.augment.shift", "data.augment.flip", "data.augment.delete", "data.augment.swap",
        )
    ),
    "loss.kind": ("cross-entropy", "focal", "mse", "huber", "smooth-l1"),
    **dict.fromkeys(("loss.label_smoothing", "loss.class_weights", "loss.gamma", "loss.delta")),
    "optimizer.kind": ("sgd", "adam", "adamw", "adafactor", "lion", "muon"),
    **dict.fromkeys(
        (
            "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.decay_embeddings", "optimizer.momentum", "optimizer.nesterov",
            "optimizer.beta1", "optimizer.beta2", "optimizer.eps", "optimizer.reference_batch_size", "optimizer.batch_scaling",
        )
    ),
    "schedule.kind": ("constant", "linear", "cosine", "one-cycle", "step", "warmup-stable-decay"),
    **dict.fromkeys(
        ("schedule.warmup_steps", "schedule.final_share", "schedule.milestones", "schedule.drop", "schedule.decay_share")
    ),
    **dict.fromkeys(
        (
            "training.epochs", "training.steps", "training.batch_size", "training.gradient_accumulation_steps", "training.max_grad_norm",
            "training.max_grad_value", "training.seed", "training.deterministic",
        )
    ),
    "hardware.device": ("cpu",),
    "hardware.precision": ("fp32", "bf16"),
    "hardware.channels_last": (False,),
    "evaluation.metric": ("loss", "accuracy", "f1", "mae", "rmse", "r2"),
    **dict.fromkeys(
        (
            "evaluation.every", "evaluation.goal", "evaluation.patience", "evaluation.min_improvement", "evaluation.restore_best",
            "evaluation.batch_size",
        )
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Ejected:
    """A script that was written, and the data beside it, if it needs any.

    `apart`: the largest difference of a weight between the run's and those that the script trained; None if it was not run.
    """

    script: Path
    data: Path | None
    lines: int
    apart: float | None = None

    def __str__(self) -> str:
        beside = f" with its data in {self.data.name} beside it" if self.data is not None else ""
        told = f"{self.script}: {self.lines} lines{beside}."
        if self.apart is None:
            return told
        came = (
            "the same bits as the run's"
            if self.apart == 0
            else f"not the same bits: the largest difference is {self.apart:.1e}"
        )
        return f"{told} It was run, and its weights are {came}."


def eject(
    run: Run | str | Path, path: str | Path | None = None, *, check: bool = False, force: bool = False
) -> Ejected:
    """Writes the script of a run, by default into the folder where one is, named after the recipe.

    `check`: runs it and compares its weights with the run's. `force`: overwrites a script that is there.

    Raises RunError for a run that has not ended, for a setting that cannot be written out, naming it, for data that is no
    longer what the run learnt from, and for a file that is there already. Nothing is written then.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    usual = re.sub(r"[^\w.-]+", "-", run.recipe.name) or run.folder.name
    if usual in sys.stdlib_module_names or usual in SHADOWED:  # a script of that name would be imported in its place
        usual += "-run"
    script_file = Path(path if path is not None else f"{usual}.py").expanduser()
    data_file = script_file.with_suffix(".npz")
    if script_file.suffix != ".py":
        raise RunError(f"{script_file} does not end in .py, as a script does. Name one that does.")
    if script_file.stem in sys.stdlib_module_names or script_file.stem in SHADOWED:
        raise RunError(
            f"{script_file} would be imported in place of the module {script_file.stem}, by itself and by every script beside it. "
            "Name another file."
        )
    _refuse(run)
    with untouched_randomness(), torch_settings(run.recipe):
        job = from_recipe(run.recipe)
        _refuse_job(run, job)
        environment = run.environment
        threads, packages = environment.get("threads"), environment.get("packages")
        source = Source(
            run.folder.name,
            str(packages.get("torch", torch.__version__)) if isinstance(packages, dict) else torch.__version__,
            threads if type(threads) is int and threads > 0 else torch.get_num_threads(),
            script_file.name,
        )
        text, data = script(job, source), arrays(job)
    for file in (script_file, *([data_file] if data else [])):
        if file.exists() and not force:
            raise RunError(
                f"{file} is there already and was left as it is. Name another file, or overwrite it with `--force`."
            )
    try:
        script_file.parent.mkdir(parents=True, exist_ok=True)
        if data:
            np.savez_compressed(data_file, **data)
        script_file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"{error.filename or script_file} cannot be written: {error.strerror or error}. Make room or mend the permissions there, or "
            "name another file."
        ) from None
    done = Ejected(script_file, data_file if data else None, len(text.splitlines()))
    return Ejected(done.script, done.data, done.lines, apart(done, run)) if check else done


def apart(done: Ejected, run: Run) -> float:
    """Runs the script in a folder of its own, and returns the largest difference between its weights and the run's; 0 if none has one.

    Infinite where a weight is missing or of another shape. Raises RunError if the script fails.
    """
    with tempfile.TemporaryDirectory() as place:
        for file in (done.script, done.data):
            if file is not None:
                Path(place, file.name).write_bytes(file.read_bytes())
        ended = subprocess.run(
            [sys.executable, done.script.name], cwd=place, capture_output=True, text=True, encoding="utf-8", check=False
        )
        if ended.returncode:
            last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.returncode}"]
            raise RunError(f"{done.script} was written, and running it fails: {last[0]}")
        weights = torch.load(Path(place, done.script.name).with_suffix(".pt"), weights_only=True)
    kept = _kept(run)
    if weights.keys() != kept.keys():
        return float("inf")
    return max(_difference(weights[name], kept[name]) for name in kept)


# ---- what is refused


def _refuse(run: Run) -> None:
    """What the recipe and the events alone tell."""
    recipe = run.recipe
    kind = recipe.model.kind if recipe.model is not None else "given"
    if recipe.task == "given" or kind == "given":
        raise RunError(
            f"The run {run.folder} trained a model that was passed to `wellfit.fit` in Python, and a run folder holds no code. `eject` "
            "needs a network that a recipe makes."
        )
    if kind not in networks.KINDS:
        raise RunError(f"eject cannot express `model.kind={kind}` yet; it can be {', '.join(networks.KINDS)}.")
    for path, value in recipe.flat().items():
        _refuse_setting(recipe, path, value)
    events = run.events()
    ended = run.ended()
    if ended is None or ended.reason not in ("finished", "early-stopping"):
        how = "has not ended" if ended is None else f"ended as {ended.reason}"
        raise RunError(
            f"The run {run.folder} {how}, so it has no last weights to train again. `wellfit resume {run.folder}` goes on with it."
        )
    starts = [event for event in events if isinstance(event, Started)]
    steps = [event.step for event in events if isinstance(event, Stepped)]
    if any(event.world > 1 for event in starts):
        raise RunError(
            f"The run {run.folder} was trained by several ranks, which eject cannot express yet. Train with one."
        )
    if not steps or min(steps) != 1:
        raise RunError(
            f"The run {run.folder} went on from the middle of another, which eject cannot express. Eject a run that began at step 0."
        )


def _refuse_setting(recipe: Recipe, path: str, value: Any) -> None:
    """Raises RunError for a setting that is not written out."""
    if path == "model.kind" or any(path == idle or (idle.endswith(".") and path.startswith(idle)) for idle in IDLE):
        return
    group, _, name = path.rpartition(".")
    task = str(recipe.task)
    if group == "data.augment" and name in (*FOR_IMAGES, *FOR_TEXTS) and name not in VARIED.get(task, ()):
        return  # it has no effect on such data
    assert recipe.model is not None
    known = networks.KINDS[recipe.model.kind].settings if group == "model" else WRITTEN
    key = name if group == "model" else path
    if key in known:
        allowed = known[key]
        if allowed is None or value in allowed:
            return
        raise RunError(f"eject cannot express `{path}={_told(value)}` yet; it can be {', '.join(map(_told, allowed))}.")
    standard = MODELS[recipe.model.kind]().model_dump() if group == "model" else Recipe().flat()
    if key not in standard:
        raise RunError(f"eject cannot express `{path}` yet; leave it out.")
    if value != standard[key]:
        raise RunError(f"eject cannot express `{path}={_told(value)}` yet; set `{path}={_told(standard[key])}`.")


def _refuse_job(run: Run, job: Job) -> None:
    """What shows once the data is read and the network is made."""
    recipe = job.recipe
    then = run.environment.get("data_fingerprint")
    if then and then != job.fingerprint:
        raise RunError(
            f"The data is not what the run {run.folder} learnt from, so no script can train its weights. Bring back the data."
        )
    ended = run.ended()
    if job.valid is not None and recipe.evaluation.restore_best and (ended is None or ended.best_step is None):
        raise RunError(
            f"No evaluation of the run {run.folder} gave a number, so it has no best weights to train again."
        )
    if recipe.hardware.precision != "fp32" and recipe.task == "text-classification":
        raise RunError("eject cannot express `hardware.precision=bf16` for texts yet; set `hardware.precision=fp32`.")
    if sum(p.numel() for p in job.model.parameters()) > LARGEST:
        raise RunError(
            f"eject cannot express a network of more than {LARGEST:,} weights yet, whose gradients are measured one by one; choose a smaller one."
        )


# ---- weights


def _kept(run: Run) -> dict[str, Any]:
    """The weights that the run ended with: the best, or the last where the recipe says so."""
    if run.recipe.evaluation.restore_best:
        return run.best_weights()
    found = Checkpoints(run.folder / CHECKPOINTS).latest()
    if found is None:
        raise RunError(f"The run {run.folder} has no checkpoint that can be read.")
    return found.weights


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    return 0.0 if torch.equal(a, b) else float((a.double() - b.double()).abs().max())


def _told(value: Any) -> str:
    """A value as it is written behind `--set`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value) if not isinstance(value, Mapping) else "{}"
