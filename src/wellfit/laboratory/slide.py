"""A lesson as a picture for a lecture: what is wrong, both curves, what the doctor said, and the cure.

The width of every text is measured before it is set, so that nothing runs over anything else; where a card's text is long, its
letters become a little smaller. Colours are told apart by all eyes (Okabe & Ito 2008), and curves by the mark at their end as well.

    >>> slide(lesson).savefig("lab/vanishing-gradients.png")
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wellfit.errors import MissingExtra
from wellfit.laboratory.experiment import Trial
from wellfit.laboratory.lesson import Lesson, Spread
from wellfit.laboratory.pathologies import CHANCE
from wellfit.report.words import count, superscript

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE, DPI = (13.333, 7.5), 144  # inches, 16 to 9: 1,920 by 1,080 dots
MARGIN, GAP = 0.5, 0.24
NARROWEST = 11.0  # of a contact sheet, inches: its head needs them
SMOOTH = 12  # steps over which the training loss is averaged
FAR = 12.0  # times the loss of guessing from which on the loss is drawn on a logarithmic axis
HIGHEST = 1e6  # losses beyond it leave the picture
SMALLEST, LARGEST = 8.0, 14.5  # letters of a card, in points
LINE = 1.32 / 72  # inches from a line to the next, for letters of one point
SPLITS = (
    (1 / 3, 1 / 3, 1 / 3),
    (0.37, 0.26, 0.37),
    (0.3, 0.36, 0.34),
    (0.28, 0.42, 0.3),
    (0.34, 0.28, 0.38),
)  # of the cards
SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"  # matplotlib brings them
NAMES = {"faulty": "with the fault", "cured": "cured", "healthy": "healthy: without either"}
MARKS = {"faulty": "X", "cured": "o", "healthy": ""}


@dataclass(frozen=True)
class Ink:
    """The colours of a picture."""

    paper: str
    ink: str
    muted: str
    rule: str
    tint: str
    faulty: str
    cured: str

    def of(self, kind: str) -> str:
        return {"faulty": self.faulty, "cured": self.cured}.get(kind, self.muted)


LIGHT = Ink("#ffffff", "#1c2024", "#5b646d", "#d5d9de", "#f5f6f8", "#D55E00", "#0072B2")
DARK = Ink("#15181b", "#e4e7ea", "#98a2ad", "#353c43", "#1d2125", "#ff9a52", "#5fb8ec")


def slide(lesson: Lesson) -> Figure:
    """The whole picture, 13.3 by 7.5 inches."""
    fig = _figure(*SIZE, LIGHT)
    one, ink = lesson.pathology, LIGHT
    width, height = SIZE
    inner = width - 2 * MARGIN
    y = height - 0.42
    _text(fig, MARGIN, y, one.title, 27, ink.ink, weight="bold")
    y -= 0.66
    lines = fitted(" ".join(one.explains).replace("`", ""), inner, 15.5)
    _text(fig, MARGIN, y, "\n".join(lines), 15.5, ink.ink)
    y -= 0.285 * len(lines) + 0.2
    _legend(fig, lesson, y, ink)
    top, bottom = y - 0.85, 3.12
    kinds = kinds_of(lesson)
    left, between = 0.62, 0.75
    wide = (inner - left - between * (len(kinds) - 1)) / len(kinds)
    for i, kind in enumerate(kinds):
        x = MARGIN + left + i * (wide + between)
        axes = fig.add_axes((x / width, bottom / height, wide / width, (top - bottom) / height))
        draw(axes, lesson, kind, ink, size=13)
    _cards(fig, lesson, ink, 2.5, 0.55)
    trained = f"scikit-learn's handwritten digits, 500 of 1,797 held out; {count(len(lesson.seeds), 'seed')}"
    _text(fig, MARGIN, 0.36, f"wellfit lab {one.name}   ·   {trained}", 10.5, ink.muted)
    _text(fig, width - MARGIN, 0.36, one.source, 10.5, ink.muted, ha="right")
    return fig


def panel(lesson: Lesson, kind: str, ink: Ink = LIGHT) -> Figure:
    """One of the curves alone, for a page: loss, accuracy or gradients."""
    fig = _figure(5.2, 3.3, ink)
    axes = fig.add_axes((0.135, 0.165, 0.83, 0.68))
    draw(axes, lesson, kind, ink, size=11)
    return fig


def contact_sheet(lessons: Sequence[Lesson], ink: Ink = LIGHT) -> Figure:
    """All of them, small: the held-out accuracy with the fault and with the cure."""
    across = min(5, max(1, math.ceil(math.sqrt(len(lessons)))))
    down = math.ceil(len(lessons) / across)
    wide, high, head = 3.1, 2.25, 1.15
    width, height = max(wide * across + 0.5, NARROWEST), high * down + head + 0.2
    fig = _figure(width, height, ink)
    named = sum(lesson.found is not None for lesson in lessons)
    _text(fig, 0.35, height - 0.28, "What can go wrong with a training, and what cures it", 22, ink.ink, weight="bold")
    told = f"held-out accuracy over the steps of training; the doctor named {named} of {len(lessons)}"
    _text(fig, 0.35, height - 0.76, told, 13, ink.muted)
    x = width - 0.35
    for kind in ("cured", "faulty"):
        x -= measured(NAMES[kind], 13, weight="bold")
        _text(fig, x, height - 0.76, NAMES[kind], 13, ink.of(kind), weight="bold")
        x -= 0.35
    for i, lesson in enumerate(lessons):
        x, y = 0.35 + wide * (i % across), height - head - high * (i // across + 1)
        axes = fig.add_axes(((x + 0.42) / width, (y + 0.32) / height, (wide - 0.72) / width, (high - 0.95) / height))
        _curves(axes, lesson, "accuracy", ink, healthy=False)
        _accuracy_axis(axes, ink)
        _bare(axes, ink, 9)
        axes.set_xticks([])
        size = 12.5
        while measured(lesson.pathology.title, size, weight="bold") > wide - 0.3:
            size -= 0.25
        _text(fig, x, y + high - 0.05, lesson.pathology.title, size, ink.ink, weight="bold")
        said = lesson.pathology.finding if lesson.found is not None else "not named"
        _text(fig, x, y + high - 0.29, said, 9.5, ink.muted, family=MONO)
    return fig


def kinds_of(lesson: Lesson) -> tuple[str, ...]:
    """Which curves are shown of a pathology."""
    return ("loss", "accuracy", "gradients") if lesson.pathology.gradients else ("loss", "accuracy")


def draw(axes: Axes, lesson: Lesson, kind: str, ink: Ink, size: float) -> None:
    """One of the curves into given axes."""
    if kind == "gradients":
        _gradients(axes, lesson, ink, size)
        title, below = "Gradient norm by layer, step 1", "layer, from the input"
    else:
        _curves(axes, lesson, kind, ink)
        if kind == "accuracy":
            _accuracy_axis(axes, ink)
            title = "Held-out accuracy"
        else:
            title = _loss_axis(axes, lesson, ink, size)
        below = "optimizer step"
        _mark(axes, lesson, ink, size)
    _bare(axes, ink, size)
    axes.set_xlabel(below, fontsize=size - 0.5, color=ink.muted, labelpad=2)
    axes.annotate(
        title, (0, 1), xytext=(0, size * 1.75), xycoords="axes fraction", textcoords="offset points", fontsize=size + 0.5,
        color=ink.ink, weight="bold", va="bottom", ha="left", parse_math=False,
    )  # fmt: skip


# ---- curves


def _curves(axes: Axes, lesson: Lesson, kind: str, ink: Ink, healthy: bool = True) -> None:
    """The mean over seeds, and a band from the lowest to the highest, of each program; the healthy one below the others."""
    for of in ("healthy", "cured", "faulty"):  # the fault on top, for both may be one curve until it strikes
        if of == "healthy" and (lesson.pathology.undone or not healthy):
            continue
        trials, colour = lesson.trials(of), ink.of(of)
        ways: list[tuple[str, str]] = [(kind, "solid")]
        if kind == "loss" and lesson.pathology.held_out_loss and of != "healthy":
            ways.append(("held_out_loss", "dashed"))
        for what, style in ways:
            steps, values = series(trials, what)
            if what == "loss":
                values = smoothed(values)
            mean, low, high = (_over(values, how) for how in (np.mean, np.min, np.max))
            if len(trials) > 1 and of != "healthy":
                axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            line: dict[str, Any] = dict(color=colour, linewidth=2.6, zorder=3)
            if of == "healthy":
                line |= dict(linewidth=1.6, linestyle=(0, (4, 2.5)), zorder=2)
            elif style == "dashed":
                line |= dict(linewidth=2.0, linestyle=(0, (2, 1.4)))
            axes.plot(steps, mean, **line)
            known = np.flatnonzero(np.isfinite(mean))
            if MARKS[of] and len(known):
                at = known[-1]
                axes.plot(
                    steps[at], min(mean[at], HIGHEST), MARKS[of], color=colour, markersize=9, markeredgecolor=ink.paper,
                    markeredgewidth=1.0, zorder=4, clip_on=False,
                )  # fmt: skip


def series(trials: Sequence[Trial], what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Steps [T] and values [seed, T] of a curve of several runs, as long as the shortest of them."""
    steps = [trial.steps if what == "loss" else trial.evaluated for trial in trials]
    least = min(map(len, steps))
    return np.asarray(steps[0][:least], float), np.asarray([getattr(trial, what)[:least] for trial in trials], float)


