"""`wellfit plan`, `find-batch` and `hardware`: the words around `memory.py`, `trials/find_batch.py` and `plan/hardware.py`."""

import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.rates import NO_ANSWER
from wellfit.cli.show import chosen, wrapped
from wellfit.errors import RecipeError
from wellfit.recipe import presets

# What the options are called in a recipe.
FIELDS = {
    "batch": "training.batch_size",
    "precision": "hardware.precision",
    "optimizer": "optimizer.kind",
    "checkpointing": "hardware.activation_checkpointing",
    "micro_batches": "training.gradient_accumulation_steps",
}
OPTIONS = {"micro_batches": "accumulation"}


def planned(
    what: str, overrides: list[str], asked: dict[str, Any], devices: int, gpu: str | None, json: Path | None
) -> None:
    """Plans, prints the table and what follows from it, and writes the numbers."""
    from wellfit import memory
    from wellfit.plan.hardware import gpu_called
    from wellfit.run import Run

    writable(json)
    if gpu is not None:
        gpu_called(gpu)  # an unknown one is told before anything is traced
    named = {name: value for name, value in asked.items() if value is not None}
    if is_config(what):
        if overrides:
            raise RecipeError(
                f"`--set {overrides[0]}` is for recipes, and {what} is a configuration; use options such as --batch and --precision."
            )
        plan = memory.memory_plan_config(what, gpu=gpu, devices=devices, **named)
    else:
        strange = [OPTIONS.get(name, name) for name in named if name not in FIELDS]
        if strange:
            raise RecipeError(
                f"`--{strange[0]}` is for a configuration of Hugging Face, and {what} is a recipe; say it with `--set`, such as "
                "`--set finetune.strategy=lora` or `--set data.context=512`."
            )
        recipe = chosen(what, overrides).override({FIELDS[name]: value for name, value in named.items()}, by="user")
        is_run = (Path(what) / "events.jsonl").is_file()
        plan = memory.memory_plan_recipe(recipe, devices=devices, gpu=gpu, run=Run.open(what) if is_run else None)
    typer.echo(str(plan).partition("\n\n" + plan.says[0])[0] + "\n")
    for sentence in plan.says:
        typer.echo(wrapped(sentence))
    keep(json, plan.as_dict())


def is_config(what: str) -> bool:
    """Whether it is a configuration of Hugging Face rather than a recipe or data."""
    path = Path(what)
    if what in presets() or (path / "recipe.yaml").is_file() or path.suffix in (".yaml", ".yml"):
        return False
    looks_like_a_name = what.count("/") == 1 and not path.suffix and not what.startswith((".", "/", "hf:"))
    return path.suffix == ".json" or (path / "config.json").is_file() or (looks_like_a_name and not path.exists())


def batched(
    what: str,
    overrides: list[str],
    called: str,
    json: Path | None,
    *,
    memory: str | None,
    gpu: str | None,
    ranks: int,
) -> None:
    """Finds the micro-batch, prints what was tried and what follows, and writes the numbers."""
    from wellfit.trials.find_batch import find_batch

    writable(json)
    found = find_batch(chosen(what, overrides), memory=memory, gpu=gpu, ranks=ranks)
    typer.echo(str(found).partition("\n\n" + found.says[0])[0] + "\n")
    for sentence in found.says:
        typer.echo(wrapped(sentence))
    keep(json, found.as_dict())
    if found.largest is None:
        sys.exit(NO_ANSWER)
    if found.change:
        sets = " ".join(f"--set {path}={value}" for path, value in found.change.items())
        typer.echo(f"\nTrain with it: wellfit train {called} {sets}")


def here() -> None:
    """The devices of this machine."""
    from wellfit.plan.hardware import hardware
    from wellfit.report.memory import size

    for device in hardware():
        free = f", {size(device.free_bytes)} of it free" if device.free_bytes is not None else ""
        typer.echo(textwrap.fill(f"{device.kind}: {device.name}, {size(device.memory_bytes)}{free}", 120))
