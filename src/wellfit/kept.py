"""What takes long to make and is always the same, kept in the user's cache folder: `$XDG_CACHE_HOME/wellfit`, or `~/.cache/wellfit`.

A name says all that the content depends on, so nothing there can be out of date, and any of it can be deleted. Where the folder
cannot be written, things are made each time.

    >>> remember("answers-3f0a.json", b"{}")
    >>> recalled("answers-3f0a.json")
    b'{}'
"""

import contextlib
import os
from pathlib import Path

from wellfit import whole
from wellfit.errors import RunError


def recalled(name: str) -> bytes | None:
    """What is kept under a name; None where nothing is. It may have been torn by others: check it."""
    try:
        return (_folder() / name).read_bytes()
    except OSError:
        return None


def remember(name: str, content: bytes) -> None:
    """Keeps it, whole or not at all."""
    with contextlib.suppress(RunError):
        whole.write(_folder() / name, content, "", folder_too=True)


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wellfit"
