"""All lessons on one HTML page: no scripts, no network, its pictures inside it, readable on a phone and in the dark.

The template `page.html` lays out what the lessons say; every text is escaped there. The pictures are the curves alone, for light
and for dark, since the words stand beside them as words.

    >>> write(lessons, Path("lab/index.html"))
    PosixPath('lab/index.html')
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wellfit import whole
from wellfit.laboratory.lesson import Lesson, evidence, share
from wellfit.laboratory.slide import DARK, LIGHT, Ink, kinds_of, panel
from wellfit.report.words import count, number

PANEL_DPI = 110  # 572 dots, for about 300 points of a page


class Shown(NamedTuple):
    """A curve: as data addresses for light and dark, and in words."""

    light: str
    dark: str
    told: str


def write(lessons: Sequence[Lesson], file: Path) -> Path:
    """Writes the page, whole or not at all. Raises RunError if it cannot be written."""
    whole.write(file, page(lessons), "Name another folder for the lab.")
    return file


def page(lessons: Sequence[Lesson]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("wellfit", "laboratory"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    return templates.get_template("page.html").render(
        lessons=[(lesson, curves(lesson)) for lesson in lessons],
        named=sum(lesson.found is not None for lesson in lessons),
        seeds=count(len(lessons[0].seeds), "seed"),
        share=lambda spread: share(spread.mean),
        evidence=evidence,
    )


def curves(lesson: Lesson) -> list[Shown]:
    """The curves of a lesson."""
    return [Shown(_address(lesson, kind, LIGHT), _address(lesson, kind, DARK), described(lesson, kind)) for kind in kinds_of(lesson)]  # fmt: skip


def described(lesson: Lesson, kind: str) -> str:
    """A curve for those who cannot see it."""
    if kind == "gradients":
        norms = {
            of: [sum(values) / len(values) for values in zip(*(t.gradients[t.steps[0]] for t in lesson.trials(of)), strict=True)]
            for of in ("faulty", "cured")
        }  # fmt: skip
        first, last = ({of: number(norms[of][i]) for of in norms} for i in (0, -1))
        return (
            f"Gradient norm by layer at step 1. With the fault {first['faulty']} at the first layer and {last['faulty']} at the last; "
            f"cured {first['cured']} and {last['cured']}."
        )
    what, told, of = ("Training loss", number, lesson.loss) if kind == "loss" else ("Held-out accuracy", share, lesson.accuracy)  # fmt: skip
    steps = lesson.faulty[0].steps[-1]
    return f"{what} over {steps:,} steps. At the end with the fault {told(of('faulty').mean)}, cured {told(of('cured').mean)}."  # fmt: skip


def _address(lesson: Lesson, kind: str, ink: Ink) -> str:
    drawn: Any = io.BytesIO()
    panel(lesson, kind, ink).savefig(drawn, format="png", dpi=PANEL_DPI)
    return f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"
