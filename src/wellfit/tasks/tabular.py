"""Rows of a table into a class or a number: standardised columns, an MLP, and classical baselines beside it.

For numbers, the network works on the standardised target and its last layer brings the output back into the target's
unit, so predictions need nothing else; the loss is taken in standard deviations, so that Huber's delta and the learning
rate do not depend on the unit.

New rows are encoded as the training rows were. A category that no training row had is no category at all: all its inputs
are 0, as they are for a value that was held out. How many rows that concerns is said by a warning.

    >>> predict_class(model, record, [{"age": 41, "town": "Ulm"}])
    [{'class': 'yes', 'confidence': 0.83}]
"""

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data import tables
from wellfit.data.arrays import Loaded
from wellfit.errors import DataError, MissingExtra
from wellfit.models.layers import Standardize, Unstandardize
from wellfit.recipe import Data, Recipe, nearest
from wellfit.tasks.metrics import Classification, Regression
from wellfit.tasks.task import Built, Supervised

AT_ONCE = 4096  # rows that are predicted together


def classification(recipe: Recipe, loaded: Loaded) -> Built:
    rows, classes = loaded.train.inputs, len(loaded.classes)
    network = models.build(recipe.model, tuple(rows.shape[1:]), classes)
    model = _classifier(network, Standardize.of(rows))
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    return Built(Supervised(criterion, Classification()), model, _record(recipe, loaded))


def regression(recipe: Recipe, loaded: Loaded) -> Built:
    rows, targets = loaded.train.inputs, loaded.train.targets
    network = models.build(recipe.model, tuple(rows.shape[1:]), 1)
    scale = targets.std(correction=0).clamp(min=1e-12)
    model = _regressor(network, Standardize.of(rows), Unstandardize(targets.mean(), scale))
    criterion = InDeviations(losses.build(recipe.loss), float(scale))
    return Built(Supervised(criterion, Regression()), model, _record(recipe, loaded))


def network_for_classes(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """The untrained model for columns and classes as a run's record tells them."""
    features = len(_encoding(record).features)
    made = models.build(recipe.model, (features,), len(record["classes"]))
    return _classifier(made, Standardize(torch.zeros(1, features), torch.ones(1, features)))


def network_for_numbers(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """The untrained model for columns as a run's record tells them."""
    features = len(_encoding(record).features)
    made = models.build(recipe.model, (features,), 1)
    back = Unstandardize(torch.zeros(()), torch.ones(()))
    return _regressor(made, Standardize(torch.zeros(1, features), torch.ones(1, features)), back)


def _classifier(network: nn.Module, standardize: Standardize) -> nn.Module:
    return nn.Sequential(OrderedDict(standardize=standardize, network=network))


def _regressor(network: nn.Module, standardize: Standardize, back: Unstandardize) -> nn.Module:
    return nn.Sequential(
        OrderedDict(standardize=standardize, network=network, squeeze=nn.Flatten(0), unstandardize=back)
    )


def _record(recipe: Recipe, loaded: Loaded) -> dict[str, Any]:
    return {"columns": loaded.columns, "target": recipe.data.target, "missing": recipe.data.missing}


def _encoding(record: Mapping[str, Any]) -> tables.Encoding:
    columns = record["columns"]
    categories = {name: tuple(values) for name, values in columns.get("categories", {}).items()}
    return tables.Encoding(tuple(columns["numeric"]), dict(columns.get("fill", {})), categories)


@dataclass(frozen=True)
class InDeviations:
    """A loss of outputs and targets in units of `scale`, the standard deviation of the training targets."""

    loss: losses.Loss
    scale: float

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs / self.scale, targets / self.scale)

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, outputs, targets)


# ---- what is told of new rows


def predict_class(model: nn.Module, record: Mapping[str, Any], inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """For each row its class and the probability that the model gives it.

    An input is a row, column -> value, or the path of a table (.csv, .tsv, .parquet) whose rows are all taken; for data
    that came as an array, also a list of its numbers. Gaps are treated as the recipe's `data.missing` says. Warns, with
    counts, of categories that no training row had and of columns that are not used. Raises DataError for a column that is
    lacking and for what is no number where one belongs.
    """
    classes = record["classes"]
    return [
        {"class": classes[int(row.argmax())], "confidence": round(float(row.max()), 4)}
        for row in _outputs(model, record, inputs).softmax(-1)
    ]


def predict_number(model: nn.Module, record: Mapping[str, Any], inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """For each row the number that the model expects, in the target's unit. Inputs and errors as for classes."""
    return [{"value": float(value)} for value in _outputs(model, record, inputs)]


@torch.no_grad()
def _outputs(model: nn.Module, record: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    notes: list[str] = []
    rows = torch.cat([_encoded(frame, where, record, notes) for frame, where in _frames(inputs, record, notes)])
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=3)
    model.eval()
    return torch.cat([model(part) for part in torch.split(rows, AT_ONCE)])


def _frames(inputs: Sequence[Any], record: Mapping[str, Any], notes: list[str]) -> list[tuple[Any, Path]]:
    """Tables: one for each path, and one of all rows that were given as such."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "tabular", "Reading rows") from None
    names = record["columns"]["numeric"]
    found: list[tuple[Any, Path]] = []
    rows: list[dict[str, Any]] = []
    for thing in inputs:
        if isinstance(thing, str | Path):
            path = Path(thing).expanduser()
            if not _is_there(path):
                raise DataError(f"There is no table at {path}. Name a .csv, .tsv or .parquet file.")
            found.append((tables.read(path, notes), path))
        elif isinstance(thing, Mapping):
            rows.append({str(name): value for name, value in thing.items()})
        else:
            rows.append(_as_row(thing, names, record))
    if rows:
        if found:
            raise DataError(
                "Rows and paths of tables were given together. Give one or the other, so that the order is clear."
            )
        found.append((pd.DataFrame(rows), tables.GIVEN))
    if not found:
        raise DataError("No row was given. Give rows, column -> value, or the path of a table.")
    return found


def _as_row(thing: Any, names: Sequence[str], record: Mapping[str, Any]) -> dict[str, Any]:
    array = np.asarray(thing.detach().cpu() if isinstance(thing, Tensor) else thing)
    if record["columns"].get("categories") or array.shape != (len(names),):
        raise DataError(
            f"A row is {type(thing).__name__} of shape {list(array.shape)}; it must be a mapping, column -> value, with the columns "
            f"{', '.join([*names, *record['columns'].get('categories', {})][:12])}."
        )
    return dict(zip(names, array.tolist(), strict=True))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for one
        return False


def _encoded(frame: Any, where: Path, record: Mapping[str, Any], notes: list[str]) -> Tensor:
    how = _encoding(record)
    wanted = [*how.numeric, *how.categories]
    lacking = [name for name in wanted if name not in frame.columns]
    if lacking:
        raise DataError(
            f"{where} lacks the column {lacking[0]!r} that the model was trained with.{nearest(lacking[0], frame.columns)} "
            f"It needs {', '.join(wanted[:12])}{' and more' if len(wanted) > 12 else ''}."
        )
    left = [name for name in frame.columns if name not in wanted and name != record.get("target")]
    if left:
        notes.append(
            f"Columns of {where.name} that the model was not trained with are not used: {', '.join(left[:12])}."
        )
    # Data that came as arrays brought no means to fill gaps with, so there a gap is an error.
    filled = record.get("missing") == "mean" and bool(how.fill or how.categories)
    data = Data(source=str(where), missing="mean" if filled else "error")
    return tables.encoded(frame[wanted], how, data, where, notes)
