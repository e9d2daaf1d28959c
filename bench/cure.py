"""The cure on recipes with a known fault: does it help, does it reach the program without the fault, does it beat chance?

    python bench/cure.py                         # all faults and healthy recipes: the table and the bars
    python bench/cure.py digits/rate-of-one      # one of them
    python bench/cure.py --say --folder /tmp/x   # what was tried, too; runs are kept, and the same call goes on

Each fault is a change of a healthy recipe that people make; seconds a run, one thread. The cure is given the run alone. Beside
it, at equal cost (as many runs of equal length, each with as many for a proof), a random search over what a recipe holds picks the
best on the validation part.
All are scored on the test part over three seeds, by the loss that they minimise, or where that changes by accuracy or F1. Exits
with 1 if a bar is missed.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wellfit
from wellfit.environment import environment
from wellfit.recipe import Recipe
from wellfit.report.comparison import Arm, Comparison
from wellfit.trials.compare import Way, side_by_side
from wellfit.trials.treatment import Cure, cure

Settings = Mapping[str, Any]
SEEDS = 3
BARS = {
    "beats the faulty run": 0.90,
    "reaches the program without the fault": 0.80,
    "beats random search": 0.75,
    "silent on healthy": 0.98,
}


@dataclass(frozen=True)
class Patient:
    """A healthy recipe and what makes it ill."""

    healthy: Settings
    faults: Mapping[str, Settings]
    metric: str = "loss"


MLP = {
    "data.source": "digits",
    "model": {"kind": "mlp", "widths": [64, 64]},
    "training.epochs": 8,
    "training.batch_size": 32,
}
DEEP = {**MLP, "model": {"kind": "mlp", "widths": [64] * 6, "dropout": 0.0}}
NORMED = {**MLP, "model": {"kind": "mlp", "widths": [64, 64], "norm": "batch"}, "training.epochs": 12}
CONV = {
    "data.source": "digits",
    "model": {"kind": "convnet", "channels": [8, 16]},
    "training.epochs": 15,
    "training.batch_size": 32,
}
SGD = {**MLP, "optimizer.kind": "sgd"}
TABLE = {
    "data.source": "breast-cancer",
    "model": {"kind": "mlp", "widths": [32, 32]},
    "training.epochs": 40,
    "training.batch_size": 32,
}
NUMBERS = {
    "data.source": "diabetes",
    "model": {"kind": "mlp", "widths": [32, 32]},
    "training.epochs": 25,
    "training.batch_size": 32,
}
WORDS = {
    "data.source": "stdlib-kinds",
    "model": {"kind": "bag", "width": 32},
    "training.epochs": 20,
    "training.batch_size": 64,
}
LETTERS = {
    "data.source": "letters", "task": "text-generation", "model": {"kind": "decoder", "width": 32, "layers": 2, "heads": 2},
    "data.tokens": "char", "data.context": 48, "training.steps": 200, "training.batch_size": 16, "evaluation.every": 50,
    "data.test_share": 0.1, "optimizer.learning_rate": 3e-3,
}  # fmt: skip
PATCHES = {
    "data.source": "digits", "model": {"kind": "vit", "patch": 4, "width": 32, "layers": 2, "heads": 2}, "training.epochs": 12,
    "training.batch_size": 32, "optimizer.learning_rate": 1e-3,
}  # fmt: skip
SUNSPOTS = {"data.source": "sunspots", "model": {"kind": "recurrent", "units": 16}, "training.epochs": 6}

PATIENTS: dict[str, Patient] = {
    "digits": Patient(MLP, {
        "rate-of-one": {"optimizer.learning_rate": 1.0},
        "rate-of-a-millionth": {"optimizer.learning_rate": 1e-6},
        "two-units": {"model": {"kind": "mlp", "widths": [2, 2]}},
        "nearly-all-dropped": {"model": {"kind": "mlp", "widths": [64, 64], "dropout": 0.95}},
        "decays-at-once": {"schedule.kind": "step", "schedule.milestones": [0.02, 0.04], "schedule.drop": 0.03},
        "decay-of-thirty": {"optimizer.weight_decay": 30.0},
        "eps-of-one": {"optimizer.eps": 1.0},
    }),
    "digits-sgd": Patient(SGD, {
        "rate-of-fifty": {"optimizer.learning_rate": 50.0, "training.max_grad_norm": None},
        "rate-too-low": {"optimizer.learning_rate": 1e-5},
        "momentum-near-one": {"optimizer.momentum": 0.999},
    }),
    "digits-deep": Patient(DEEP, {
        "sigmoid": {"model": {"kind": "mlp", "widths": [64] * 6, "dropout": 0.0, "activation": "sigmoid"}},
        "rate-too-high": {"optimizer.learning_rate": 0.1, "training.max_grad_norm": None},
    }),
    "digits-normed": Patient(NORMED, {"batches-of-two": {"training.batch_size": 2}}),
    "digits-conv": Patient(CONV, {
        "rate-of-one": {"optimizer.learning_rate": 1.0},
        "rate-of-a-millionth": {"optimizer.learning_rate": 1e-6},
        "sigmoid": {"model": {"kind": "convnet", "channels": [8, 16], "activation": "sigmoid", "dropout": 0.9}},
    }),
    "digits-vit": Patient(PATCHES, {
        "rate-too-high": {"optimizer.learning_rate": 0.3},
        "rate-too-low": {"optimizer.learning_rate": 1e-6},
    }),
    "sorted": Patient({**MLP, "data.source": "sorted", "training.epochs": 20}, {"not-shuffled": {"data.shuffle": False}}),
    "rare": Patient({**TABLE, "data.source": "rare", "loss.class_weights": "balanced"}, {"rare-class-ignored": {"loss.class_weights": None}}, "f1"),
    "cancer": Patient(TABLE, {
        "rate-of-ten": {"optimizer.learning_rate": 10.0},
        "rate-too-low": {"optimizer.learning_rate": 1e-6},
        "far-too-wide": {
            "model": {"kind": "mlp", "widths": [512, 512], "dropout": 0.0}, "optimizer.weight_decay": 0.0, "training.epochs": 60,
            "data.train_samples": 80, "evaluation.restore_best": False, "optimizer.learning_rate": 3e-3, "training.batch_size": 16,
        },
    }),
    "diabetes": Patient(NUMBERS, {
        "rate-of-ten": {"optimizer.learning_rate": 10.0},
        "rate-too-low": {"optimizer.learning_rate": 1e-6},
        "sgd-without-clipping": {"optimizer.kind": "sgd", "optimizer.learning_rate": 2.0, "training.max_grad_norm": None},
    }),
    "words": Patient(WORDS, {
        "rate-of-ten": {"optimizer.learning_rate": 10.0},
        "rate-too-low": {"optimizer.learning_rate": 1e-6},
    }),
    "letters": Patient(LETTERS, {
        "rate-of-three": {"optimizer.learning_rate": 3.0},
        "rate-too-low": {"optimizer.learning_rate": 1e-6},
    }),
    "sunspots": Patient(SUNSPOTS, {
        "rate-too-high": {"optimizer.learning_rate": 3.0},
        "rate-too-low": {"optimizer.learning_rate": 1e-7},
    }),
}  # fmt: skip
HEALTHY: dict[str, Settings] = {
    "digits with SGD and Nesterov": {**SGD, "optimizer.nesterov": True},
    "digits with Lion": {**MLP, "optimizer.kind": "lion", "training.epochs": 40},
    "digits with tanh": {**MLP, "model": {"kind": "mlp", "widths": [64, 64], "activation": "tanh"}},
    "digits, one cycle": {**MLP, "schedule.kind": "one-cycle", "optimizer.learning_rate": 0.005},
    "digits, label smoothing": {**MLP, "loss.label_smoothing": 0.1},
    "LeNet": {"data.source": "digits", "model": {"kind": "lenet"}, "training.epochs": 5, "training.batch_size": 32},
    "wine": {"data.source": "wine"},
    "diabetes as it comes": {"data.source": "diabetes"},
    "cancer as it comes": {"data.source": "breast-cancer"},
    "sunspots as they come": {"data.source": "sunspots"},
}


# ---- the data of two patients


def made(name: str, folder: Path) -> str:
    """The data that a recipe names: its own, or a file of real rows in an order or with shares that ask for trouble."""
    from sklearn import datasets

    if name == "letters":  # 60,000 characters of a program
        import argparse as program

        path = folder / "letters.txt"
        path.write_text(Path(program.__file__).read_text(encoding="utf-8")[:60_000], encoding="utf-8")
        return str(path)
    if name not in ("sorted", "rare"):
        return name
    path = folder / f"{name}.csv"
    if not path.is_file():
        found = datasets.load_digits() if name == "sorted" else datasets.load_breast_cancer()
        x, y = found.data, found.target
        if name == "sorted":
            order = np.argsort(y, kind="stable")
        else:  # one tumour in 25 is malignant
            keep = np.random.default_rng(0).permutation(np.flatnonzero(y == 0))[:15]
            order = np.random.default_rng(1).permutation(np.concatenate([keep, np.flatnonzero(y == 1)]))
        rows = [",".join([*(f"{value:g}" for value in x[i]), f"class-{y[i]}"]) for i in order]
        head = ",".join([*(f"x{i}" for i in range(x.shape[1])), "label"])
        path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return str(path)


def recipe_of(settings: Settings, folder: Path) -> Recipe:
    chosen = {**settings, "data.source": made(str(settings["data.source"]), folder)}
    if settings["data.source"] in ("sorted", "rare"):
        chosen |= {"data.target": "label", "data.test_share": 0.2}
    return Recipe().override(chosen)


# ---- random search, at equal cost


def drawn(recipe: Recipe, random_: random.Random) -> Recipe:
    """A recipe with what one would search over drawn anew."""
    changes: dict[str, Any] = {
        "optimizer.kind": random_.choice(["sgd", "adamw"]),
        "optimizer.learning_rate": 10 ** random_.uniform(-5, 0),
        "optimizer.weight_decay": 10 ** random_.uniform(-5, -0.5),
        "optimizer.momentum": random_.choice([0.0, 0.9, 0.95]),
        "optimizer.eps": 1e-8,
        "schedule.kind": random_.choice(["constant", "cosine", "linear"]),
        "schedule.warmup_steps": random_.choice([0.0, 0.05, 0.1]),
        "training.max_grad_norm": random_.choice([None, 1.0]),
        "data.shuffle": random_.choice([True, False]),
    }
    if recipe.loss.kind == "cross-entropy" and recipe.task in ("image-classification", "tabular-classification"):
        changes["loss.class_weights"] = random_.choice([None, "balanced"])
    model = recipe.model
    if hasattr(model, "dropout") and model.kind not in ("recurrent",):
        changes["model.dropout"] = random_.choice([0.0, 0.1, 0.3, 0.5])
    if hasattr(model, "activation"):
        changes["model.activation"] = random_.choice(["relu", "gelu", "tanh", "sigmoid"])
    if model is not None and model.kind == "mlp":
        changes["model.widths"] = random_.choice([[w] * d for w in (16, 64, 256) for d in (1, 2, 4)])
        changes["model.norm"] = random_.choice(["none", "batch", "layer"])
    return recipe.override(changes)


def searched(ill: Recipe, runs: int, metric: str, folder: Path, seed: int) -> Way:
    """The best of as many draws as the cure took runs, by the validation part."""
    generator = random.Random(f"{seed}-{ill.name}-{folder.parent.name}")
    ways = [Way(f"draw-{i}", f"draw {i}", drawn(ill, generator)) for i in range(max(2, runs - 2 * SEEDS))]
    found = side_by_side(ways, [0], folder, name="search", metric=metric, split="valid", quiet=True)
    sign = 1 if found.better == "max" else -1
    scored = [arm for arm in found.arms if arm.scores]
    if not scored:
        return ways[0]
    best = max(scored, key=lambda arm: sign * arm.mean)
    return next(way for way in ways if way.name == best.name)


# ---- one patient


@dataclass(frozen=True)
class Result:
    name: str
    findings: tuple[str, ...]
    changes: str
    helps: bool
    reaches: bool
    beats: bool
    words: str


def judged(name: str, patient: Patient, fault: Settings, folder: Path, say: bool) -> Result:
    """The cure beside the faulty recipe, the healthy one and a random search."""
    place = folder / name.replace("/", "-")
    sound = recipe_of(patient.healthy, folder)
    ill = recipe_of({**patient.healthy, **fault}, folder)
    run = wellfit.open(place / "run") if (place / "run" / "recipe.yaml").is_file() else None
    if run is None or run.ended() is None:
        run = wellfit.fit_recipe(ill, folder=place / "run", quiet=True, yardsticks=False)
    found: Cure = cure(run, seeds=SEEDS, quiet=not say)
    resolved = run.recipe
    ways = [Way("ill", "ill", resolved, {0: run.folder}), Way("sound", "sound", sound)]
    if found.recipe is not None:
        ways.append(Way("cured", "cured", found.recipe))
        # As many steps in all as the cure took; a remedy may change how many a run has.
        ways.append(
            searched(resolved, round(found.steps / found.steps_of_a_run), patient.metric, place / "search", seed=0)
        )
    table = side_by_side(
        ways, range(SEEDS), place / "compared", name=name, metric=patient.metric, split="test", quiet=True
    )
    arms = {arm.name: arm for arm in table.arms}
    ill_arm, sound_arm = arms["ill"], arms["sound"]
    causes = tuple(one["id"] for one in found.findings)
    if found.recipe is None:
        return Result(
            name, causes, "", False, False, False, f"ill {_told(ill_arm)}, sound {_told(sound_arm)}: {found.reason}"
        )
    cured, search = arms["cured"], table.arms[-1]
    changes = "; ".join(f"{c.path}: {c.before} -> {c.after}" for c in found.changes)
    return Result(
        name,
        causes,
        changes,
        helps=table.verdict(cured, ill_arm).says == "better",
        reaches=_no_worse(table, cured, sound_arm),
        beats=_mean(table, cured) > _mean(table, search),
        words=f"ill {_told(ill_arm)}, cured {_told(cured)}, sound {_told(sound_arm)}, search {_told(search)}; "
        f"{found.steps / found.steps_of_a_run:.0f} runs",
    )


def _mean(table: Comparison, arm: Arm) -> float:
    """More is better; a seed that failed is worse than anything."""
    if arm.failed or not arm.scores:
        return float("-inf")
    return arm.mean if table.better == "max" else -arm.mean


def _no_worse(table: Comparison, cured: Arm, sound: Arm) -> bool:
    """Within noise: not found worse, and a mean no worse than the sound one's by more than its spread over seeds, or 2 %."""
    if cured.failed or table.verdict(cured, sound).says == "worse":
        return False
    spread = max(sound.scores.values()) - min(sound.scores.values())
    return _mean(table, cured) >= _mean(table, sound) - max(spread, 0.02 * abs(sound.mean))


