"""Curves as one line: monotone, never longer than asked, and no number is too odd."""

import math

from hypothesis import given
from hypothesis import strategies as st

from wellfit.report.sparks import BLOCKS, PLAIN, spark


def test_a_falling_curve() -> None:
    assert spark([(i, 8.0 - i) for i in range(8)], 8) == BLOCKS[::-1]
    assert spark([(i, 8.0 - i) for i in range(8)], 4) == "█▆▃▁"
    assert spark([(i, 10.0**-i) for i in range(8)], 8, log=True) == BLOCKS[::-1]
    assert spark([(i, float(i)) for i in range(8)], 8, PLAIN) == PLAIN
    assert spark([(1, 2.0)] * 3, 9) == "▁▁▁"
    assert spark([], 5) == ""


def test_a_gap_shows_however_long_the_curve_is() -> None:
    points = [(float(i), 1.0) for i in range(10_000)]
    points[5_000] = (5_000.0, math.nan)
    assert spark(points, 10).count("×") == 1
    assert spark([(1, math.inf)], 3, PLAIN) == "x"


@given(st.lists(st.floats(), max_size=60), st.integers(1, 20), st.booleans())
def test_no_number_is_too_odd(values: list[float], width: int, log: bool) -> None:
    line = spark(list(enumerate(values)), width, log=log)
    assert len(line) == min(width, len(values))
    assert set(line) <= {*BLOCKS, "×"}
