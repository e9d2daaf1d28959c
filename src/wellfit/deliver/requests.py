"""What a request to a served run may hold, and what its answer holds, as the run's task says: types, limits and examples.

One model of pydantic for each side, made from the task's record: rows have the columns of the training's, with their kinds;
pictures are base64 or arrays; choices are those of the task's `predict`. Whatever does not fit is told in a sentence that
names the place. No input can name a file of the server.

    >>> kind = request(Predictor.of("runs/first"))
    >>> kind.model_validate({"inputs": [{"alcohol": 13.2, ...}]}).inputs
"""

import base64
import binascii
import inspect
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, create_model

from wellfit.data.images import FORMATS, opened
from wellfit.deliver.predict import Predictor, allowed
from wellfit.errors import DataError
from wellfit.recipe import nearest
from wellfit.tasks import KINDS

MOST_INPUTS = 10_000
MOST_WORDS = 100_000  # of a sentence that is to be tagged
MOST_PIXELS, MOST_TOGETHER = 40_000_000, 100_000_000  # of a picture that is sent, and of all of one request
MOST_ROWS = 10_000  # of an image that is sent as numbers
SHOWN = 60  # characters of what was sent that an error repeats
PNG = (  # one grey pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
PICTURE = "The bytes of a picture's file (PNG, JPEG, ...) in base64."


class Strict(BaseModel):
    """Nothing but what is declared, and of its kind."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# ---- one input, by task


def _picture(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("must be a picture's file in base64")
    text = value.partition("base64,")[2] if value.startswith("data:") else value
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is no base64; encode the bytes of a picture's file") from None
    return bounded(content)


def bounded(content: bytes) -> bytes:
    """The bytes of a picture's file, if it is one and not too large when unpacked. Raises ValueError."""
    try:
        from PIL import Image
    except ImportError:
        opened(io.BytesIO(content))  # which says what to install
        raise
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as file:
            width, height = file.size
    except Exception:  # Pillow raises many kinds over damaged files
        raise ValueError("is no picture that can be decoded") from None
    if width * height > MOST_PIXELS:
        raise ValueError(f"has {width} x {height} pixels; the most are {MOST_PIXELS:,}")
    return content


def check_together(inputs: Sequence[Any]) -> None:
    """Raises DataError for pictures that are too much to unpack for one request."""
    total = sum(_size(one) for one in inputs if isinstance(one, bytes))
    if total > MOST_TOGETHER:
        raise DataError(
            f"The pictures have {total:,} pixels together; the most of one request are {MOST_TOGETHER:,}. Send fewer at once."
        )


def _size(content: bytes) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=FORMATS) as file:
        return int(file.size[0] * file.size[1])


def _picture_or_pixels(value: Any) -> Any:
    if isinstance(value, str):
        return _picture(value)
    if isinstance(value, list) and len(value) > MOST_ROWS:
        raise ValueError(f"has {len(value):,} rows; the most are {MOST_ROWS:,}")
    try:
        pixels = np.asarray(value)
    except ValueError:
        raise ValueError("has rows of unequal length; an image is [height, width], or with channels") from None
    if not isinstance(value, list) or pixels.dtype.kind not in "iuf" or pixels.ndim not in (2, 3) or not pixels.size:
        raise ValueError(
            "must be a picture's file in base64, or its pixels as numbers [height, width], or with channels"
        )
    return pixels


def _words(value: Any) -> Any:
    if (isinstance(value, str) and value.strip()) or (
        isinstance(value, list) and value and all(isinstance(word, str) and word.strip() for word in value)
    ):
        count = len(value.split() if isinstance(value, str) else value)
        if count > MOST_WORDS:
            raise ValueError(f"has {count:,} words; the most are {MOST_WORDS:,}")
        return value
    raise ValueError("must be a sentence, or a list of its words")


def _conversation(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    if (
        isinstance(value, list)
        and value
        and all(
            isinstance(one, dict)
            and one.keys() == {"role", "content"}
            and all(isinstance(x, str) for x in one.values())
            for one in value
        )
    ):
        return value
    raise ValueError('must be what a user says, or a list of messages {"role": "user", "content": "..."}')


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a surrogate pair, which is no character") from None
    return value


def _category(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise ValueError("must be a text or a number")
    return value


def _of(check: Any, schema: Mapping[str, Any]) -> Any:
    return Annotated[Any, PlainValidator(check), WithJsonSchema(dict(schema))]


TEXT = {"type": "string", "minLength": 1}
BASE64 = {"type": "string", "format": "byte", "description": PICTURE}
PIXELS = {
    "type": "array",
    "items": {
        "type": "array",
        "items": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]},
    },
    "description": "Pixels [height, width], or with channels first or last, of the size and range of the training's.",
}
MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}


