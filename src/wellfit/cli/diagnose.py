"""`wellfit doctor`, `check` and `trace`: what they print, and what they write into a file."""

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellfit.doctor import words
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import Finding
from wellfit.errors import ScriptError
from wellfit.recipe import Recipe
from wellfit.report.words import clean
from wellfit.run import RECIPE, Run
from wellfit.whole import write

STRICT = 3


def diagnosed(program: str, arguments: Sequence[str], module: bool, file: Path | None, strict: bool) -> int:
    """Watches or re-reads, tells, and returns the exit status: the script's own, or 3 under `strict`."""
    writable(file)

    def found(finding: Finding) -> None:
        print(clean(words.line(finding)), file=sys.stderr, flush=True)
        _write(file, doctor)

    doctor = Doctor(found)
    _write(file, doctor)
    status = (
        _reread(Path(program), doctor)
        if not module and (Path(program) / RECIPE).is_file()
        else _watched(program, arguments, module, doctor)
    )
    findings = doctor.findings()
    _write(file, doctor)
    for failure in doctor.failures:
        print(f"wellfit: the doctor itself failed and left; the training was not touched. {failure}", file=sys.stderr)
    told = "\n".join(map(clean, words.listed(findings).split("\n")))  # names come from a program, or somebody's run
    print(f"\nwellfit doctor: {told}", file=sys.stderr, flush=True)
    return STRICT if strict and not status and doctor.trouble() else status


def checked(recipe: Recipe, file: Path | None) -> int:
    """The pre-flight of a recipe, printed; returns 3 where a check failed, else 0."""
    from wellfit import examine

    writable(file)
    found = examine.check_recipe(recipe)
    print(found)
    if found.trace is not None:
        print(f"\n{found.trace.shapes()}")
    keep(file, found.as_dict())
    return STRICT if found.failed else 0


def traced(recipe: Recipe, shapes: bool, file: Path | None) -> None:
    """One step of a recipe, layer by layer, printed."""
    from wellfit import examine

    writable(file)
    told = examine.trace_recipe(recipe)
    print(told.shapes() if shapes else told)
    keep(file, told.as_dict())


def writable(file: Path | None) -> None:
    if file is not None and not file.resolve().parent.is_dir():
        raise ScriptError(f"{file} cannot be written: there is no folder {file.resolve().parent}.")


def _watched(program: str, arguments: Sequence[str], module: bool, doctor: Doctor) -> int:
    from wellfit.doctor import script

    status, error = script.run(program, arguments, doctor, module=module)
    if error is not None:
        traceback.print_exception(error.with_traceback(script.own(error)))
    if not doctor.histories or not any(history.step for history in doctor.histories.values()):
        print(
            "wellfit: no training step was seen: no optimizer stepped, and no weights were updated after `backward`.",
            file=sys.stderr,
        )
    return status


def _reread(folder: Path, doctor: Doctor) -> int:
    run = Run.open(folder)
    for event in run.events():
        doctor.see(event)
    doctor.end()
    if run.torn:
        print(
            f"wellfit: {run.torn} line(s) of {folder}/events.jsonl could not be read and were passed over.",
            file=sys.stderr,
        )
    return 0


def _write(file: Path | None, doctor: Doctor) -> None:
    told = {"findings": [finding.as_dict() for finding in doctor.findings()]}
    if doctor.failures:
        told["failures"] = doctor.failures  # type: ignore[assignment]
    keep(file, told)


def keep(file: Path | None, told: dict[str, Any]) -> None:
    """Whole or not at all."""
    if file is None:
        return
    write(file, json.dumps(told, indent=1, ensure_ascii=False), "Name another file.")
