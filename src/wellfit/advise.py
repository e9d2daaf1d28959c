"""`suggest`: looks at data, picks task, model and settings, says why with the numbers that decided, and writes the recipe.

It reads as a training would (`data/source.py`), so what it refuses a training would refuse with the same words. What it picks
is the cheat sheet that textbooks agree on: convolutions for pictures, a Transformer for texts, an MLP beside a classical
model for tables, recurrent cells for short series and patches for long ones. Every choice is a field of the recipe with its
reason; what is set by the caller is never changed, and what the defaults derive anyway is left to them.

    >>> suggestion = suggest("reviews.csv")
    >>> print(suggestion)
    >>> suggestion.save("reviews.yaml")
"""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from wellfit.data import chats, clock, images, pairs, source, tables, texts
from wellfit.data.arrays import Arrays, Loaded
from wellfit.data.paths import VALID_FOLDERS, expanded
from wellfit.defaults import FEW_TEXTS, STARTS, Facts, resolve
from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.recipe import Recipe

TARGETS = (
    "target",
    "label",
    "labels",
    "class",
    "y",
    "outcome",
    "category",
    "response",
)  # what a column to predict is called
IDS = ("id", "index", "uuid", "key", "name", "row", "no", "nr")
RARE = 20  # samples of a class, below which little is learnt of it and its score says little
UNEVEN, VERY_UNEVEN = 3, 10  # commonest class over rarest
WORDS, LETTERS = 4, 20  # a column whose entries have so many on average is text,
LONG_TEXT = 12  # and with so many words it is what a table of several columns is about
LONGEST_CONTEXT = 512
FEW_HELD = 400  # validation samples, below which a share of hits is not known to two points
LOOKED_AT = 200  # pictures whose size is read


@dataclass
class Suggestion:
    """What was seen, what is chosen and why, what to watch for, and what else could be meant."""

    source: str
    recipe: Recipe  # the choices alone; the defaults derive the rest when it is run
    task: str = ""
    facts: list[str] = field(default_factory=list)
    choices: dict[str, tuple[Any, str]] = field(default_factory=dict)  # dotted path -> value, why
    watch: list[str] = field(default_factory=list)
    instead: list[str] = field(default_factory=list)

    def choose(self, path: str, value: Any, why: str) -> None:
        """Sets a field, unless the caller has."""
        chosen = self.recipe.origins
        if any(name in chosen and chosen[name].by == "user" for name in (path, path.rpartition(".")[0])):
            return
        if path.startswith("model.") and path != "model.kind" and "model.kind" not in self.choices:
            return  # the caller's own kind of model keeps its defaults
        self.choices[path] = (value, why)
        self.recipe = self.recipe.override({path: value}, by="preset", why=why)

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.task}.", *self._listed("What was seen", self.facts)]
        chosen = [f"{path} = {_written(value)}: {why}" for path, (value, why) in self.choices.items()]
        parts += self._listed("What is chosen, and why", chosen)
        parts += self._listed("What to watch for", self.watch or ["Nothing stood out."])
        parts += self._listed("What would choose otherwise", self.instead)
        return "\n".join(parts)

    @staticmethod
    def _listed(title: str, lines: Iterable[str]) -> list[str]:
        wrapped = [textwrap.fill(line, 110, initial_indent="  - ", subsequent_indent="    ") for line in lines]
        return ["", f"{title}:", *wrapped] if wrapped else []

    def yaml(self) -> str:
        """The recipe as a person would write it, each choice with its reason."""
        lines = [f"# Suggested for {self.source} by `wellfit suggest`; every field can be changed.", "# What was seen:"]
        lines += textwrap.wrap(" ".join(self.facts), 110, initial_indent="#   ", subsequent_indent="#   ")
        tree: dict[str, Any] = {}
        for path, chosen in self._set().items():
            *parents, last = path.split(".")
            group = tree
            for name in parents:
                group = group.setdefault(name, {})
            group[last] = chosen
        return "\n".join([*lines, *_tree(tree)]) + "\n"

    def _set(self) -> dict[str, tuple[Any, str]]:
        """All fields that are no default, the caller's with no reason; a model's kind before its sizes."""
        values = self.recipe.flat()
        given = {p: (values[p], "") for p, o in self.recipe.origins.items() if o.by == "user" and p in values}
        everything = {**given, **self.choices}
        order = ["name", "task", *(name for name in Recipe.model_fields if name not in ("name", "task"))]
        return dict(
            sorted(everything.items(), key=lambda one: (order.index(one[0].split(".")[0]), one[0] != "data.source", one[0] != "model.kind"))
        )  # fmt: skip

    def save(self, path: str | Path, force: bool = False) -> Path:
        """Writes the recipe. Raises RecipeError if something is there already and `force` is not given."""
        path = Path(path)
        if path.exists() and (path.is_dir() or not force):
            raise RecipeError(
                f"{path} is there already and was left as it is. Name another file, or overwrite it with `--force` (force=True)."
            )
        try:
            path.write_text(self.yaml(), encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path} cannot be written: {error.strerror}. Name another place.") from None
        return path


