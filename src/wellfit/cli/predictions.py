"""What `wellfit predict`, `export`, `serve` and `suggest` print. Predictions go to the standard output, remarks to the standard error.

`--json` gives what was predicted exactly, an object a line. Without it each task has its own way to be read by people.
"""

import csv
import io
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from wellfit import untrusted
from wellfit.errors import DataError, RecipeError

CHOICES: dict[
    str, tuple[str, ...]
] = {  # a test compares them with the tasks' functions, which `--help` must not import
    "image-classification": ("top",),
    "text-generation": ("length", "temperature", "top_k", "top_p", "seed"),
    "seq-to-seq": ("beams", "length", "length_penalty"),
    "sentence-embeddings": ("among", "most"),
    "object-detection": ("threshold",),
}
CHOICES_TOLD = "\b\nWhat `--set` can choose, by the task of the run (the others have no choice):\n" + "\n".join(
    f"  {task:22} {', '.join(names)}" for task, names in CHOICES.items()
)
FILES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".conll")  # endings by which an argument is no text
SHORT = 60  # characters of a text that are shown before what is told of it
FEW_NUMBERS = 6  # of a vector that are shown


def told(
    run: Path, inputs: list[str], choices: list[str], as_json: bool, out: Path | None = None, force: bool = False
) -> None:
    """One line or block for each input; with `as_json` one JSON object a line; with `out` a file and one line about it."""
    from wellfit.cli import answers as files
    from wellfit.deliver.predict import OF_TEXTS, Predictor

    if out is not None:
        files.check(out, force)
    predictor = Predictor.of(run)
    chosen = dict(_choice(text) for text in choices)
    of_texts = predictor.task in OF_TEXTS
    if predictor.task.startswith("tabular-") or predictor.task == "forecasting":
        inputs, rows = [one for one in inputs if one != "-"], _rows_of_input() if "-" in inputs else []
    else:
        rows = []
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", UserWarning)
        given: list[Any] = [thing for one in inputs for thing in _taken(one, predictor.texts if of_texts else None)]
        given += [rows] if rows and predictor.task == "forecasting" and isinstance(rows[0], Mapping) else rows
        if not given:
            raise RecipeError(
                "There is no input: the standard input had no line. Give paths or texts, or write lines to it."
            )
        answers = predictor(given, **chosen)
    names = [_named(one) for one in given] if len(answers) == len(given) else [""] * len(answers)
    if out is not None:
        files.write(out, predictor.task, answers, names)
    for remark in [*(str(one.message) for one in remarks), *_remarks(answers)]:
        print(f"wellfit: {remark}", file=sys.stderr)
    if out is not None:
        typer.echo(f"{out}: {len(answers):,} prediction{'s' if len(answers) > 1 else ''}")
        return
    if as_json:
        for answer in answers:
            typer.echo(json.dumps(answer, ensure_ascii=False))
        return
    names = names if len(given) > 1 else [""] * len(answers)
    typer.echo("\n".join(_shown(predictor.task, answers, names)))


def written(run: Path, folder: Path, format: str) -> None:
    """Where the files are, how far they are from the run, and what is not in them."""
    from wellfit.deliver.export import export

    done = export(run, folder, format)
    for note in done.notes:
        print(f"wellfit: {note}", file=sys.stderr)
    typer.echo(f"{done.folder}: {', '.join(sorted(file.name for file in done.folder.iterdir()))}")
    if done.measured is None:
        typer.echo(f"Read again, the largest difference from the run is {done.apart:.1e}.")
        return
    sizes = [str(size) for size in done.measured.sizes]
    typer.echo(
        f"Computed by it, the largest difference from the run is {done.apart:.1e}, in batches of {', '.join(sizes[:-1])} and {sizes[-1]}: "
        f"{done.measured.on}."
    )


def served(run: Path, host: str, port: int, token: str | None, limits: Mapping[str, Any]) -> None:
    """Where the run is served, until it is told to end."""
    from wellfit.deliver.serve import Limits, serve

    serve(run, host=host, port=port, token=token, limits=Limits(**limits), told=lambda line: print(line, flush=True))


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


# ---- what is given


