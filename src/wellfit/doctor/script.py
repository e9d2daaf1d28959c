"""An unmodified program, run as Python would run it, and watched.

Its output, arguments, exit status and errors are its own. Findings go to standard error as they come, and in a list at
the end.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from wellfit.doctor.doctor import Doctor
from wellfit.doctor.watch import Watch
from wellfit.errors import ScriptError


def run(
    program: str, arguments: Sequence[str], doctor: Doctor, *, module: bool = False
) -> tuple[int, BaseException | None]:
    """Runs a file, or a module by its dotted name. Returns its exit status, and the error that ended it if one did.

    Raises ScriptError where there is no such program.
    """
    path = Path(program)
    if not module and not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ScriptError(f"The script {program} {what}. Give the path of a Python file, or `-m package.module`.")
    before = sys.argv, list(sys.path)
    sys.argv = [program, *arguments]
    sys.path.insert(0, os.getcwd() if module else str(path.resolve().parent))
    status = 0
    ended_by: BaseException | None = None
    try:
        with Watch(doctor):
            if module:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(program, run_name="__main__")
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except ImportError as error:
        if module and error.name == program.split(".")[0]:
            raise ScriptError(
                f"There is no module {program!r} here. Is its folder the current one, or installed?"
            ) from None
        status, ended_by = 1, error
    except KeyboardInterrupt as error:
        status, ended_by = 130, error
    except BaseException as error:
        status, ended_by = 1, error
    finally:
        sys.argv, sys.path[:] = before
    doctor.end()
    return status, ended_by


def own(error: BaseException) -> TracebackType | None:
    """The error's traceback from the program's first frame on, as Python itself would show it."""
    trace = error.__traceback__
    while trace is not None and (
        "runpy" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_code.co_filename == __file__
    ):
        trace = trace.tb_next
    return trace or error.__traceback__
