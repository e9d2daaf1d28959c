"""Writes `docs/defaults.md`: every setting of a recipe with its default, what it is, the reason and the source.

    python docs/defaults_make.py

All of it is declared where the settings are (`settings/`) and where open ones are filled in (`defaults.py`); `wellfit explain`
tells the same. Nothing is worded here but the headings. It is no schema: `Recipe.model_json_schema()` is.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wellfit import defaults
from wellfit.recipe import Recipe, describe
from wellfit.settings import MODELS

PAGE = Path(__file__).parent / "defaults.md"
BEGIN = """# Every default, with its reason

A setting is changed with `--set PATH=VALUE`, with `set={"PATH": value}` in the library, or in a recipe file. What is *open* is
filled in before the training from the data, the model and the machine; `wellfit explain RUN` says with what, and why. The last
part has the values that do not depend on the data.

```console
$ wellfit explain optimizer.kind
$ wellfit explain digits
```

This page is made by `docs/defaults_make.py` from what the settings themselves say.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    plain = Recipe()
    groups: dict[str, list[str]] = {}
    for path in plain.flat():
        if path != "model":
            groups.setdefault(path.rpartition(".")[0], []).append(path)
    parts = [BEGIN]
    for group, paths in groups.items():
        parts.append(f"## `{group}`\n" if group else "## The recipe\n")
        parts.append(f"{describe(group)['what']}\n" if group else "What is trained.\n")
        parts += [*_lines(paths, plain), ""]
    parts.append("## `model`\n")
    parts.append("The network. Each kind has settings of its own; open: the kind is taken from the task.\n")
    for kind in MODELS:
        recipe = plain.override({"model.kind": kind})
        paths = [path for path in recipe.flat() if path.startswith("model.") and path != "model.kind"]
        parts += [f"### `model.kind={kind}`\n", f"{_first_line(MODELS[kind])}\n", *_lines(paths, recipe), ""]
    parts.append("## What open settings become\n")
    parts.append(
        "Where neither you nor the preset has said anything. Reading the data can decide otherwise; the page of the task says where.\n"
    )
    for title, rows in _derived():
        parts += [f"### {title}\n", *(f"- `{name}`: {told}" for name, told in rows), ""]
    return "\n".join(parts).rstrip() + "\n"


def _lines(paths: list[str], recipe: Recipe) -> Iterator[str]:
    values = recipe.flat()
    for path in paths:
        about = describe(path, recipe)
        told = [about["what"]]
        if about["choices"] and path != "model.kind":
            told.append(f"One of {', '.join(f'`{word}`' for word in about['choices'].split(', '))}.")
        if about["why"]:
            told.append(f"*Why:* {about['why']}")
        if about["source"]:
            told.append(f"*Source:* {about['source']}.")
        shown = "open" if values[path] is None and "Derived" in about["why"] else _value(values[path])
        yield f"- `{path}` = {shown}. {' '.join(told)}"


def _value(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


def _derived() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    def reasons(table: Mapping[str, tuple[Any, str]]) -> list[tuple[str, str]]:
        return [(name, f"{value:g}, {why}.") for name, (value, why) in table.items()]

    usual = [(task, f"`{kind}`") for task, kind in defaults.STARTS.items() if task != "given"]
    few = f"`bag` below {defaults.FEW_TEXTS:,} texts, else `encoder`"
    yield "`model.kind`, by the task", [(task, few if task == "text-classification" else kind) for task, kind in usual]
    rates = reasons(defaults.LEARNING_RATES)
    value, why = defaults.TRANSFORMER_LEARNING_RATE
    rates.append(("adam, adamw and muon of a Transformer", f"{value:g}, {why}."))
    rates += [(f"{n} of an alexnet", told) for n, told in reasons(defaults.UNNORMALISED_LEARNING_RATES)]
    yield "`optimizer.learning_rate`, by the optimizer", rates
    decays = reasons(defaults.WEIGHT_DECAYS)
    value, why = defaults.VIT_WEIGHT_DECAY
    decays.append(("adamw of a vit", f"{value:g}, {why}."))
    yield "`optimizer.weight_decay`, by the optimizer", decays
    yield "`optimizer.beta2`, where it is not 0.999", reasons(defaults.BETA2)


if __name__ == "__main__":
    main()