def _told(arm: Arm) -> str:
    return "failed" if not arm.scores else f"{arm.mean:.4g}" + (f" ({len(arm.failed)} failed)" if arm.failed else "")


def healthy(name: str, settings: Settings, folder: Path) -> tuple[bool, str]:
    """Whether the cure leaves a healthy run alone."""
    place = folder / "healthy" / "".join(c if c.isalnum() else "-" for c in name)
    if (place / "recipe.yaml").is_file() and wellfit.open(place).ended() is not None:
        run = wellfit.open(place)
    else:
        run = wellfit.fit_recipe(recipe_of(settings, folder), folder=place, quiet=True)
    found = cure(run, quiet=True)
    return not found.tried, ", ".join(one["id"] for one in found.findings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="patient/fault, a patient, or healthy; all if none")
    parser.add_argument("--folder", type=Path, help="where runs are kept; a temporary one if not given")
    parser.add_argument("--say", action="store_true", help="tell what is tried")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return measured(folder, asked.names, asked.say)


def measured(folder: Path, names: list[str], say: bool) -> int:
    here = environment()
    print(f"{here['processor']}, {here['cores']} cores, torch {torch.__version__}, one thread, {SEEDS} seeds\n")
    cases = {
        f"{patient}/{fault}": (one, settings)
        for patient, one in PATIENTS.items()
        for fault, settings in one.faults.items()
    }
    chosen = {
        name: case for name, case in cases.items() if not names or name in names or name.partition("/")[0] in names
    }
    results = []
    for name, (patient, fault) in chosen.items():
        result = judged(name, patient, fault, folder, say)
        results.append(result)
        marks = "".join("x" if mark else "-" for mark in (result.helps, result.reaches, result.beats))
        print(
            f"{marks} {name:30} {', '.join(result.findings) or 'nothing found'}\n      {result.changes}\n      {result.words}",
            flush=True,
        )
    shares = {
        "beats the faulty run": [result.helps for result in results],
        "reaches the program without the fault": [result.reaches for result in results],
        "beats random search": [result.beats for result in results],
    }
    if not names or "healthy" in names:
        sound = {f"{name} as it is": one.healthy for name, one in PATIENTS.items()} | HEALTHY
        silent = []
        for name, settings in sound.items():
            quiet, said = healthy(name, settings, folder)
            silent.append(quiet)
            if not quiet:
                print(f"--- {name}: proposed something, after {said}", flush=True)
        shares["silent on healthy"] = silent
    missed = 0
    print()
    for name, held in shares.items():
        if not held:
            continue
        share = sum(held) / max(1, len(held))
        missed += share < BARS[name]
        print(
            f"{name:40} {sum(held)} of {len(held)} = {share:.2f}  (bar {BARS[name]:.2f}) {'ok' if share >= BARS[name] else 'MISSED'}"
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