def _taken(one: str, texts: Callable[[Path], list[Any]] | None) -> list[Any]:
    """What an argument stands for: the lines of the standard input, the `texts` of a file, or itself."""
    if one == "-":
        from wellfit.deliver.predict import lines

        found = lines(sys.stdin.buffer.read(), "the standard input")
        full = [line for line in found if line.strip()]
        if len(full) < len(found):
            warnings.warn(f"{len(found) - len(full)} empty lines of the standard input were left out.", stacklevel=2)
        return [*full]
    if texts is None:
        return [one]
    path = Path(one).expanduser()
    looks = path.suffix.lower() in FILES or ("/" in one and not any(sign.isspace() for sign in one))
    if _is_file(path):
        found = texts(path)
        if not looks:
            warnings.warn(
                f"{one} is a file, and its {len(found)} texts were taken. For the word itself, write it to `wellfit predict RUN -`.",
                stacklevel=2,
            )
        return found
    if looks:
        raise DataError(
            f"There is no file {one}, and it looks like one. Mend the path, or, if it is a text, write it to `wellfit predict RUN -`."
        )
    return [one]


def _rows_of_input() -> list[Any]:
    """The standard input as rows of a table, CSV with a header or JSON lines; or as paths of tables, where its lines are some."""
    from wellfit.deliver.predict import lines

    found = [line for line in lines(sys.stdin.buffer.read(), "the standard input") if line.strip()]
    if all(_is_file(Path(line).expanduser()) for line in found):
        return [*found]
    if found[0].lstrip().startswith("{"):
        rows = []
        for number, line in enumerate(found, start=1):
            try:
                rows.append(untrusted.parsed(line))
            except ValueError as error:
                raise DataError(f"Line {number} of the standard input is no JSON ({error}).") from None
            if not isinstance(rows[-1], dict):
                raise DataError(f"Line {number} of the standard input is no JSON object, column -> value.")
        return rows
    separator = max(",;\t|", key=found[0].count)
    reader = csv.DictReader(io.StringIO("\n".join(found)), delimiter=separator, skipinitialspace=True, restkey="\0")
    try:
        header = [str(name).strip() for name in reader.fieldnames or ()]
        rows = [{str(name).strip(): value for name, value in row.items()} for row in reader]
    except csv.Error as error:
        raise DataError(
            f"The standard input cannot be read as CSV: {error}. Name a file, or send JSON lines."
        ) from None
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"The standard input has the column {twice[0]!r} more than once. Rename one of them.")
    if any("\0" in row for row in rows):
        raise DataError("A row of the standard input has more cells than its header has names. Name every column.")
    if not rows:
        raise DataError(
            "The standard input has one line, and no rows below it: a table begins with the names of its columns."
        )
    return rows


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is too long for a path, or has a NUL
        return False


def _choice(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"`{text}` is not an assignment; write it as `top=3`.")
    try:
        return name.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        raise RecipeError(f"The value in `{text}` is not valid YAML; quote it if it holds `:`, `[` or `{{`.") from None


# ---- what is told


