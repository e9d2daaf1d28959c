"""A trained run at work: the model made again from recipe and record, its best weights, and the task's `predict`.

The folder of the run is all that is needed: neither the training data nor the process that trained. Two predictions of the
same input are the same, whatever was predicted before or beside it.

    >>> wellfit.predict("runs/2026-11-22-1015-digits-convnet", ["a.png", "b.png"])
    [{'input': 'a.png', 'class': '3', 'confidence': 0.99}, {'input': 'b.png', 'class': '7', 'confidence': 0.98}]
"""

import inspect
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from wellfit import finetune
from wellfit.data import chats, tagged, texts
from wellfit.data.batches import untouched_randomness
from wellfit.data.tokens import check_letters
from wellfit.errors import DataError, RecipeError, RunError
from wellfit.recipe import Data, nearest
from wellfit.run import TASK, Run
from wellfit.tasks import KINDS

OF_TEXTS = ("text-classification", "text-generation", "seq-to-seq", "sentence-embeddings", "token-classification")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Predictor:
    """A run's model with its best weights, on the CPU and in evaluation mode, to be asked many times."""

    model: nn.Module
    record: dict[str, Any]
    task: str
    data: Data  # of the recipe, which names the columns of a table

    @classmethod
    def of(cls, run: Run | str | Path) -> "Predictor":
        """From a run or its folder. Raises RunError if it is none, or holds no model that can be made again."""
        run = run if isinstance(run, Run) else Run.open(run)
        recipe, record = run.recipe, run.task
        task = str(record.get("task") or recipe.task or "given")
        if task == "given":
            raise RunError(
                f"The run {run.folder} trained a model that was passed to `wellfit.fit` in Python, and a run folder holds no code. "
                "Make the model there, load `wellfit.open(...).best_weights()` into it, and call it."
            )
        kind = KINDS.get(task)
        if kind is None or kind.network is None or kind.predict is None:
            able = [name for name, known in KINDS.items() if known.predict is not None]
            raise RunError(
                f"The run {run.folder} is of the task {task!r}, with which this version of wellfit cannot predict; it can with "
                f"{', '.join(able)}."
            )
        weights = run.best_weights()
        try:
            with untouched_randomness():  # the first weights are drawn only to be replaced
                model = finetune.shaped(kind.network(recipe, record), recipe, record)
        except (KeyError, TypeError, AttributeError) as error:  # a record that was cut or changed by hand
            raise RunError(
                f"No model can be made of {run.folder / TASK}: it lacks what the task {task} needs, or has something else in its "
                f"place ({type(error).__name__}: {error}). Take that file from a copy of the run, or train it anew."
            ) from None
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(
                f"The weights of {run.folder} do not fit the model that its recipe makes: {' '.join(str(error).split())}. "
                "It was trained by another version of wellfit; use that one, or train it anew."
            ) from None
        return cls(model.eval(), record, task, recipe.data)

    def __call__(self, inputs: Any, **choices: Any) -> list[dict[str, Any]]:
        """One plain dictionary for each input. Raises DataError for an input that cannot be taken."""
        predict = KINDS[self.task].predict
        assert predict is not None
        hints = allowed(predict)
        for name, value in choices.items():
            if name not in hints:
                raise RecipeError(
                    f"{name!r} is nothing that a prediction of the task {self.task} lets choose.{nearest(name, hints)} "
                    + (f"It can be {', '.join(hints)}." if hints else "There is no choice.")
                )
            if name == "among" and isinstance(value, str | Path):
                value = self.texts(value, other=True)
            choices[name] = _checked(name, value, hints[name])
        given = _several(inputs, self.record)
        if self.task in OF_TEXTS:
            given = [text for one in given for text in (self.texts(one) if isinstance(one, Path) else [one])]
            for number, one in enumerate(given, start=1):
                for text in [one] if isinstance(one, str) else one if isinstance(one, list) else ():
                    if isinstance(text, str):
                        check_letters(text, f"Text number {number}")
        return predict(self.model, self.record, given, **choices)

    def texts(self, path: str | Path, other: bool = False) -> list[Any]:
        """The texts of a file: of a table a column, of any other one a text a line; of tagged sentences their words.

        The column is the one that the recipe names (with `other`, that of the other text), or the only one of text. Warns of
        what was left out or guessed. Raises DataError for a file that is not there or cannot be read.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise DataError(
                f"{path} is a folder. Name a file with the texts." if path.is_dir() else f"There is no file at {path}."
            )
        if "chat" in self.record and chats.holds(path):
            return list(chats.questions(path))
        if self.task == "token-classification" and path.suffix.lower() in tagged.ENDINGS:
            found: list[Any] = _sentences(path)
        elif path.suffix.lower() in TABLES:
            found = _column(path, self.data, other)
        else:
            found = lines(path.read_bytes(), str(path))
        full = [one for one in found if (one.strip() if isinstance(one, str) else one)]
        if not full:
            raise DataError(f"{path} holds no text.")
        if len(full) < len(found):
            warnings.warn(f"{len(found) - len(full)} empty texts of {path} were left out.", stacklevel=2)
        return full


def predict(run: Run | str | Path, inputs: Any, **choices: Any) -> list[dict[str, Any]]:
    """What a trained run says of new inputs: a list with one plain dictionary for each.

    `run`: a run or its folder. `inputs`: one input or a sequence of them, of the kind that the task takes: paths of pictures
    or folders, bytes of pictures' files, or arrays, for images; rows (column -> value) or paths of tables for tables; texts for texts, or a
    `pathlib.Path` of a file of them. `choices` are the task's own, such as `top=3` for images or `length=100` for text that
    is written.

    Raises RunError for what is no run, has no checkpoint, or trained a model of one's own; DataError for an input that is
    not there or cannot be taken, naming it.
    """
    return Predictor.of(run)(inputs, **choices)


# ---- choices


def allowed(predict: Callable[..., Any]) -> dict[str, Any]:
    """What a task's `predict` lets choose: name -> type."""
    hints = get_type_hints(predict, include_extras=True)
    return {name: hints[name] for name in [*inspect.signature(predict).parameters][3:]}


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value as the type that it must have. Raises RecipeError for one that is none."""
    try:
        if isinstance(value, bool):  # which pydantic would count as 1 and 0
            raise ValueError
        value = value.item() if isinstance(value, np.generic) else value
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except (ValidationError, ValueError):
        raise RecipeError(f"`{name}` is {value!r}; it must be {_described(hint)}.") from None


def _described(hint: Any) -> str:
    """A type in words: "a whole number, at least 1"."""
    if get_origin(hint) is Annotated:
        of, *marks = get_args(hint)
        limits = [
            f"{word} {getattr(limit, sign)}"
            for mark in marks
            for limit in mark.metadata
            for sign, word in BOUNDS.items()
            if hasattr(limit, sign)
        ]
        return _described(of) + (f", {' and '.join(limits)}" if limits else "")
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(
            "null, which is none" if one is types.NoneType else _described(one) for one in get_args(hint)
        )
    if get_origin(hint) is Sequence:
        return "the path of a file of texts, or a list of texts, of which there is at least one"
    return {int: "a whole number", float: "a number"}.get(hint, str(hint))


# ---- inputs


def lines(content: bytes, where: str) -> list[str]:
    """Lines of UTF-8. Raises DataError with the number of the first that is none."""
    found = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    told = []
    for number, line in enumerate(found if found[-1] else found[:-1], start=1):
        try:
            told.append(line.decode("utf-8").rstrip("\r"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"Line {number} of {where} is not text in UTF-8 ({error.reason} at its byte {error.start + 1}). Save it with the "
                "encoding UTF-8."
            ) from None
    return told


def _sentences(path: Path) -> list[list[str]]:
    """The words of a file with a word a line and empty lines between sentences; what stands behind a word is not looked at."""
    sentences: list[list[str]] = [[]]
    documents = 0
    for line in lines(path.read_bytes(), str(path)):
        if line.startswith("-DOCSTART-"):
            documents += 1
        elif line.strip():
            sentences[-1].append((line.split("\t") if "\t" in line else line.split())[0].strip())
        elif sentences[-1]:
            sentences.append([])
    if documents:
        warnings.warn(f"{documents} lines of {path} begin with -DOCSTART- and were left out.", stacklevel=3)
    return [one for one in sentences if one]


def _column(path: Path, data: Data, other: bool) -> list[str]:
    """The column of texts of a table. A cell that is missing is the empty text."""
    named = [name for name in ((data.other, data.text) if other else (data.text,)) if name is not None]
    frame, _ = texts.table(path, named)
    names = [str(name) for name in frame.columns]
    frame.columns = names
    filled = {name: ["" if cell is None or cell != cell else str(cell) for cell in frame[name]] for name in names}
    known = next((name for name in named if name in names), None)
    if known is not None:
        return filled[known]
    rest = [name for name in names if name not in (data.target, *data.ignore)]
    written = [name for name in rest if not all(_is_number(cell) for cell in filled[name])]
    if named and len(written) != 1:
        raise DataError(
            f"{path} lacks the column {named[0]!r} that the model was trained with.{nearest(named[0], names)} It has "
            f"{', '.join(names)}; rename the one that holds the texts."
        )
    if not written:
        raise DataError(f"{path} has the columns {', '.join(names)}, and none of them holds texts.")
    chosen = max(written, key=lambda name: sum(map(len, filled[name])))
    if named or len(written) > 1:
        why = "whose entries are the longest" if len(written) > 1 else "the only one of text"
        warnings.warn(f"The texts are in the column {chosen!r} of {path}, {why}.", stacklevel=3)
    return filled[chosen]


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def _several(inputs: Any, record: Mapping[str, Any]) -> Sequence[Any]:
    """A sequence of inputs, where one may have been given without a list around it."""
    if isinstance(inputs, str | Path | bytes | Mapping):
        return [inputs]
    if "horizon" in record and inputs and all(isinstance(one, Mapping) for one in inputs):
        return [inputs]  # the rows of one series
    if "chat" in record and inputs and all(isinstance(one, Mapping) for one in inputs):
        return [inputs]  # the messages of one conversation
    if isinstance(inputs, np.ndarray | Tensor):
        alone = (2, 3) if len(record.get("input", ())) == 3 else (1,)
        stacked = inputs.ndim not in alone or (
            inputs.ndim == 3 and record["input"][0] == 1 and _are_grey(inputs, record)
        )
        return list(inputs) if stacked else [inputs]
    return list(inputs)


def _are_grey(inputs: Any, record: Mapping[str, Any]) -> bool:
    """Whether [N, H, W] are grey images, and not one image of H x W with channels."""
    return bool(list(inputs.shape[1:]) == record["input"][1:] and inputs.shape[0] != 1)