def smoothed(values: NDArray[Any], width: int = SMOOTH) -> NDArray[Any]:
    """The running mean [seed, T] over the steps around each, of those values that are finite. What is not stays a gap."""
    half, finite = width // 2, np.isfinite(values)
    kept = np.where(finite, values, 0.0)
    means = np.full(values.shape, math.nan)
    for i in range(values.shape[1]):
        near = slice(max(0, i - half), i + half + 1)
        known = finite[:, i]
        means[known, i] = kept[known, near].sum(1) / finite[known, near].sum(1)
    return means


def _over(values: NDArray[Any], how: Any) -> NDArray[Any]:
    """A number over those seeds that are finite at a step; NaN where none is."""
    kept = [column[np.isfinite(column)] for column in values.T]
    return np.asarray([how(column) if len(column) else math.nan for column in kept])


def _gradients(axes: Axes, lesson: Lesson, ink: Ink, size: float) -> None:
    """The norm of the gradient of each weight matrix at the first step, on a logarithmic axis. Zeros stand below it, and are said to be zeros."""
    found = {of: np.asarray([trial.gradients[trial.steps[0]] for trial in lesson.trials(of)]) for of in ("faulty", "cured")}  # fmt: skip
    positive = np.concatenate([values[values > 0] for values in found.values()])
    least = 10 ** (math.floor(math.log10(positive.min())) - 1) if len(positive) else 1e-8
    for of, values in found.items():
        layers = np.arange(1, values.shape[1] + 1)
        low, mean, high = values.min(0), np.exp(np.log(np.maximum(values, least)).mean(0)), values.max(0)
        if len(values) > 1:
            axes.fill_between(
                layers, np.maximum(low, least), np.maximum(high, least), color=ink.of(of), alpha=0.2, linewidth=0
            )
        axes.plot(
            layers, mean, MARKS[of] + "-", color=ink.of(of), linewidth=2.4, markersize=8, markeredgecolor=ink.paper,
            clip_on=False, zorder=3,
        )  # fmt: skip
        if not high.any():
            axes.annotate(
                "exactly 0", (float(layers.mean()), least), xytext=(0, 9), textcoords="offset points", ha="center", va="bottom",
                color=ink.of(of), fontsize=size, weight="bold",
            )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=least)
    axes.set_xticks(layers if len(layers) <= 8 else layers[::2])
    _decades(axes)


