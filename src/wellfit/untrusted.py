"""Files of a folder that may come from others: read so that what lies there can neither hang nor fill this process.

A named pipe would be waited for, a device read for ever. So only plain files are opened, and what should be small is refused where it
is not.

    >>> plain(folder / "task.json")
    {'classes': ['cat', 'dog']}
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

MOST = 1 << 26  # bytes of a file that is read as a whole


def opened(path: Path) -> IO[bytes]:
    """A plain file, to be read. Raises OSError for anything else, at once."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "It is no plain file", str(path))
    return os.fdopen(handle, "rb")


def content(path: Path, most: int = MOST) -> bytes:
    """All of a small file. Raises OSError where it cannot be read, or is not small."""
    with opened(path) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"It has more than {most:,} bytes", str(path))
    return found


def plain(path: Path, most: int = MOST) -> Any:
    """The JSON of a small file. Raises OSError where it cannot be read, ValueError where it is no JSON."""
    return parsed(content(path, most))


def parsed(text: str | bytes) -> Any:
    """The JSON. Raises ValueError for what is none, or is nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