def suggest(data: str | Path, *, set: Mapping[str, Any] | Iterable[str] | None = None) -> Suggestion:
    """What to train on this data, and how: an embedded set by name, or a path.

    `set` holds dotted overrides that are kept as they are (`data.target` above all). Raises DataError or RecipeError, with
    the words of a training, for data that cannot be read.
    """
    name = str(data)
    path = expanded(name, "data.source")
    known = name in source.names()
    recipe = Recipe().override({"data.source": name if known or not path.exists() else str(path.resolve())})
    recipe = recipe.override(set) if set else recipe
    found = Suggestion(name, recipe)
    if not known:
        _look(found, _inside(found, path))
    loaded = source.load(_to_look_at(found.recipe), found.recipe.task)
    found.task = loaded.task
    if "task" not in found.choices:
        found.choose("task", loaded.task, "what the data holds")
    found.facts.append(_sizes(loaded))
    ADVICE.get(loaded.task, _any)(found, loaded)
    found.facts += [note for note in loaded.notes if "`data.context`" not in note]
    train = loaded.train
    shape = tuple(train.inputs.shape[1:]) if isinstance(train, Arrays) else ()
    held = len(loaded.valid) if loaded.valid is not None else 0
    resolve(found.recipe, Facts(loaded.task, len(train), held, shape=shape, derived=loaded.derived))  # it must be whole
    return found


def _to_look_at(recipe: Recipe) -> Any:
    """The data's settings, with texts left as long as they are: how long they are decides where to cut."""
    data = recipe.data
    open_ended = recipe.task == "text-classification" and data.context is None
    return data.model_copy(update={"context": 1_000_000}) if open_ended else data


# ---- what lies at a path, before it is read


def _inside(found: Suggestion, path: Path) -> Path:
    """The table in a folder that holds nothing else to learn from, with those that validate and test beside it."""
    data = found.recipe.data
    if not path.is_dir() or any(file.is_dir() for file in path.iterdir() if file.name[0] != "."):
        return path
    there = [file for file in sorted(path.iterdir()) if _is_of_rows(file)]
    counts = Counter(map(_part, there))
    held = {_part(file) if counts[_part(file)] == 1 else _stem(file): file for file in there}
    inside = held.get("train") or (next(iter(held.values())) if len(held) == 1 else None)
    if inside is None or any(reader.holds(path, data) for reader in source.READERS.values()):
        return path
    found.recipe = found.recipe.override({"data.source": str(inside.resolve())})
    found.facts.append(
        f"The folder holds {', '.join(file.name for file in held.values())}; {inside.name} is learnt from."
    )
    for part, names in (("valid", VALID_FOLDERS), ("test", ("test",))):
        file = next((held[name] for name in names if name in held), None)
        if file is not None and "train" in held:
            found.choose(f"data.{part}", str(file.resolve()), "it lies beside, and is called so")
    return inside


def _stem(file: Path) -> str:
    return file.name.split(".")[0].lower()


