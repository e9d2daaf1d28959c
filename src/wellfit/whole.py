"""Files written whole or not at all: beside their place first, then moved onto it, so a reader never sees half of one.

>>> write(Path("answers.json"), "{}", "Name another file.")
>>> with whole(Path("trace.json.gz"), "Name another file.") as part:
...     part.write_bytes(packed)
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from wellfit.errors import RunError


@contextlib.contextmanager
def whole(path: Path, remedy: str) -> Iterator[Path]:
    """A place beside `path` to write to; what lies there when the block ends becomes `path`, and is gone if it raises.

    Raises RunError for what the system refuses, within the block too: what happened, then the `remedy`.
    """
    part = path.with_name(f".{path.name[:200]}-{secrets.token_hex(4)}")
    try:
        try:
            yield part
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as refused:
        raise RunError(f"{path} cannot be written: {refused.strerror or refused}. {remedy}") from None


def write(path: Path, content: str | bytes, remedy: str, *, folder_too: bool = False) -> None:
    """The content as the file, text as UTF-8 in which what has no code there is a question mark. Raises as `whole` does."""
    with whole(path, remedy) as part:
        if folder_too:
            path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
