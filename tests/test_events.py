"""Events are plain numbers that survive a line of strict JSON bit for bit."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfit.events import Evaluated, Noted, Saved, Stepped, decode, encode


@given(st.floats(), st.floats(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_a_step_survives_its_line(loss: float, norm: float, rate: float, skipped: bool) -> None:
    event = Stepped(3, loss, norm, rate, skipped)
    line = encode(event)
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
    again = decode(line)
    for name in ("loss", "grad_norm", "learning_rate"):
        before, after = getattr(event, name), getattr(again, name)
        assert before == after or (math.isnan(before) and math.isnan(after))
    assert again.skipped is skipped


def test_names_from_data_are_only_names() -> None:
    event = Evaluated(1, "valid", {"<script>": math.inf, "ä\n": 0.1})
    assert decode(encode(event)) == event
    assert "\n" not in encode(event)


FOREIGN = [
    "", "{", "[1]", '{"event": "Step', '{"event": "Unknown"}', '{"event": "Stepped", "step": 1}', "null", "[" * 100_000,
    '{"event": ["x"]}', '{"event": "Noted", "step": 1e400, "text": "a"}', '{"event": "Noted", "step": 1, "text": ["a"]}',
    '{"event": "Stepped", "step": "x", "loss": 1, "grad_norm": 1, "learning_rate": 1}',
    '{"event": "Evaluated", "step": 2, "split": "valid", "metrics": 5}',
    '{"event": "Evaluated", "step": 2, "split": "valid", "metrics": {"a": null}}',
]  # fmt: skip


@pytest.mark.parametrize("line", FOREIGN)
def test_torn_and_foreign_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any ValueError is the contract
        decode(line)


def test_unknown_fields_of_a_later_version_are_passed_over() -> None:
    assert decode('{"event": "Noted", "step": 2, "text": "x", "colour": "red"}') == Noted(2, "x")


def test_events_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Saved(1, 2, 0.1).step = 4  # type: ignore[misc]
