"""What `wellfit predict` and `wellfit suggest` print. Predictions go to the standard output, remarks to the standard error."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import typer
import yaml

from wellfit.errors import RecipeError


def told(run: Path, inputs: list[str], choices: list[str], as_json: bool) -> None:
    """One line for each input; with `as_json` one JSON object a line."""
    from wellfit.deliver.predict import Predictor

    predictor = Predictor.of(run)
    given = [line for one in inputs for line in (_lines() if one == "-" else [one])]
    if not given:
        raise RecipeError(
            "There is no input: the standard input had no line. Give paths or texts, or write lines to it."
        )
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        answers = predictor(given, **dict(_choice(text) for text in choices))
    for remark in remarks:
        print(f"wellfit: {remark.message}", file=sys.stderr)
    named = len(answers) == len(given)
    for i, answer in enumerate(answers):
        if as_json:
            typer.echo(json.dumps(answer, ensure_ascii=False))
        else:
            typer.echo(_line(answer, given[i] if named and len(given) > 1 else ""))


def suggested(data: str, overrides: list[str], out: Path | None, force: bool) -> None:
    """The suggestion in words, and its recipe in a file."""
    from wellfit.advise import suggest

    if out is not None and out.exists() and not force:  # told before the work, not after
        raise RecipeError(
            f"{out} is there already and was left as it is. Name another file, or overwrite it with `--force`."
        )
    found = suggest(data, set=overrides)
    typer.echo(str(found))
    if out is not None:
        typer.echo(f"\nTrain it: wellfit train {found.save(out, force)}")
    else:
        typer.echo("\n`--out FILE` writes it as a recipe, which `wellfit train FILE` trains.")


def _lines() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin]


def _choice(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"`{text}` is not an assignment; write it as `top=3`.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"The value in `{text}` is not valid YAML; quote it if it holds `:`, `[` or `{{`.") from None


def _line(answer: dict[str, Any], given: str) -> str:
    """`a.png: cat (98 %)`, a number alone, or whatever there is by name."""
    rest = dict(answer)
    of = rest.pop("input", given)
    start = f"{of}: " if of else ""
    if set(rest) == {"class", "confidence"}:
        return f"{start}{rest['class']} ({100 * rest['confidence']:.1f} %)"
    if len(rest) == 1:
        value = next(iter(rest.values()))
        return f"{start}{value:.6g}" if isinstance(value, float) else f"{start}{value}"
    return start + ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in rest.items()
    )
