"""Where data lies: paths that must exist, and held-out parts that lie beside the training data.

>>> existing("flowers", "data.source", ["digits"])
"""

from collections.abc import Iterable
from pathlib import Path

from wellfit.errors import DataError
from wellfit.recipe import Data, nearest

VALID_FOLDERS = ("val", "valid", "validation", "dev")


def expanded(path: str, field_name: str) -> Path:
    """The path with `~` as the home it stands for. Raises DataError where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(
            f"`{field_name}` is {path!r}, and no home folder is known for {path.split('/')[0]!r}. Write the path in full."
        ) from None


def existing(path: str, field_name: str, sets: Iterable[str] = ()) -> Path:
    """The path, or an error that names what is there instead, and the embedded sets that could have been meant."""
    here = expanded(path, field_name)
    if here.exists():
        return here
    siblings = (
        [sibling.name for sibling in here.parent.iterdir() if sibling.name[0] != "."] if here.parent.is_dir() else []
    )
    near = nearest(path, sets) or nearest(here.name, siblings)
    allowed = f" It can be the path of your data, or an embedded set: {', '.join(sets)}." if sets else ""
    raise DataError(f"`{field_name}` is {path!r}, and nothing is there.{near}{allowed}")


def separate(data: Data) -> dict[str, Path]:
    """Validation and test sets that have a path of their own, or lie beside a folder `train`."""
    root, found = expanded(data.source, "data.source"), {}
    if root.is_dir() and (root / "train").is_dir():
        for part, names in (("valid", VALID_FOLDERS), ("test", ("test",))):
            there = next((root / name for name in names if (root / name).is_dir()), None)
            if there is not None:
                found[part] = there
    for part in ("valid", "test"):
        named = getattr(data, part)
        if named is not None:
            found[part] = existing(named, f"data.{part}")
    return found
