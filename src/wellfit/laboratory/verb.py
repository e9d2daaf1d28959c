"""`wellfit.lab`: runs pathologies, and returns what came of them.

>>> lesson = wellfit.lab("vanishing-gradients", folder="lab")  # draws lab/vanishing-gradients.png
>>> lessons = wellfit.lab(["double-softmax", "log-of-zero"], folder="lab")  # and lab/index.html
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from wellfit.errors import MissingExtra, RecipeError, RunError
from wellfit.laboratory import experiment, pathologies
from wellfit.laboratory.lesson import Lesson, share
from wellfit.laboratory.pathologies import Pathology
from wellfit.report.files import has_matplotlib, write_figure

if TYPE_CHECKING:
    from wellfit.laboratory.experiment import Trial

MOST_SEEDS = 30
PAGE, SHEET = "index.html", "contact-sheet.png"


@overload
def lab(  # type: ignore[overload-overlap]  # a name is a str, which mypy takes for several names as well
    which: str, *, seeds: int = ..., folder: str | os.PathLike[str] | None = ..., quiet: bool = ...
) -> Lesson: ...  # fmt: skip


@overload
def lab(
    which: Iterable[str] | None = ..., *, seeds: int = ..., folder: str | os.PathLike[str] | None = ..., quiet: bool = ...
) -> list[Lesson]: ...  # fmt: skip


def lab(
    which: str | Iterable[str] | None = None, *, seeds: int = 3, folder: str | os.PathLike[str] | None = None, quiet: bool = False
) -> Lesson | list[Lesson]:  # fmt: skip
    """Causes a pathology of training on real digits, lets the doctor name it, and cures it.

    `which` is the name of one, of which the `Lesson` is returned; or several, or None for all there are, of which a list is returned.
    Each program runs with the seeds 0 to `seeds` - 1, watched by the doctor, in a process of its own. Into `folder`, if one
    is given, a picture NAME.png of each is drawn, and of several also a page, index.html, and a contact sheet. `quiet`
    leaves out the line for each run that goes to standard error.

    Raises RecipeError for a name or number that cannot be, MissingExtra where there is no matplotlib to draw, and RunError if
    a program fails or the folder cannot be written.
    """
    found = [pathologies.find(which)] if isinstance(which, str) else chosen(which)
    check_seeds(seeds)
    place = None if folder is None else opened(Path(folder))
    lessons = []
    for lesson in lessons_of(found, seeds, quiet=quiet):
        lessons.append(lesson)
        if place is not None:
            draw(lesson, place / f"{lesson.pathology.name}.png")
    if isinstance(which, str):
        return lessons[0]
    if place is not None:
        bind(lessons, place)
    return lessons


def chosen(names: Iterable[str] | None) -> list[Pathology]:
    """Those of the names, each once, or all. Raises RecipeError for a name that there is not, and for none."""
    if names is None:
        return list(pathologies.PATHOLOGIES.values())
    found = list(dict.fromkeys(map(pathologies.find, names)))
    if not found:
        raise RecipeError("No pathology was named; `wellfit lab` lists those there are, and `--all` runs all of them.")
    return found


def lessons_of(chosen: Sequence[Pathology], seeds: int, *, quiet: bool = False) -> Iterator[Lesson]:
    """Runs the programs of all pathologies, equal ones once, and yields each lesson as soon as its runs are over."""
    programs: dict[str, str] = {}
    for one in chosen:
        for suffix, text in (("", one.faulty), ("-cured", one.cured), ("-healthy", one.healthy)):
            if text not in programs.values():
                programs[f"{one.name}{suffix}"] = text
    names = {text: name for name, text in programs.items()}
    trials: dict[str, list[Trial]] = {name: [] for name in programs}
    waiting = list(chosen)
    for number, (name, trial) in enumerate(experiment.run(programs, range(seeds)), start=1):
        trials[name].append(trial)
        if not quiet:
            _tell(name, trial, number, len(programs) * seeds)
        while waiting:
            needs = [trials[names[text]] for text in (waiting[0].faulty, waiting[0].cured, waiting[0].healthy)]
            if any(len(found) < seeds for found in needs):
                break
            faulty, cured, healthy = map(tuple, needs)
            yield Lesson(waiting.pop(0), faulty, cured, healthy)


def opened(folder: Path) -> Path:
    """The folder for pictures, made if it is not there, before anything runs."""
    if not has_matplotlib():
        raise MissingExtra("matplotlib", "pictures", "Drawing the lab's pictures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be made: {error.strerror}. Name another one for the pictures.") from None  # fmt: skip
    return folder


def draw(lesson: Lesson, file: Path) -> Path:
    """Writes the picture of a lesson, as PNG, SVG or PDF by the file's ending."""
    from wellfit.laboratory.slide import slide

    return write_figure(slide(lesson), file)


def bind(lessons: Sequence[Lesson], folder: Path) -> Path:
    """Writes the page of several lessons, and the contact sheet beside it. Returns the page."""
    from wellfit.laboratory import page
    from wellfit.laboratory.slide import contact_sheet

    write_figure(contact_sheet(lessons), folder / SHEET)
    return page.write(lessons, folder / PAGE)


def check_seeds(seeds: int) -> None:
    """Raises RecipeError for a number of seeds that cannot be."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise RecipeError(
            f"The lab was asked for {seeds} seeds; it takes 1 to {MOST_SEEDS}, and 3 are enough to see the spread."
        )


def _tell(name: str, trial: Trial, number: int, total: int) -> None:
    """One line for a run."""
    said = trial.findings[0]["id"] if trial.findings else "nothing"
    print(
        f"[{number}/{total}] {name}, seed {trial.seed}: held-out accuracy {share(trial.accuracy[-1])}; the doctor: {said}",
        file=sys.stderr,
        flush=True,
    )