def _part(file: Path) -> str:
    """What part a table is by the last word of its name, dev of stsb-en-dev.csv; its name where that is none."""
    word = re.split(r"[-_ ]", _stem(file))[-1]
    return word if word in ("train", *VALID_FOLDERS, "test") else _stem(file)


def _is_of_rows(file: Path) -> bool:
    return file.name.lower().endswith((".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz"))


def _look(found: Suggestion, path: Path) -> None:
    """Settings without which the data could not be read, or only as something else."""
    data = found.recipe.data
    if found.recipe.task is not None:
        return
    readers = source.READERS.items() if path.exists() else ()
    kind = next((name for name, reader in readers if reader.holds(path, data)), None)
    of_rows = data.text is None and path.name.lower().endswith((".jsonl", ".jsonl.gz"))
    if kind is None or (of_rows and kind != "text-generation"):
        if path.is_file() and path.name.lower().endswith((*texts.ENDINGS, *tables.ENDINGS)):
            _look_at_table(found, path)
        else:
            _look_at_folder(found, path)
    if kind is not None and found.recipe.task is None:
        found.choose("task", kind, "nothing else is stored in this way")


def _look_at_folder(found: Suggestion, path: Path) -> None:
    stem = path / "train" if path.is_dir() else path
    sides = pairs.endings(stem)
    if len(sides) == 2:
        found.choose(
            "task", "seq-to-seq", f"two files of as many lines, {stem.name}.{sides[0]} and {stem.name}.{sides[1]}"
        )
        found.choose("data.text", sides[0], "the first by name")
        found.choose("data.target", sides[1], "the other")
        found.instead.append(f"The other way round: `data.text={sides[1]}` and `data.target={sides[0]}`.")
    if len(sides) > 1 or not path.is_dir():
        return
    base = path / "train" if (path / "train").is_dir() else path
    files = [
        file for folder in images.class_folders(base) for file in sorted(folder.iterdir()) if images.is_picture(file)
    ]
    if not files:
        return
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "vision", "Looking at pictures") from None
    sizes = []
    for file in files[:: max(1, len(files) // LOOKED_AT)]:
        try:
            with Image.open(file) as picture:
                sizes.append(picture.size)
        except OSError:
            continue  # named when it is read
    if not sizes:
        return
    shorter = sorted(min(size) for size in sizes)
    middle = shorter[len(shorter) // 2]
    found.facts.append(
        f"{len(files)} pictures; of {len(sizes)} looked at, the shorter side has {shorter[0]} to {shorter[-1]} pixels, {middle} in "
        "the middle."
    )
    size = next(
        (size for size in (160, 128, 96, 64, 48, 32) if size <= middle and len(files) * size * size * 3 < 2**30), None
    )
    size = min(size or 32, middle)
    found.choose(
        "data.image_size", max(4, size),
        f"pictures have {middle} pixels; larger ones than {size} cost time and memory with the square of it",
    )  # fmt: skip


def _look_at_table(found: Suggestion, path: Path) -> None:
    """Texts, a series, or a table of columns: by what the columns hold."""
    data = found.recipe.data
    try:
        lines, _ = texts.table(path, (data.text, data.target))
    except DataError:  # it may still be a table of another kind, or its reader says better what is wrong
        if path.suffix.lower() not in tables.ENDINGS:
            raise
        lines = None
    if lines is not None and _is_about_text(found, lines):
        return
    if path.suffix.lower() not in tables.ENDINGS:
        return
    frame = tables.read(path, [])
    names = [name for name in frame.columns if name not in data.ignore]
    dates = [name for name in names if name != data.target and _are_dates(frame[name])]
    if len(dates) == 1 and "forecasting" in source.READERS and _is_series(found, frame, names, dates[0], path):
        return
    _is_table(found, frame, names, dates)


def _is_series(found: Suggestion, frame: Any, names: list[str], time: str, path: Path) -> bool:
    others = [name for name in names if name != time]
    if not others or any(frame[name].dtype.kind not in "iuf" for name in others):
        return False
    try:
        times = clock.parsed(frame[time], path, [])
    except DataError:
        if found.recipe.data.target is not None:  # a table, of which dates are left out whatever they hold
            return False
        raise
    if times is None:
        return False
    order = np.asarray(times)
    rising = float((order[1:] > order[:-1]).mean()) if len(order) > 1 else 0.0
    if rising < 0.95:
        found.facts.append(
            f"The column {time!r} holds dates, but they do not run on from row to row ({rising:.0%} do), so this is no series."
        )
        return False
    found.facts.append(
        f"The column {time!r} holds dates that run on from row to row ({rising:.0%} do), and the others hold numbers: a series."
    )
    found.choose("task", "forecasting", f"numbers in the order of time; {time!r} says when")
    found.choose("data.time", time, "the only column of dates")
    if frame[others].isna().to_numpy().any():
        gaps = int(frame[others].isna().sum().sum())
        found.choose("data.missing", "mean", f"{gaps} cells are empty, and a series must have no gap")
        found.watch.append(f"{gaps} empty cells are filled by the line between their neighbours.")
    found.instead.append(
        f"To predict one column from the others of the same row, set `task=tabular-regression`, `data.target=NAME` and `data.ignore=[{time}]`."
    )
    return True


def _is_about_text(found: Suggestion, frame: Any) -> bool:
    rows, data = len(frame), found.recipe.data
    names = [str(name) for name in frame.columns if name not in data.ignore]
    prose = [name for name in names if name != data.target and _is_prose(frame[name])]
    labels = [name for name in names if name not in prose and 2 <= frame[name].nunique() <= max(20, rows // 5)]
    target = data.target or _named_like_target(labels) or (labels[-1] if labels else None)
    if len(prose) > 1 and _is_about_pairs(found, frame, names, prose, target):
        return True
    if not prose or target is None:
        return False
    text = max(prose, key=lambda name: frame[name].astype(str).str.len().mean())
    words = float(frame[text].astype(str).str.split().str.len().mean())
    if words < LONG_TEXT and len(names) > 4:
        found.instead.append(
            f"The column {text!r} is text, {words:.0f} words on average. To learn from it alone, set `data.text={text}` and `data.target`."
        )
        return False
    if len(prose) > 1:
        found.instead.append(
            f"{', '.join(map(repr, prose))} are all texts, of which only {text!r} is read. If one is to be made into another, or told "
            "whether they mean the same, set `task`."
        )
    found.facts.append(f"The column {text!r} holds text, {words:.0f} words on average.")
    found.choose("task", "text-classification", f"the column {text!r} is text, and {target!r} says what it is")
    found.choose("data.text", text, f"its entries are text, {words:.0f} words on average")
    found.choose(
        "data.target", target, f"{frame[target].astype(str).nunique()} different entries, so these are classes"
    )
    left = [name for name in names if name not in (text, target)]
    if left:
        found.watch.append(f"Not used, because only the text is read: {', '.join(left[:12])}.")
        found.instead.append(
            "To learn from the other columns, set `task=tabular-classification` and leave the text out with `data.ignore`."
        )
    return True


def _is_about_pairs(found: Suggestion, frame: Any, names: list[str], prose: list[str], target: str | None) -> bool:
    """Two texts that belong together: with a score of how alike they are, or one to be made into the other."""
    longest = sorted(prose, key=lambda name: -frame[name].astype(str).str.len().mean())[:2]
    one, other = (name for name in prose if name in longest)
    rest = [name for name in names if name not in prose]
    scores = [name for name in rest if all(_is_number(str(cell)) for cell in frame[name])]
    if len(names) == 3 and len(scores) == 1:
        found.choose(
            "task", "sentence-embeddings", f"two texts, and in {scores[0]!r} a number that says how alike they are"
        )
        for field_, name, why in (
            ("text", one, "the first text"),
            ("other", other, "the second"),
            ("target", scores[0], "the score"),
        ):
            found.choose(f"data.{field_}", name, why)
        return True
    if target is None:
        found.choose(
            "task", "seq-to-seq", f"{one!r} and {other!r} are texts, and no column says what class they are of"
        )
        found.choose("data.text", one, "of the two longest texts, the first in the file")
        found.choose("data.target", other, "the second")
        left = [name for name in names if name not in (one, other)]
        if left:
            found.watch.append(f"Not used: {', '.join(left[:12])}.")
        found.instead.append(f"To write {one!r} from {other!r}, exchange `data.text` and `data.target`.")
        found.instead.append(
            f"To find which texts belong together rather than to write them: `task=sentence-embeddings`, `data.text={one}`, "
            f"`data.other={other}`."
        )
        return True
    return False


def _is_table(found: Suggestion, frame: Any, names: list[str], dates: list[str]) -> None:
    data, rows = found.recipe.data, len(frame)
    kept = [name for name in names if name not in dates]
    target = data.target or _named_like_target(kept) or (kept[-1] if kept else None)
    if target is None:
        return
    if data.target is None:
        why = "it is called so" if target.lower() in TARGETS else "it is the last column, as is usual"
        found.choose("data.target", target, f"{why}; no file says what is to be predicted")
        others = [name for name in kept if name != target]
        found.watch.append(
            f"That {target!r} is to be predicted is a guess. If it is another column, say `--set data.target=NAME`."
        )
        found.instead.append(
            f"Any other column as the target: {', '.join(others[:12])}{' and more' if len(others) > 12 else ''}."
        )
    leave = dict.fromkeys(dates, "dates are no numbers")
    for name in kept:
        column = frame[name]
        if name == target or name in data.categorical:
            continue
        distinct = int(column.nunique())
        if distinct == 0:
            leave[name] = "empty"
        elif distinct == 1 and not column.isna().any():
            leave[name] = "always the same"
        elif _is_words(column) and distinct > min(tables.MOST_CATEGORIES, rows // 2):
            leave[name] = f"{distinct} different texts, as a name has"
        elif column.dtype.kind in "iu" and distinct == rows and _is_called_id(name):
            leave[name] = "a different number in each row, as an id has"
    if leave:
        found.choose("data.ignore", [*data.ignore, *leave], "; ".join(f"{name}: {why}" for name, why in leave.items()))
    inputs = frame[[name for name in kept if name not in leave and name != target]]
    gaps = inputs.isna().sum()
    if int(gaps.sum()):
        worst = str(gaps.idxmax())
        found.choose(
            "data.missing", "mean", f"{int(gaps.sum())} cells are empty, {int(gaps.max())} of them in {worst!r}"
        )
        found.watch.append(
            f"{int(gaps.sum())} of {inputs.size} cells are empty and are filled with the column's training mean. Where a gap means something, "
            "make a column of it."
        )
    if int(frame.duplicated().sum()):
        found.watch.append(
            f"{int(frame.duplicated().sum())} of {rows} rows are exact copies of others; the same row may lie in two parts."
        )
    _say_leaks(found, inputs, frame[target])


def _say_leaks(found: Suggestion, inputs: Any, target: Any) -> None:
    """Columns that follow the target exactly: they were probably written down after it."""
    codes = (
        target.astype("category").cat.codes.to_numpy() if target.dtype.kind not in "biuf" else target.to_numpy(float)
    )
    for name in inputs.columns:
        column = inputs[name]
        if column.dtype.kind not in "biuf" or column.isna().any() or not np.isfinite(codes).all():
            continue
        numbers = column.to_numpy(float)
        if numbers.std() and codes.std() and abs(np.corrcoef(numbers, codes)[0, 1]) > 0.999:
            found.watch.append(
                f"The column {name!r} goes with the target almost exactly. If it is only known afterwards, put it in `data.ignore`."
            )


def _named_like_target(names: Iterable[str]) -> str | None:
    return next((name for name in names if name.strip().lower() in TARGETS), None)


def _is_called_id(name: str) -> bool:
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return any(word in IDS for word in words) or name.lower().startswith("unnamed") or name.lower().endswith("id")


def _is_words(column: Any) -> bool:
    if column.dtype.kind in "biufmM":
        return False
    filled = [str(value) for value in column.dropna().tolist()]
    return bool(filled) and sum(not _is_number(value) for value in filled) > len(filled) / 2


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_prose(column: Any) -> bool:
    if not _is_words(column):
        return False
    filled = column.dropna().astype(str)
    return bool(filled.str.split().str.len().mean() >= WORDS and filled.str.len().mean() >= LETTERS)


def _are_dates(column: Any) -> bool:
    if column.dtype.kind in "mM":
        return True
    if column.dtype.kind in "biuf":
        return False
    filled = [str(value).strip() for value in column.dropna().tolist()]
    return 2 * sum(tables.DATE.fullmatch(value) is not None for value in filled) > len(filled)


# ---- advice, by task


def _images(found: Suggestion, loaded: Loaded) -> None:
    train = loaded.train
    N, C, H, W = train.inputs.shape
    side = min(H, W)
    found.facts.append(f"Pictures of {H} x {W} {'grey' if C == 1 else 'colour' if C == 3 else f'{C}-channel'} pixels.")
    _classes(found, loaded, train.targets)
    _copies(found, loaded, lambda part: (row.numpy().tobytes() for row in part.inputs))
    if side < 24 or N < 2_000:
        few = (
            f"{N:,} pictures are few"
            if N < 2_000
            else f"{side} pixels a side leave nothing to look at after more layers"
        )
        channels = [32, 64] if side < 24 else [16, 32, 64] if side < 48 else [16, 32, 64, 128]
        found.choose("model.kind", "convnet", f"convolutions, for what is the same wherever it lies; {few}")
        found.choose("model.channels", channels, f"each block but the first halves the {side} pixels")
    else:
        found.choose(
            "model.kind", "resnet", f"{N:,} pictures of {side} pixels a side carry a deeper network than a plain one"
        )
    if C == 3:
        found.choose(
            "data.augment.flip", True, "colour pictures are mostly photographs, which a mirror leaves what they are"
        )
        found.watch.append(
            "If a mirrored picture is something else (text, left and right hands), set `data.augment.flip=false`."
        )
    if side >= 96:
        found.choose("data.augment.crop", 0.5, "what is shown must not depend on how near it was taken")
        found.choose("data.augment.colour", 0.2, "light differs from picture to picture")
    else:
        found.choose(
            "data.augment.shift", max(1, side // (8 if C == 3 else 14)), "a picture moved a little shows the same"
        )
    if len(loaded.classes) > 2:
        found.choose("loss.label_smoothing", 0.1, "gains accuracy with several classes (Müller et al. 2019)")
    if C in (1, 3) and side >= 64:
        found.instead.append(
            "With access to the net, trained weights help most where pictures are few: "
            "`model={kind: named, name: torchvision/efficientnet_b0, pretrained: true}`."
        )
    if N >= 50_000:
        found.instead.append("A Vision Transformer keeps gaining from more pictures than these: `model.kind=vit`.")


def _tabular(found: Suggestion, loaded: Loaded) -> None:
    N, F = loaded.train.inputs.shape
    found.facts.append(f"{F} inputs a row, after categories were spread out.")
    if loaded.classes:
        _classes(found, loaded, loaded.train.targets)
    else:
        y = loaded.train.targets.double()
        found.facts.append(
            f"The target goes from {float(y.min()):.4g} to {float(y.max()):.4g}, {float(y.mean()):.4g} on average."
        )
        spread = float((y - y.mean()).abs().max() / y.std(correction=0).clamp(min=1e-12))
        if spread > 10:
            found.choose(
                "loss.kind",
                "huber",
                f"the farthest target is {spread:.0f} standard deviations from the mean, and squares would follow it",
            )
    width = 64 if N < 1_000 else 128 if N < 20_000 else 256
    found.choose("model.kind", "mlp", "columns have no order that a convolution or a Transformer could make use of")
    found.choose("model.widths", [width, width], f"{N:,} rows")
    if N < 1_000:
        found.choose("model.dropout", 0.2, f"{N:,} rows are soon known by heart")
        found.choose("optimizer.weight_decay", 0.1, f"{N:,} rows are soon known by heart")
    if F > N / 5:
        found.watch.append(
            f"{F} inputs for {N} rows: much will be found that is only chance. Leave out what cannot matter."
        )
    found.watch.append(
        "Gradient boosting is hard to beat on tables; with a test set (`data.test_share`) it is scored beside the network."
    )
    if loaded.test is None:
        found.choose(
            "data.test_share",
            0.2,
            "so that the network is scored beside the classical models, on rows that decided nothing",
        )


def _labelled_texts(found: Suggestion, loaded: Loaded) -> None:
    train = loaded.train
    lengths = train.lengths().double()
    middle, most, longest = (int(lengths.quantile(q)) for q in (0.5, 0.95, 1.0))
    found.facts.append(f"Texts have {middle} tokens in the middle, 95 % at most {most}, the longest {longest}.")
    _classes(found, loaded, train.targets)
    _copies(found, loaded, lambda part: (part.sequence(i).numpy().tobytes() for i in range(len(part))))
    context = min(LONGEST_CONTEXT, max(16, -(-most // 16) * 16))
    found.choose("data.context", context, f"holds {int((lengths <= context).sum()):,} of {len(train):,} texts whole")
    N = len(train)
    if loaded.test is None:
        found.choose("data.test_share", 0.1, "so that TF-IDF with logistic regression is scored beside the network")
    if N < FEW_TEXTS:
        found.choose("model.kind", "bag", f"of {N:,} texts little more than words can be learnt")
        found.instead.append(
            "Where the order of words decides: `model.kind=encoder`, a Transformer, which wants more texts or a small width and much dropout."
        )
    else:
        found.choose("model.kind", "encoder", "a Transformer encoder sees every word beside every other")
        found.choose("model.dropout", 0.2, "texts are learnt by heart sooner than pictures")
    found.watch.append(
        f"{N:,} texts teach a language only so far: TF-IDF with logistic regression is hard to beat from scratch below some ten thousand."
    )


def _writing(found: Suggestion, loaded: Loaded) -> None:
    if isinstance(loaded.train, chats.Conversations):
        _conversations(found, loaded)
    else:
        _running_text(found, loaded)


def _conversations(found: Suggestion, loaded: Loaded) -> None:
    train, derived = loaded.train, loaded.derived
    learnt, tokens = int((train.labels >= 0).sum()), len(train.flat)
    found.facts.append(
        f"Conversations of {tokens:,} tokens to learn from, of which the assistant says {learnt:,} ({learnt / max(1, tokens):.0%})."
    )
    context, why = derived["data.context"]
    found.choose("data.context", context, why)
    found.choose("model.kind", "decoder", "a Transformer decoder tells each next token from those before")
    if tokens < 1_000_000:
        found.watch.append(
            f"{learnt:,} tokens of answers teach the form of an answer and no language: a decoder of its own will repeat what it has seen."
        )
    found.instead.append(
        "What was learnt from large texts before answers far better: `model={kind: pretrained, name: FOLDER_OR_NAME}`, with "
        "`finetune.strategy=lora` where memory is short."
    )
    found.instead.append("To learn to ask as well as to answer: `data.learn_from=all`.")


def _running_text(found: Suggestion, loaded: Loaded) -> None:
    train = loaded.train
    found.facts.append(
        f"{len(train.flat):,} symbols to learn from, {int((train.counts(int(train.flat.max()) + 1) > 0).sum())} different ones."
    )
    found.choose("model.kind", "decoder", "a Transformer decoder tells each next symbol from those before")
    if len(train.flat) < 200_000:
        found.choose("model.width", 64, f"{len(train.flat):,} symbols do not fill a larger one")
        found.choose("model.layers", 2, f"{len(train.flat):,} symbols do not fill more")
        found.watch.append("So little text is soon known by heart; watch the validation loss turn.")
    found.instead.append(
        "To sort texts rather than write them: folders of .txt by class, or a table with a column of classes."
    )


def _any(found: Suggestion, loaded: Loaded) -> None:
    """For tasks whose reader decides what there is to decide."""
    derived = loaded.derived
    model, why = derived.get("model", ({}, f"the usual start for {loaded.task}"))
    for name, value in ({"kind": STARTS[loaded.task]} | (model if isinstance(model, dict) else {})).items():
        found.choose(f"model.{name}", value, why)
    found.facts += [
        f"`{path}` will be {_written(value)}: {why}." for path, (value, why) in derived.items() if path != "model"
    ]


ADVICE: dict[str, Callable[[Suggestion, Loaded], None]] = {
    "image-classification": _images,
    "tabular-classification": _tabular,
    "tabular-regression": _tabular,
    "text-classification": _labelled_texts,
    "text-generation": _writing,
}


# ---- what all have


def _sizes(loaded: Loaded) -> str:
    held = [
        f"{len(part):,} to {what}"
        for part, what in ((loaded.valid, "validate"), (loaded.test, "test"))
        if part is not None
    ]
    return f"{len(loaded.train):,} samples to learn from{''.join(f', {one}' for one in held)}."


def _classes(found: Suggestion, loaded: Loaded, targets: Tensor) -> None:
    """How even the classes are, and what follows."""
    names = loaded.classes
    counts = torch.bincount(targets, minlength=len(names))
    low, high = int(counts.argmin()), int(counts.argmax())
    rarest, commonest = int(counts[low]), int(counts[high])
    if rarest == commonest:
        found.facts.append(f"{len(names)} classes of {rarest:,} samples each to learn from.")
    else:
        found.facts.append(
            f"{len(names)} classes; the rarest, {names[low]!r}, has {rarest:,} samples to learn from and the commonest, "
            f"{names[high]!r}, {commonest:,}: always saying that one is right in {commonest / max(1, int(counts.sum())):.0%}."
        )
    held = len(loaded.valid) if loaded.valid is not None else 0
    if 0 < held < FEW_HELD:
        found.watch.append(
            f"{held} samples validate, so a share of hits near 80 % is known to {100 * 0.4 / held**0.5:.0f} points (one standard error)."
        )
    ratio = commonest / max(1, rarest)
    if ratio > UNEVEN:
        found.choose(
            "evaluation.metric",
            "f1",
            f"the commonest class has {ratio:.1f} times the samples of the rarest, and accuracy would hide the rare ones",
        )
    if ratio > VERY_UNEVEN and rarest:
        found.choose(
            "loss.class_weights", "balanced", f"the commonest class has {ratio:.0f} times the samples of the rarest"
        )
    rare = [f"{names[i]!r} ({int(counts[i])})" for i in range(len(names)) if int(counts[i]) < RARE]
    if rare:
        found.watch.append(
            f"{len(rare)} classes have fewer than {RARE} samples, too few to learn or to score: {', '.join(rare[:8])}"
            f"{' and more' if len(rare) > 8 else ''}. Add samples, or put such classes together."
        )


def _copies(found: Suggestion, loaded: Loaded, content: Callable[[Any], Iterable[bytes]]) -> None:
    """Samples that come more than once, with different classes, or in two parts."""
    seen: dict[bytes, Counter[int]] = {}
    for one, target in zip(content(loaded.train), loaded.train.targets.tolist(), strict=True):
        seen.setdefault(one, Counter())[target] += 1
    copies = len(loaded.train) - len(seen)
    if copies:
        torn = sum(len(labels) > 1 for labels in seen.values())
        found.watch.append(
            f"{copies} of {len(loaded.train):,} samples are exact copies of others"
            + (f", and {torn} of those that come more than once have different classes" if torn else "")
            + "."
        )
    for name, part in (("validation", loaded.valid), ("test", loaded.test)):
        shared = sum(one in seen for one in content(part)) if part is not None else 0
        if shared:
            found.watch.append(f"{shared} {name} samples are also learnt from, so their score flatters.")


# ---- writing


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value


def _tree(tree: Mapping[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_tree(value, indent + "  ")]
            continue
        chosen, why = value
        # JSON is YAML too, and quotes what must be quoted.
        plain = chosen if _reads_as_text(chosen) else json.dumps(_plain(chosen), ensure_ascii=False)
        lines.append(f"{indent}{name}: {plain}" + (f"  # {' '.join(why.split())}" if why else ""))
    return lines


def _reads_as_text(value: Any) -> bool:
    return isinstance(value, str) and value.replace("-", "").isalpha() and yaml.safe_load(value) == value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
