"""Predictions in a file: JSON, JSON lines or CSV, by the file's ending.

JSON has what was predicted exactly. CSV has rows that a spreadsheet can sort: one an input, or one a step of a forecast, a box
of a picture, a word of a sentence; each begins with the input that it is of.

    $ wellfit predict runs/first new.csv --out answers.csv
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wellfit import whole
from wellfit.errors import RecipeError

ENDINGS = (".json", ".jsonl", ".csv")

Rows = list[dict[str, Any]]


def check(out: Path, force: bool) -> None:
    """Told before the work, not after. Raises RecipeError for an ending that is unknown and for a file that is there."""
    if out.suffix.lower() not in ENDINGS:
        raise RecipeError(f"{out} must end in {', '.join(ENDINGS)}, which says how predictions are written there.")
    try:
        folder, home, there = out.is_dir(), out.absolute().parent.is_dir(), out.exists()
    except OSError as error:  # a name that is too long for one
        raise RecipeError(f"{out} cannot be written: {error.strerror}. Name another file.") from None
    if folder or not home:
        raise RecipeError(f"{out} cannot be written: {'it is a folder' if folder else 'there is no such folder'}.")
    if there and not force:
        raise RecipeError(
            f"{out} is there already and was left as it is. Name another file, or overwrite it with `--force`."
        )


def write(out: Path, task: str, answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """`names` are the inputs, as far as they have some; else they are numbered from 1."""
    named = [
        {"input": str(answer.get("input") or name or number)} | {k: v for k, v in answer.items() if k != "input"}
        for number, (answer, name) in enumerate(zip(answers, names, strict=True), start=1)
    ]
    if out.suffix.lower() == ".csv":
        text = _csv([row for answer in named for row in ROWS.get(task, _one)(answer)])
    elif out.suffix.lower() == ".jsonl":
        text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in named)
    else:
        text = json.dumps(named, ensure_ascii=False, indent=1) + "\n"
    whole.write(
        out,
        text.encode("utf-8", "surrogateescape"),
        "Make room or mend the permissions there, or name another file.",
    )


def _csv(rows: Rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return made.getvalue()


def _one(answer: Mapping[str, Any]) -> Rows:
    """One row; of the likeliest classes two columns each."""
    row = {name: value for name, value in answer.items() if not isinstance(value, dict | list)}
    for place, (name, share) in enumerate(answer.get("likeliest", {}).items(), start=1):
        row |= {f"class_{place}": name, f"confidence_{place}": share}
    return [row]


def _steps(answer: Mapping[str, Any]) -> Rows:
    parts = [part for part in ("low", "values", "high") if part in answer]
    ends = {"low": "_low", "values": "", "high": "_high"}
    return [
        {"input": answer["input"], "time": time}
        | {f"{name}{ends[part]}": values[i] for part in parts for name, values in answer[part].items()}
        for i, time in enumerate(answer["times"])
    ]


def _boxes(answer: Mapping[str, Any]) -> Rows:
    """A row a box; a picture without any has one with empty cells."""
    if not answer["boxes"]:
        return [{"input": answer["input"]} | dict.fromkeys(("class", "score", "left", "top", "right", "bottom"), "")]
    return [
        {"input": answer["input"], "class": name, "score": score}
        | dict(zip(("left", "top", "right", "bottom"), box, strict=True))
        for name, score, box in zip(answer["classes"], answer["scores"], answer["boxes"], strict=True)
    ]


def _tagged(answer: Mapping[str, Any]) -> Rows:
    found = zip(answer["words"], answer["tags"], answer["confidence"], strict=True)
    return [{"input": answer["input"], "word": word, "tag": tag, "confidence": sure} for word, tag, sure in found]


def _vectors(answer: Mapping[str, Any]) -> Rows:
    if "similar" in answer:
        return [{"input": answer["input"], **one} for one in answer["similar"]]
    return [{"input": answer["input"]} | {f"v{i}": x for i, x in enumerate(answer["vector"])}]


ROWS = {
    "forecasting": _steps,
    "object-detection": _boxes,
    "token-classification": _tagged,
    "sentence-embeddings": _vectors,
}
