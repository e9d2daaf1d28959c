"""A data set of the Hugging Face hub, by name, as files that the other readers take.

`data.source=hf:stanfordnlp/sst2` (or `hf:NAME:CONFIG`) is fetched once with the `datasets` library and kept below
`~/.cache/wellfit/hub` (or `$WELLFIT_CACHE/hub`): rows and texts as one Parquet file for each part, pictures as folders by class.
From then on no network is needed, and a resumed run reads the same files. Nothing of a data set is executed.

    >>> paths = fetched("hf:stanfordnlp/sst2")
    >>> paths["train"]
    PosixPath('/home/me/.cache/wellfit/hub/stanfordnlp--sst2/train.parquet')
"""

import os
import shutil
from numbers import Integral
from pathlib import Path
from typing import Any

from wellfit.data.paths import VALID_FOLDERS
from wellfit.errors import DataError, MissingExtra

PREFIX = "hf:"
DONE = ".complete"  # in a folder that was written whole


def cache() -> Path:
    """Where fetched sets are kept."""
    chosen = os.environ.get("WELLFIT_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "wellfit") / "hub"


def fetched(source: str) -> dict[str, Path]:
    """Where each part of a set lies: "train", and "valid" and "test" if it has them with labels.

    Raises DataError if the set cannot be reached or has no training part, MissingExtra without the `datasets` library.
    """
    name, _, config = source.removeprefix(PREFIX).partition(":")
    if not name.strip():
        raise DataError(
            f"`data.source` is {source!r}; name a data set of the hub after the colon, such as hf:stanfordnlp/sst2."
        )
    folder = cache() / f"{name}:{config}".rstrip(":").replace("/", "--").replace(":", "--")
    if not (folder / DONE).exists():
        _fetch(name, config or None, folder)
    return {part: path for part in ("train", "valid", "test") if (path := _there(folder, part)) is not None}


def _there(folder: Path, part: str) -> Path | None:
    return next((path for path in (folder / f"{part}.parquet", folder / part) if path.exists()), None)


def _fetch(name: str, config: str | None, folder: Path) -> None:
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "hub", "Reading a data set of the Hugging Face hub") from None
    try:
        found: Any = datasets.load_dataset(name, config)
    except Exception as error:  # the library raises errors of many kinds, its own and the network's
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"The data set {name!r} cannot be fetched from the Hugging Face hub: {why}. Check the name and the connection; "
            "without one, name the path of a copy on this machine."
        ) from None
    parts = {"train": "train", "test": "test"} | dict.fromkeys(VALID_FOLDERS, "valid")
    here = {parts[split]: found[split] for split in found if split in parts}
    if "train" not in here:
        raise DataError(
            f"The data set {name!r} has the parts {', '.join(found)}, and none of them is `train`, to learn from."
        )
    making = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for part, rows in here.items():
        if part == "train" or _labelled(rows):
            _write(rows, making / part, name)
    (making / DONE).touch()
    shutil.rmtree(folder, ignore_errors=True)
    making.replace(folder)


def _labelled(rows: Any) -> bool:
    """Whether a held-out part says what its samples are; those of contests often have -1 for all."""
    column = next((name for name in ("label", "labels") if name in rows.column_names), None)
    return column is None or any(value not in (-1, None) for value in rows[column])


def _write(rows: Any, path: Path, name: str) -> None:
    """One part, with the names of classes in place of their numbers."""
    features = rows.features
    names = {column: feature.names for column, feature in features.items() if hasattr(feature, "names")}
    pictures = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
    if not pictures:
        frame = rows.to_pandas()
        for column, among in names.items():
            frame[column] = [_called(value, among) for value in frame[column]]
        frame.to_parquet(path.with_suffix(".parquet"))
        return
    if len(names) != 1:
        raise DataError(
            f"The data set {name!r} holds pictures with {len(names)} columns of classes; pictures are read with exactly one."
        )
    (column, among), (picture, *_) = next(iter(names.items())), pictures
    for i, row in enumerate(rows):
        folder = path / str(_called(row[column], among)).replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        row[picture].convert("RGB" if row[picture].mode not in ("L", "1") else "L").save(folder / f"{i:07d}.png")


def _called(value: Any, names: list[str]) -> Any:
    return names[int(value)] if isinstance(value, Integral) and 0 <= int(value) < len(names) else value