def _row(record: Mapping[str, Any]) -> Any:
    columns = record["columns"]
    gaps = record.get("missing") == "mean" and bool(columns.get("fill") or columns.get("categories"))
    fields: dict[str, Any] = {}
    category = _of(_category, {"type": ["string", "number"]})
    for i, name in enumerate([*columns["numeric"], *columns.get("categories", {})]):
        known = columns.get("categories", {}).get(name)
        kind = float if known is None else category
        about = "" if known is None else f"One of {', '.join(known[:20])}{' and more' if len(known) > 20 else ''}."
        field = Field(None if gaps else ..., alias=name, description=about or None)
        fields[f"column_{i}"] = (kind | None if gaps else kind, field)
    return create_model("Row", __base__=Strict, **fields)


def _series(record: Mapping[str, Any]) -> Any:
    gaps = record["reading"].get("missing") == "mean"
    fields: dict[str, Any] = {
        f"column_{i}": (float | None if gaps else float, Field(None if gaps else ..., alias=name))
        for i, name in enumerate(record["names"])
    }
    about, time = "A step of the series.", record["reading"].get("time")
    if time is not None:
        fields["time"] = (str, Field(..., alias=time, min_length=1, description="Such as 2024-01-31."))
    elif record["clock"]["unit"] != "rows":
        about = "A step of the series. Beside these columns it has one with its time, such as 2024-01-31."
    row: Any = create_model("Step", __base__=Strict, __doc__=about, **fields)
    row.model_config = {**Strict.model_config, "extra": "allow"}
    row.model_rebuild(force=True)
    return Annotated[
        list[row],
        Field(
            min_length=record["history"],
            description="Rows in the order of time, at least as many as the model looks back.",
        ),
    ]


def _item(predictor: Predictor) -> Any:
    task, record = predictor.task, predictor.record
    if task == "image-classification":
        return _of(_picture_or_pixels, {"anyOf": [BASE64, PIXELS]})
    if task == "object-detection":
        return _of(_picture, BASE64)
    if task.startswith("tabular-"):
        return _row(record)
    if task == "forecasting":
        return _series(record)
    if task == "token-classification":
        return _of(_words, {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}]})
    if "chat" in record:
        return _of(_conversation, {"anyOf": [TEXT, MESSAGES]})
    return _of(_text, TEXT)


def example(predictor: Predictor) -> Any:
    """One input that the run takes."""
    task, record = predictor.task, predictor.record
    if task == "image-classification":
        C, H, W = record["input"]
        return [[0] * W] * H if C == 1 and H * W <= 400 else PNG
    if task == "object-detection":
        return PNG
    if task.startswith("tabular-"):
        columns = record["columns"]
        numbers = {name: round(columns.get("fill", {}).get(name, 0.0), 4) for name in columns["numeric"]}
        return numbers | {name: values[0] for name, values in columns.get("categories", {}).items()}
    if task == "forecasting":
        from wellfit.data.clock import Clock

        clock, means = Clock.of(record["clock"]), record["unit_mean"]
        name = record["reading"].get("time") or "time"
        times = [{name: clock.time(i)} if clock.unit != "rows" else {} for i in range(record["history"])]
        return [time | dict(zip(record["names"], means, strict=True)) for time in times]
    return "not bad at all"


# ---- the whole


def request(predictor: Predictor) -> type[BaseModel]:
    """{"inputs": [...], "choices": {...}} as the run takes them; `choices` only where its task has some."""
    item = _item(predictor)
    inputs: Any = (Annotated[list[item], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)], ...)  # type: ignore[valid-type]
    predict = KINDS[predictor.task].predict
    assert predict is not None
    defaults = inspect.signature(predict).parameters
    chosen: dict[str, Any] = {name: (hint, defaults[name].default) for name, hint in allowed(predict).items()}
    more: dict[str, Any] = {}
    if chosen:
        more["choices"] = (
            create_model("Choices", __base__=Strict, **chosen),
            Field(default_factory=dict, validate_default=False),
        )
    kind: type[BaseModel] = create_model("Request", __base__=Strict, inputs=inputs, **more)
    kind.model_config = {**Strict.model_config, "json_schema_extra": {"examples": [{"inputs": [example(predictor)]}]}}
    kind.model_rebuild(force=True)
    return kind


def given(asked: Any) -> tuple[list[Any], dict[str, Any]]:
    """Inputs and choices of a request that was checked, as `predict` takes them."""
    inputs = [one.model_dump(by_alias=True) if isinstance(one, BaseModel) else one for one in asked.inputs]
    inputs = [
        [row.model_dump(by_alias=True) if isinstance(row, BaseModel) else row for row in one]
        if isinstance(one, list)
        else one
        for one in inputs
    ]
    choices = getattr(asked, "choices", None)
    return inputs, choices.model_dump(exclude_unset=True) if isinstance(choices, BaseModel) else {}


