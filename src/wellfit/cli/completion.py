"""What the shell offers when Tab is pressed: presets, run folders, fields of a recipe and their values, formats, trackers.

No torch, and nothing that is not a name: a folder is only listed. Where nothing fits, the shell goes on with its own files. It is
switched on by `wellfit --install-completion`.

    >>> assignments("optimizer.ki")
    ['optimizer.kind=', 'optimizer.kind=adamw', ...]
"""

import os
from pathlib import Path

RUNS = Path("runs")
MANY = 200  # folders that are offered at most
FORMATS = ("safetensors", "peft", "huggingface", "onnx", "torch-export")
LIVES = ("tensorboard", "wandb", "mlflow")
SORTED = ("age", "name", "state", "steps", "score", "findings")
PICTURES = ("attention", "vanishing", "depth", "approximation")

Offer = str | tuple[str, str]


def recipes(incomplete: str) -> list[Offer]:
    """Presets, recipe files, run folders."""
    from wellfit.recipe import presets

    named: list[Offer] = [(name, "preset") for name in sorted(presets()) if name.startswith(incomplete)]
    here = Path(os.path.dirname(incomplete) or ".")
    files = [str(path) for ending in ("*.yaml", "*.yml") for path in _listed(here, ending)]
    return [*named, *((file, "recipe") for file in files if file.startswith(incomplete)), *run_folders(incomplete)]


def run_folders(incomplete: str) -> list[Offer]:
    """The runs below `runs/`, or below the folder that is being typed, latest first."""
    typed = os.path.dirname(incomplete)
    roots = [Path(typed)] if typed else [RUNS, Path(".")]
    found = [str(path) for root in roots for path in _listed(root, "*") if (path / "recipe.yaml").is_file()]
    fitting = sorted({path for path in found if path.startswith(incomplete) and path.isprintable()}, reverse=True)
    return [(path, "run") for path in fitting[:MANY]]


def assignments(incomplete: str) -> list[Offer]:
    """Fields of a recipe, and once only one is left, its values; `optimizer.kind=` offers what it can be."""
    from wellfit.recipe import Recipe, describe, paths

    name, equals, value = incomplete.partition("=")
    groups = set(Recipe.model_fields) - {"name", "task"}
    fields = [path for path in paths() if path not in groups]
    if not equals:
        left = [path for path in fields if path.startswith(name)]
        if len(left) > 1 and name not in left:
            return [(f"{path}=", _short(describe(path)["what"])) for path in left]
        if not left:
            return []
        name = name if name in left else left[0]
    if name not in fields:
        return []
    choices = [word for word in describe(name)["choices"].split(", ") if word]
    if not choices:
        default = Recipe().flat().get(name)
        choices = ["null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)]
        choices = [word for word in choices if " " not in word] + [""]
    elif not equals:
        choices = ["", *choices]
    return [f"{name}={word}" for word in choices if word.startswith(value)]


def topics(incomplete: str) -> list[Offer]:
    """What `explain` takes: fields, presets, runs."""
    from wellfit.recipe import describe, paths

    fields: list[Offer] = [
        (path, _short(describe(path).get("what", ""))) for path in paths() if path.startswith(incomplete)
    ]
    return [*fields, *recipes(incomplete)] if incomplete else recipes(incomplete)


def formats(incomplete: str) -> list[Offer]:
    return [name for name in FORMATS if name.startswith(incomplete)]


def trackers(incomplete: str) -> list[Offer]:
    return [name for name in LIVES if name.startswith(incomplete)]


def sorts(incomplete: str) -> list[Offer]:
    return [name for name in SORTED if name.startswith(incomplete)]


def pictures(incomplete: str) -> list[Offer]:
    return [name for name in PICTURES if name.startswith(incomplete)]


def _listed(root: Path, pattern: str) -> list[Path]:
    try:
        return [path for path in root.glob(pattern) if not path.name.startswith(".")]
    except OSError:
        return []


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