# ---- axes


def _accuracy_axis(axes: Axes, ink: Ink) -> None:
    axes.set_ylim(0, 1.0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25", "50", "75", "100 %"])
    axes.axhline(CHANCE, color=ink.muted, linewidth=1.3, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(left=0)


def _loss_axis(axes: Axes, lesson: Lesson, ink: Ink, size: float) -> str:
    """Logarithmic where the loss leaves its range, or is to be shown down to nothing. Returns the title."""
    guess = _guessing(lesson)
    drawn = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    values = np.concatenate([line[np.isfinite(line)] for line in drawn])
    highest, lowest = float(values.max(initial=guess)), float(values.min(initial=guess))
    is_log = lesson.pathology.log or highest > FAR * guess
    if is_log and lowest > 0:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.6, min(highest, HIGHEST) * 2)
        _decades(axes)
    else:
        axes.set_ylim(min(0.0, lowest), highest * 1.08)
        axes.locator_params(axis="y", nbins=5)
    axes.axhline(guess, color=ink.muted, linewidth=1.3, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlim(left=0)
    _ends(axes, lesson, ink, size)
    title = "Training loss" + (", dashed: held-out loss" if lesson.pathology.held_out_loss else "")
    return f"{title} (logarithmic)" if is_log else title


def _guessing(lesson: Lesson) -> float:
    """The loss of a model that knows nothing: of one question with ten answers, or of ten with two."""
    return 10 * math.log(2) if "BCEWithLogitsLoss" in lesson.pathology.cured else math.log(10)


def _ends(axes: Axes, lesson: Lesson, ink: Ink, size: float) -> None:
    """Where the loss of the faulty program stops being a number."""
    steps = [
        next((s for s, x in zip(t.steps, t.loss, strict=True) if not math.isfinite(x)), None) for t in lesson.faulty
    ]
    broken = sorted(step for step in steps if step is not None)
    if not broken:
        return
    last = lesson.faulty[0].steps[-1]
    where = f"step {broken[0]}" if broken[0] == broken[-1] else f"steps {broken[0]} to {broken[-1]}"
    late = broken[-1] > 0.6 * last
    axes.annotate(
        f"NaN from {where} on", (broken[-1], 0.8), xycoords=("data", "axes fraction"), xytext=(-8 if late else 10, 0),
        textcoords="offset points", ha="right" if late else "left", va="top", color=ink.faulty, fontsize=size, weight="bold", zorder=5,
        bbox=dict(facecolor=ink.paper, edgecolor="none", pad=1.5, alpha=0.85),
    )  # fmt: skip


def _mark(axes: Axes, lesson: Lesson, ink: Ink, size: float) -> None:
    """Where the doctor spoke."""
    if lesson.found is None:
        return
    step, last = lesson.found.told_at, lesson.faulty[0].steps[-1]
    axes.axvline(step, color=ink.ink, linewidth=1.4, linestyle=(0, (4, 3)), zorder=2)
    late = step > 0.6 * last
    text = "the doctor, at the end ▾" if lesson.found.at_the_end else f"the doctor, step {step} ▾" if late else f"▾ the doctor, step {step}"  # fmt: skip
    axes.annotate(
        text, (step, 1), xycoords=("data", "axes fraction"), xytext=(5 if late else -5, 3), textcoords="offset points",
        ha="right" if late else "left", va="bottom", color=ink.ink, fontsize=size - 1,
    )  # fmt: skip


def _decades(axes: Axes) -> None:
    """A few powers of ten as ticks."""
    low, high = (math.log10(end) for end in axes.get_ylim())
    first, last = math.ceil(low), math.floor(high)
    every = max(1, math.ceil((last - first + 1) / 5))
    powers = list(range(first, last + 1, every))
    plain = powers[0] >= -2 and powers[-1] <= 3
    axes.set_yticks(
        [10.0**power for power in powers],
        [f"{10.0**power:g}" if plain else f"10{superscript(power)}" for power in powers],
    )
    axes.yaxis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _bare(axes: Axes, ink: Ink, size: float) -> None:
    axes.set_facecolor(ink.paper)
    axes.tick_params(colors=ink.muted, labelsize=size - 1, length=3, color=ink.rule)
    axes.grid(axis="y", color=ink.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(ink.rule)


# ---- text


def _legend(fig: Figure, lesson: Lesson, y: float, ink: Ink) -> None:
    """One line: what the curves are."""
    from matplotlib.lines import Line2D

    size, x = 13.0, MARGIN
    kinds = ["faulty", "cured"] if lesson.pathology.undone else ["faulty", "cured", "healthy"]
    names = {**NAMES, "cured": "cured, which is the healthy program" if lesson.pathology.undone else "cured"}
    rows: list[tuple[str, dict[str, Any]]] = []
    for kind in kinds:
        style: dict[str, Any] = dict(color=ink.of(kind), linewidth=2.8, marker=MARKS[kind] or None, markersize=8, markeredgecolor=ink.paper)  # fmt: skip
        rows.append((names[kind], style | (dict(linewidth=1.6, linestyle=(0, (4, 2.5))) if kind == "healthy" else {})))
    rows.append(("guessing", dict(color=ink.muted, linewidth=1.3, linestyle=(0, (1, 2)))))
    for name, style in rows:
        fig.add_artist(Line2D([x / SIZE[0], (x + 0.45) / SIZE[0]], [(y - 0.1) / SIZE[1]] * 2, markevery=[1], **style))
        _text(fig, x + 0.58, y, name, size, ink.ink)
        x += 0.58 + measured(name, size) + 0.45
    if len(lesson.seeds) > 1:
        _text(fig, SIZE[0] - MARGIN, y, f"line: mean of {len(lesson.seeds)} seeds; band: lowest to highest", 11.5, ink.muted, ha="right")  # fmt: skip


@dataclass(frozen=True)
class _Piece:
    """Lines of a card, in one style. `gap` is the space above, in letters."""

    text: str
    colour: str
    weight: str = "normal"
    code: bool = False
    gap: float = 0.0

    @property
    def family(self) -> str:
        return MONO if self.code else SANS

    def letters(self, size: float) -> float:
        """Code is set a little smaller: its letters are wide."""
        return size - 1.5 if self.code else size

    def lines(self, size: float, wide: float) -> list[str]:
        return fitted(self.text.replace("`", ""), wide, self.letters(size), self.weight, self.family, code=self.code)

    def width(self, size: float, wide: float) -> float:
        return max(measured(line, self.letters(size), self.weight, self.family) for line in self.lines(size, wide))


def _cards(fig: Figure, lesson: Lesson, ink: Ink, top: float, bottom: float) -> None:
    """Three cards side by side: the fault, the doctor, the cure."""
    from matplotlib.patches import Rectangle

    one, found = lesson.pathology, lesson.found
    head = "The doctor" if found is None else f"The doctor, {lesson.when}"
    said = [_Piece(lesson.doctor_says, ink.ink)]
    if found is not None:
        said.insert(0, _Piece(f"{found.severity}: {found.id}", ink.ink, code=True))
        said[1:] = [_Piece(found.says, ink.ink, gap=0.35)]
        if found.cause:
            said.append(_Piece(f"At the end it stands under {found.cause}.", ink.muted, gap=0.35))
    before = [_Piece(f"In: {one.scene_is}.", ink.muted)] if one.scene_is else []
    cards = [
        (f"The fault: {_right(lesson.accuracy('faulty'))}", ink.faulty, [*before, *_coded(one.fault_diff, ink.faulty, ink)]),
        (head, ink.ink, said),
        (
            f"The cure: {_right(lesson.accuracy('cured'))}", ink.cured,
            [_Piece(one.words.words, ink.ink), *_coded(one.cure_diff, ink.cured, ink)],
        ),
    ]  # fmt: skip
    inner, high = SIZE[0] - 2 * MARGIN - 2 * GAP, top - 0.47 - bottom - 0.08
    texts = [(title, pieces) for title, _, pieces in cards]
    widths = [
        inner * part for part in max(SPLITS, key=lambda parts: _least(texts, [inner * part for part in parts], high))
    ]
    x = MARGIN
    for (title, colour, pieces), wide in zip(cards, widths, strict=True):
        for y, tall, filled in ((bottom, top - bottom, ink.tint), (top, 0.05, colour)):
            fig.add_artist(
                Rectangle(
                    (x / SIZE[0], y / SIZE[1]), wide / SIZE[0], tall / SIZE[1], color=filled, linewidth=0, zorder=0
                )
            )
        _text(fig, x + 0.15, top - 0.1, title, _head_size(title, wide), colour, weight="bold")
        _set(fig, pieces, x + 0.15, top - 0.47, wide - 0.3, high)
        x += wide + GAP


def _least(texts: Sequence[tuple[str, Sequence[_Piece]]], widths: Sequence[float], high: float) -> float:
    """The smallest letters that cards of such widths would need."""
    return min(
        min(_size(pieces, wide - 0.3, high), _head_size(title, wide) - 1)
        for (title, pieces), wide in zip(texts, widths, strict=True)
    )


def _head_size(title: str, wide: float) -> float:
    return min(15.0, 15.0 * (wide - 0.3) / measured(title, 15.0, weight="bold"))


def _right(accuracy: Spread) -> str:
    return f"{100 * accuracy.mean:.0f} % right"


def _coded(lines: Sequence[str], colour: str, ink: Ink) -> list[_Piece]:
    """A diff: what comes has the card's colour, what goes is muted, unless nothing comes."""
    pieces, only_goes = [], not any(line.startswith("+") for line in lines)
    for i, line in enumerate(lines):
        matters = line.startswith("+") or (only_goes and line.startswith("-"))
        text = line.replace("- ", "− ", 1) if line.startswith("-") else line
        look = (colour, "bold") if matters else (ink.muted, "normal")
        pieces.append(_Piece(text, *look, code=True, gap=0.0 if i else 0.35))
    return pieces


def _set(fig: Figure, pieces: Sequence[_Piece], x: float, top: float, wide: float, high: float) -> None:
    """Sets the pieces one below the other, with letters as large as fit into the place. Backticks are for pages and terminals."""
    size = _size(pieces, wide, high)
    y = top
    for piece in pieces:
        y -= size * LINE * piece.gap
        for line in piece.lines(size, wide):
            _text(fig, x, y, line, piece.letters(size), piece.colour, weight=piece.weight, family=piece.family)
            y -= size * LINE


def _size(pieces: Sequence[_Piece], wide: float, high: float) -> float:
    """The largest letters, in points, in which the pieces fit into a place."""
    size = LARGEST
    while size > SMALLEST:
        needs = sum(size * LINE * (len(piece.lines(size, wide)) + piece.gap) for piece in pieces)
        if needs <= high and all(piece.width(size, wide) <= wide for piece in pieces):
            break
        size -= 0.25
    return size


def fitted(
    text: str, wide: float, size: float, weight: str = "normal", family: str = SANS, code: bool = False
) -> list[str]:
    """The text in lines no wider than `wide` inches. Code goes on indented."""
    indent = re.match(r"[−+-]?\s*", text)
    hang = " " * (len(indent[0]) + 4) if code and indent else ""
    lines, line, wide = [], "", 0.98 * wide  # a renderer rounds letters to dots
    words = re.findall(r"[−+]\s+\S+|\s*\S+" if code else r"\s*\S+", text)  # a sign stays with what it stands before
    for word in words:
        longer = line + word
        if line.strip() and measured(longer, size, weight, family) > wide:
            lines.append(line)
            line = hang + word.strip()
        elif not code and not line:
            line = word.strip()
        else:
            line = longer
    return [*lines, line]


def measured(text: str, size: float, weight: str = "normal", family: str = SANS) -> float:
    """How wide a text is, in inches: its words, and the spaces between them."""
    words = text.split(" ")
    return size * (
        sum(_advance(word, weight, family) for word in words) + _advance(" ", weight, family) * (len(words) - 1)
    )


@lru_cache(maxsize=4096)
def _advance(word: str, weight: str, family: str) -> float:
    """The width of a word in letters of one point, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font = FontProperties(family=family, size=100, weight=weight)
    inside, beside = (
        TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] for text in (f"n{word}n", "nn")
    )
    return float(inside - beside) / 7200  # between two letters, so that what is empty around it counts


def _text(
    fig: Figure, x: float, y: float, text: str, size: float, colour: str, *, weight: str = "normal", family: str = SANS,
    ha: str = "left",
) -> None:  # fmt: skip
    """A text whose upper corner lies at x, y, in inches from below and from the left."""
    width, height = fig.get_size_inches()
    fig.text(
        x / width, y / height, text, fontsize=size, color=colour, weight=weight, family=family, ha=ha, va="top",
        linespacing=1.25, parse_math=False,
    )  # fmt: skip


def _figure(width: float, height: float, ink: Ink) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "pictures", "Drawing a picture") from None
    return Figure(figsize=(width, height), dpi=DPI, facecolor=ink.paper)