class Class(BaseModel):
    """What the input is taken for, and the probability that the model gives that."""

    model_config = ConfigDict(serialize_by_alias=True)
    name: str = Field(alias="class")
    confidence: float
    likeliest: dict[str, float] | None = Field(None, description="With `top` above 1: the likeliest classes.")
    cut: int | None = Field(None, description="Tokens at the end of the text that were not looked at.")
    unknown: bool | None = Field(None, description="The model knows no word of the text.")


class Number(BaseModel):
    """In the target's unit."""

    value: float


class Written(BaseModel):
    """What was written."""

    text: str
    score: float | None = None
    cut: int | None = None
    unknown: bool | None = None
    unfinished: bool | None = None


class Vector(BaseModel):
    """Of length 1; or, with `among`, the most similar texts."""

    vector: list[float] | None = None
    similar: list[dict[str, Any]] | None = None
    cut: int | None = None
    unknown: bool | None = None


class Tags(BaseModel):
    """A tag for each word."""

    words: list[str]
    tags: list[str]
    confidence: list[float]
    spans: list[dict[str, str]] | None = None
    unknown: bool | None = None


class Forecast(BaseModel):
    """The next steps: times, and for each column the values; of quantiles also the lowest and highest."""

    times: list[str]
    values: dict[str, list[float]]
    low: dict[str, list[float]] | None = None
    high: dict[str, list[float]] | None = None
    notes: list[str] | None = None


class Boxes(BaseModel):
    """Left, top, right and bottom of each thing in the picture's pixels, the best first."""

    boxes: list[list[float]]
    classes: list[str]
    scores: list[float]
    threshold: float | None = None
    best: float | None = None


ANSWERS: dict[str, type[BaseModel]] = {
    "image-classification": Class,
    "tabular-classification": Class,
    "tabular-regression": Number,
    "text-classification": Class,
    "text-generation": Written,
    "seq-to-seq": Written,
    "sentence-embeddings": Vector,
    "token-classification": Tags,
    "forecasting": Forecast,
    "object-detection": Boxes,
}


def answer(task: str) -> type[BaseModel]:
    """{"predictions": [...], "remarks": [...]}: one prediction for each input, in their order."""
    kind: type[BaseModel] = create_model(
        "Answer",
        predictions=(list[ANSWERS[task]], ...),  # type: ignore[valid-type]
        remarks=(list[str], Field(default_factory=list, description="What is to be known of these inputs.")),
    )
    return kind


# ---- what is wrong


def sentence(problems: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """What is wrong with a request, in words: the first of the problems that pydantic names.

    `names` are those of columns, for a name that is nearly one of them.
    """
    first = problems[0]
    place = _place(first["loc"])
    kind, what = first["type"], str(first["msg"]).removeprefix("Value error, ")
    received = _shown(first.get("input"))
    if kind == "missing":
        return (
            f"{place} is missing." if place else "The body is empty; send JSON such as the examples of /openapi.json."
        )
    if kind == "extra_forbidden":
        return f"{place} is nothing that can be given here.{nearest(str(first['loc'][-1]), names)}"
    if kind == "value_error":
        return f"{place} {what}."
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place or 'The body'} is {received}; it must be an object."
    if kind in ("float_type", "float_parsing", "finite_number"):
        return f"{place} is {received}; it must be a finite number."
    if kind == "list_type":
        return f"{place} is {received}; it must be a list."
    if kind == "too_short":
        return (
            f"{place} has {first['ctx']['actual_length']} entries; it must have at least {first['ctx']['min_length']}."
        )
    return f"{place or 'The body'} is {received}: {what[:1].lower()}{what[1:]}."


def _place(loc: Sequence[Any]) -> str:
    """`inputs[0].alcohol`"""
    told = ""
    for part in loc:
        if part != "body" or told:
            told += f"[{part}]" if isinstance(part, int) else f".{part}" if told else str(part)
    return f"`{told}`" if told else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def names(record: Mapping[str, Any]) -> list[str]:
    """What inputs are called, of rows: their columns."""
    columns = record.get("columns")
    if isinstance(columns, Mapping):
        return [*columns.get("numeric", ()), *columns.get("categories", {})]
    return []


def checked_picture(content: bytes, name: str) -> bytes:
    """The bytes of a file that was sent. Raises DataError, naming it."""
    try:
        return bounded(content)
    except ValueError as error:
        raise DataError(f"The file {name[:SHOWN]!r} {error}.") from None