def _remarks(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be known of some answers, with counts."""
    cut = [(i, answer["cut"]) for i, answer in enumerate(answers, start=1) if answer.get("cut")]
    unknown = [i for i, answer in enumerate(answers, start=1) if answer.get("unknown")]
    found = [note for answer in answers for note in answer.get("notes", [])]
    unfinished = sum(bool(answer.get("unfinished")) for answer in answers)
    if unfinished:
        found.append(
            f"{unfinished} of {len(answers)} answers have no end: they stop at `length`, which `--set length=400` makes longer, or where "
            "the model has no more places."
        )

    def counted(numbers: Sequence[int]) -> str:
        return f"{len(numbers)} of {len(answers)} texts" + (f" (number {numbers[0]} first)" if len(answers) > 1 else "")

    if cut:
        left = sum(count for _, count in cut)
        found.append(
            f"Longer than the model can see: {counted([i for i, _ in cut])}; {left} tokens were not looked at."
        )
    if unknown:
        found.append(f"Without a word that the model knows: {counted(unknown)}; what is told of that means nothing.")
    return list(dict.fromkeys(found))


def _named(thing: Any) -> str:
    """An input as it stands before what is told of it; rows have no name."""
    if isinstance(thing, Mapping) or (isinstance(thing, list) and thing and isinstance(thing[0], Mapping)):
        return ""
    text = " ".join((thing if isinstance(thing, str) else " ".join(map(str, thing))).split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def _shown(task: str, answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Lines. What takes several for an input stands below its name, with an empty line after it."""
    lines: list[str] = []
    for answer, name in zip(answers, names, strict=True):
        start = str(answer.get("input", name))
        if task in ("text-generation", "seq-to-seq"):
            block = "\n" in answer["text"]
            lines += [answer["text"], *([""] if block and len(answers) > 1 else [])]
        elif task in BLOCKS:
            found = BLOCKS[task](answer)
            several = len(answers) > 1 and (len(found) > 1 or task != "sentence-embeddings")
            if several:
                lines += [f"{start}:", *(f"  {line}" for line in found), ""]
            else:
                lines += [f"{start}: {line}" if start else line for line in found]
        else:
            lines.append((f"{start}: " if start else "") + _line(answer))
    return lines[:-1] if lines and not lines[-1] and len(lines) > 1 else lines


def _line(answer: Mapping[str, Any]) -> str:
    """`cat (98.0 %)`, the likeliest classes, tagged words, or a number."""
    if "likeliest" in answer:
        return ", ".join(f"{name} ({100 * share:.1f} %)" for name, share in answer["likeliest"].items())
    if "class" in answer:
        return f"{answer['class']} ({100 * answer['confidence']:.1f} %)"
    if "spans" in answer:
        return ", ".join(f"{one['text']} ({one['type']})" for one in answer["spans"]) or "nothing is marked"
    if "tags" in answer:
        return " ".join(f"{word}/{tag}" for word, tag in zip(answer["words"], answer["tags"], strict=True))
    return f"{answer['value']:.6g}"


def _forecast(answer: Mapping[str, Any]) -> list[str]:
    """A line `time  value` a step; a head where there are several columns, or a lowest and a highest value."""
    several = len(answer["values"]) > 1
    bounds = [part for part in ("low", "values", "high") if part in answer]
    columns = {}
    for name in answer["values"]:
        numbers = [x for part in bounds for x in answer[part][name]]
        for part in bounds:
            head = " ".join(
                ([name] if several else []) + ([part] if part != "values" else [] if several else ["value"])
            )
            columns[head] = _aligned(answer[part][name], numbers, head)
    times = [*answer["times"]]
    width = max(map(len, [*times, "time"]))
    rows = [
        "  ".join([time.ljust(width), *cells])
        for time, cells in zip(times, zip(*columns.values(), strict=True), strict=True)
    ]
    if len(columns) == 1:
        return ["  ".join([time, cell.strip()]) for time, cell in zip(times, next(iter(columns.values())), strict=True)]
    heads = (head.rjust(len(cells[0])) for head, cells in columns.items())
    return ["  ".join(["time".ljust(width), *heads]), *rows]


def _aligned(values: Sequence[float], beside: Sequence[float], head: str) -> list[str]:
    """Numbers with four digits, or as many more as it takes for their differences to have two."""
    finite = [x for x in beside if math.isfinite(x)] or [0.0]
    largest, spread = max(map(abs, finite)), max(finite) - min(finite)
    wanted = [3 - math.floor(math.log10(largest))] if largest else [0]
    wanted += [1 - math.floor(math.log10(spread))] if spread > 1e-9 * largest else []
    decimals = max(0, *wanted)
    told = [f"{x:.{decimals}f}" if decimals <= 9 and largest < 1e12 else f"{x:.4g}" for x in values]
    width = max(map(len, [*told, head]))
    return [one.rjust(width) for one in told]


def _objects(answer: Mapping[str, Any]) -> list[str]:
    """A line an object: its class, score, and box from left and top to right and bottom, in whole pixels."""
    found = [*zip(answer["classes"], answer["scores"], answer["boxes"], strict=True)]
    if not found:
        best, threshold = answer["best"], answer["threshold"]
        if best is None:
            return ["No box was found, of whatever score."]
        if best < 0.001:
            return [f"No box scored {threshold:g} or more; the best has {best:g}."]
        return [
            f"No box scored {threshold:g} or more; the best has {best:.2g}. `--set threshold={best / 2:.1g}` shows more."
        ]
    width = max(len(name) for name, _, _ in found)
    return [
        f"{name:{width}}  {score:.2f}  {' '.join(str(round(x)) for x in box[:2])} to {' '.join(str(round(x)) for x in box[2:])}"
        for name, score, box in found
    ]


def _vector_or_similar(answer: Mapping[str, Any]) -> list[str]:
    """The similar texts, one a line behind their similarity, or the beginning of the vector."""
    if "similar" in answer:
        return [f"{one['similarity']:.2f}  {' '.join(one['text'].split())}" for one in answer["similar"]]
    vector = answer["vector"]
    few = ", ".join(f"{x:.3f}" for x in vector[:FEW_NUMBERS])
    return [f"[{few}{', ...' if len(vector) > FEW_NUMBERS else ''}] ({len(vector)} numbers; `--json` has them all)"]


BLOCKS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "forecasting": _forecast,
    "object-detection": _objects,
    "sentence-embeddings": _vector_or_similar,
}
