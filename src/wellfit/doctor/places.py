"""Where in somebody's program something happens: the first frames that are neither torch's nor ours.

>>> place()
'train.py:31'
"""

import linecache
import os
import sys
import sysconfig
import weakref
from functools import lru_cache
from types import FrameType
from typing import Any

_OURS = os.path.dirname(os.path.abspath(__file__))
_LIBRARY = sysconfig.get_paths()["stdlib"]
_INNER = (f"{os.sep}torch{os.sep}", f"{os.sep}contextlib.py", f"{os.sep}keras{os.sep}", f"{os.sep}accelerate{os.sep}")


@lru_cache(maxsize=4096)
def _inner(filename: str) -> bool:
    """Whether the file belongs to torch, to the doctor or to Python itself."""
    if filename.startswith(("<frozen", _OURS)) or filename == "<string>":
        return True
    return any(part in filename for part in _INNER) or (
        filename.startswith(_LIBRARY) and "site-packages" not in filename
    )


def keras_optimizer() -> Any:
    """A weak reference to the optimizer of the Keras model that is being fitted, from the frames above; None where none is."""
    frame: FrameType | None = sys._getframe(1) if "keras" in sys.modules else None
    while frame is not None:
        optimizer = getattr(frame.f_locals.get("self"), "optimizer", None)
        if optimizer is not None and hasattr(optimizer, "learning_rate"):
            return weakref.ref(optimizer)
        frame = frame.f_back
    return None


def outer(frame: FrameType | None) -> FrameType | None:
    """The first frame of the program itself, from `frame` outwards."""
    while frame is not None and _inner(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def key(depth: int = 3) -> tuple[tuple[str, int], ...]:
    """The innermost lines of the program that led here: equal keys, equal way."""
    frame = outer(sys._getframe(1))
    found: list[tuple[str, int]] = []
    while frame is not None and len(found) < depth:
        if frame.f_code.co_filename.startswith("<frozen runpy"):
            break  # whoever started the program
        if not _inner(frame.f_code.co_filename):
            found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def place() -> str:
    """`file:line` of the program, or nothing where there is none."""
    frame = outer(sys._getframe(1))
    return f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else ""


def shown(line: tuple[str, int]) -> str:
    """One line of a key, as `file:line`."""
    return f"{_shown(line[0])}:{line[1]}"


def text(line: tuple[str, int]) -> str:
    """What stands there."""
    return linecache.getline(*line).strip()


@lru_cache(maxsize=4096)
def _shown(filename: str) -> str:
    try:
        relative = os.path.relpath(filename)
    except ValueError:
        return filename
    return filename if relative.startswith("..") else relative
