"""What happened in a run, as plain numbers: all that crosses from training to everything else.

No tensors and no torch in here, so the rules of the doctor, the report and the command line read a live run and a
recorded `events.jsonl` alike. Events that carry results (`Stepped`, `Evaluated`) hold nothing that depends on the
clock: two runs of equal bits have equal ones. Timing lives in `Paced`, `Saved` and `Ended`.

    >>> decode(encode(Stepped(step=1, loss=2.3, grad_norm=0.9, learning_rate=1e-3)))
    Stepped(step=1, loss=2.3, grad_norm=0.9, learning_rate=0.001, skipped=False)
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Started:
    """Training begins or goes on. What earlier lines of the same file say of steps after `step` is void: it is redone."""

    step: int  # optimizer steps already taken; 0 for a new run
    steps: int  # optimizer steps planned
    steps_per_epoch: int
    parameters: int
    trainable: int
    train_samples: int
    valid_samples: int
    batch_size: int  # samples per optimizer step, over all ranks
    micro_batch_size: int  # samples per forward and backward on one rank
    gradient_accumulation_steps: int
    world: int
    device: str
    precision: str
    time: float  # seconds since the epoch
    trained_before: bool = False  # the network begins with weights that were learnt before
    went_back: bool = False  # the same process went back to that step by itself (`recovery`)


@dataclass(frozen=True, slots=True)
class Stepped:
    """One optimizer step."""

    step: int  # counted from 1
    loss: float  # mean over the targets of the whole batch, all ranks
    grad_norm: float  # 2-norm of all gradients, before clipping
    learning_rate: float  # of the first parameter group, used in this step
    skipped: bool = False  # fp16 loss scaling overflowed: the weights did not change


@dataclass(frozen=True, slots=True)
class Paced:
    """How fast the steps since the last `Paced` went."""

    step: int
    seconds_per_step: float
    samples_per_second: float
    data_wait: float  # share of the time spent waiting for data, 0 to 1
    memory_bytes: int  # peak on the accelerator, or of the process on a CPU
    utilization: float | None = None  # of the accelerator, 0 to 1, where it can be read
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Scores on held-out data."""

    step: int
    split: str  # "valid" or "test"
    metrics: Mapping[str, float] = field(default_factory=dict)
    of: str = "model"  # or the name of a baseline
    samples: int = 0  # that were scored, where it is known


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is safely on disk."""

    step: int
    bytes: int
    seconds: float
    best: bool = False


DOCTOR = "Doctor, "  # begins a note of what the doctor saw on the way


@dataclass(frozen=True, slots=True)
class Noted:
    """Something a person should know that is not a number. Said once."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the probe measured or saw of one thing: the numbers that the doctor's rules read."""

    step: int  # optimizer steps taken when it was measured; 0 before the first
    about: (
        str  # what kind of thing: "layer", "activation", "loss", "batch", "loop", ... (`doctor/history.py` lists them)
    )
    name: str  # which one of them
    values: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)  # names and places, never numbers to be parsed
    of: str = ""  # which training it belongs to, where a program has several


@dataclass(frozen=True, slots=True)
class Ended:
    """Training is over, for now or for good."""

    step: int
    reason: str  # "finished", "early-stopping", "interrupted", "loss-not-finite"
    seconds: float  # spent training in this process
    best_step: int | None = None
    best_value: float | None = None


LARGEST = 2**63 - 1  # whole numbers beyond it are none that wellfit writes

Event = Started | Stepped | Paced | Evaluated | Saved | Noted | Vitals | Ended
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Started, Stepped, Paced, Evaluated, Saved, Noted, Vitals, Ended)
}

_ENCODER = json.JSONEncoder(allow_nan=False, default=dict)
_TYPES = {kind: {f.name: f.type for f in fields(kind)} for kind in KINDS.values()}
_FIELDS = {kind: tuple(f.name for f in fields(kind)) for kind in KINDS.values()}
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def as_dict(event: Event) -> dict[str, Any]:
    """The event's fields, shallow."""
    return {name: getattr(event, name) for name in _FIELDS[type(event)]}


def encode(event: Event) -> str:
    """One line of strict JSON. Floats keep every bit; NaN and infinities, which JSON lacks, become strings."""
    kind = type(event)
    body = {"event": kind.__name__}
    for name in _FIELDS[kind]:
        body[name] = getattr(event, name)
    try:
        return _ENCODER.encode(body)
    except ValueError:
        return _ENCODER.encode(_strict(body))


def decode(line: str) -> Event:
    """The event of one line. Raises ValueError for a torn or foreign line."""
    try:
        body = json.loads(line)
    except RecursionError:
        raise ValueError("not an event: nested too deeply") from None
    if not isinstance(body, dict) or not isinstance(body.get("event"), str) or body["event"] not in KINDS:
        raise ValueError(f"not an event: {line[:80]!r}")
    kind = KINDS[body.pop("event")]
    known = _FIELDS[kind]
    for name, value in list(body.items()):
        if name not in known:
            del body[name]
        elif type(value) is not float and name != "words":
            body[name] = _loose(value)
    try:
        event: Event = kind(**body)
    except TypeError as error:
        raise ValueError(f"not a whole {kind.__name__}: {error}") from None
    for name, wanted in _TYPES[kind].items():
        if not _is(getattr(event, name), wanted):
            raise ValueError(f"not a {kind.__name__}: its {name} is {getattr(event, name)!r:.40}")
    return event


def _is(value: Any, wanted: Any) -> bool:
    """Whether a value is of an event field's declared type; whole numbers are floats too, and booleans are neither."""
    if type(value) is int and abs(value) > LARGEST:
        return False
    if wanted is float:
        return type(value) in (float, int)
    if wanted in (int, str, bool):
        return type(value) is wanted
    if get_origin(wanted) is Mapping:
        inner = get_args(wanted)[1]
        return isinstance(value, dict) and all(_is(v, inner) for v in value.values())
    return value is None or any(_is(value, part) for part in get_args(wanted) if part is not type(None))


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    return value


def _loose(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _loose(inner) for key, inner in value.items()}
    return value
