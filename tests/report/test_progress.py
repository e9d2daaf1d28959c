"""Progress: every event is taken, a pipe gets few plain lines, a terminal is left as it was found."""

import io
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Saved, Started, Stepped
from wellfit.report.progress import Progress

START = Started(
    step=0, steps=1000, steps_per_epoch=100, parameters=66_000, trainable=66_000, train_samples=6400,
    valid_samples=640, batch_size=64, micro_batch_size=64, gradient_accumulation_steps=1, world=1, device="cpu",
    precision="fp32", time=1.8e9,
)  # fmt: skip
SCORES = {"loss": 0.31, "accuracy": 0.912}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def burst(first: int, last: int, loss: float = 0.5) -> list[Event]:
    """What one flush of the buffered numbers tells."""
    return [*(Stepped(s, loss, 1.5, 1e-3) for s in range(first, last + 1)), Paced(last, 0.0125, 5120.0, 0.0, 10**8)]


def told(events: list[Event], *, tty: bool = False, seconds: float = 0.0) -> str:
    """What is shown of events, the clock moving on by `seconds` before each `Paced`."""
    stream, clock = Terminal() if tty else io.StringIO(), Clock()
    progress = Progress(stream, clock=clock)
    for event in events:
        clock.now += seconds if isinstance(event, Paced) else 0
        progress(event)
    return stream.getvalue()


RUN: list[Event] = [
    START,
    *(event for first in range(1, 1000, 50) for event in burst(first, first + 49)),
    Evaluated(1000, "valid", SCORES),
    Saved(1000, 10**6, 0.1, best=True),
    Evaluated(1000, "test", {"loss": 0.3, "accuracy": 0.92}),
    Evaluated(1000, "test", {"accuracy": 0.9}, of="logistic regression"),
    Ended(1000, "finished", 12.4, 1000, 0.31),
]


def test_a_pipe_gets_plain_lines() -> None:
    assert told(RUN).splitlines() == [
        "Training 1,000 steps, 64 samples each, on cpu in fp32: 66,000 trainable parameters, 6,400 training samples.",
        "step 1,000/1,000  validation loss 0.31, accuracy 91.2 %  (training loss 0.5)",
        "step 1,000/1,000  test loss 0.3, accuracy 92.0 %",
        "step 1,000/1,000  logistic regression, test accuracy 90.0 %",
        "Finished at step 1,000 after 12 seconds. The best step was 1,000.",
    ]


@pytest.mark.parametrize(("seconds", "lines"), [(0.5, 1), (1.0, 2), (11.0, 20)])
def test_a_pipe_gets_at_most_one_line_in_ten_seconds(seconds: float, lines: int) -> None:
    between = [line for line in told(RUN, seconds=seconds).splitlines() if "grad norm" in line]
    assert len(between) == lines


def test_a_line_tells_the_mean_loss_the_pace_and_the_time_left() -> None:
    events = [START, *burst(1, 50, loss=1.0), *burst(51, 100, loss=2.0)]
    lines = told(events, seconds=20).splitlines()
    assert lines[1] == "step 50/1,000  loss 1  6 min 20 s left  80 steps/s  lr 0.001  grad norm 1.5"
    assert lines[2].startswith("step 100/1,000  loss 2  6 min 0 s left")


def test_a_resumed_run_says_so_and_reckons_from_there() -> None:
    lines = told([replace(START, step=900), *burst(901, 950)], seconds=20).splitlines()
    assert lines[0].startswith("Going on at step 900 of 1,000, ")
    assert "20 seconds left" in lines[1]  # fifty steps took twenty seconds; those before the stop do not count
    assert "900/1000" in told([replace(START, step=900), Evaluated(900, "valid", SCORES)], tty=True)


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.0])
def test_no_number_is_too_odd(value: float, tty: bool) -> None:
    events = [
        START,
        *(Stepped(s, sign * value, value, value) for s, sign in ((1, 1), (2, -1), (3, 1))),
        Paced(3, value, value, value, 0),
        Evaluated(3, "valid", {"loss": value, "accuracy": value, "own": value}),
        Evaluated(3, "valid", {}),
        Ended(3, "loss-not-finite", value, None, value),
    ]
    text = told(events, tty=tty, seconds=60)
    assert "Failed, as the loss or its gradient was not a finite number, at step 3" in text
    assert not re.search(r"\bnan\b|\binf\b", text)


@pytest.mark.parametrize("tty", [False, True])
def test_a_note_is_told_once(tty: bool) -> None:
    note = Noted(0, "There is no validation set.")
    assert told([START, note, *burst(1, 50), note], tty=tty, seconds=20).count("There is no validation set.") == 1


@pytest.mark.parametrize("tty", [False, True])
def test_names_cannot_steer_the_terminal(tty: bool) -> None:
    text = told([START, Noted(0, "a\x1b[31mb\rc\nd [bold]e"), Evaluated(1, "valid", {"\x1b[2Jown": 1.0})], tty=tty)
    assert "Note: a [31mb c d [bold]e" in text
    assert "\x1b[2J" not in text
    if not tty:
        assert not [letter for letter in text if not letter.isprintable() and letter != "\n"]


def test_a_terminal_gets_a_bar_that_keeps_up_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    text = told(RUN, tty=True, seconds=1)
    last_drawing = text.rsplit("\x1b[2K", 1)[-1]
    for part in ("1000/1000", "loss 0.5", "validation accuracy 91.2 %", "80 steps/s", "lr 0.001", "grad norm 1.5"):
        assert part in last_drawing
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor was hidden, and is back
    assert text.endswith("Finished at step 1,000 after 12 seconds. The best step was 1,000.\n")
    assert "step 1,000/1,000" not in text


def test_a_burst_is_drawn_once() -> None:
    two = told([START, *burst(1, 50), *burst(51, 100)], tty=True, seconds=1)
    many = told([START, *burst(1, 500), *burst(501, 1000)], tty=True, seconds=1)
    assert many.count("\x1b[2K") == two.count("\x1b[2K") <= 4
    fast = told([START, *(event for s in range(1, 500) for event in burst(s, s))], tty=True, seconds=0.001)
    assert fast.count("\x1b[2K") < 10  # and steps that fly by are not each drawn


def test_a_run_that_dies_leaves_the_cursor() -> None:
    script = (
        "import sys, io; sys.path[:0] = ['tests/report']\n"
        "from test_progress import *\n"
        "progress = Progress(sys.stdout, tty=True)\n"
        "progress(START)\n"
        "raise KeyboardInterrupt"
    )
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert dead.returncode != 0
    assert dead.stdout.count("\x1b[?25l") == dead.stdout.count("\x1b[?25h") == 1


def test_a_stream_that_cannot_spell_gets_what_it_can() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Progress(stream)(Noted(0, "R² is small"))
    assert raw.getvalue().decode("ascii").strip() == "Note: R? is small"


def test_neither_rich_nor_torch_is_imported_before_it_is_used() -> None:
    script = "import sys, wellfit.report.progress; sys.exit(bool({'rich', 'torch', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
