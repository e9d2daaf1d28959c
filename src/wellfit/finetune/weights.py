"""Weights to start from: read from any usual file, and laid into a model as far as they fit.

A file holds tensors by name: a run's folder, `.safetensors`, a `.pt`, `.pth`, `.th`, `.ckpt` or `.bin` of torch (read without
running code), a NumPy `.npz`. Names differ between libraries by a prefix (`module.`, `model.`, `network.`); where that explains
it, names decide. Where they have nothing in common, but the shapes in the file are the model's in its order, the order
decides. What is left, a head for other classes above all, stays as it was drawn, and is told.

    >>> found = laid_into(model, read("resnet20.th"))
    >>> found.fresh
    ['head.weight', 'head.bias']
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellfit.data.batches import untouched_randomness
from wellfit.errors import DataError, ModelError

NESTS = (
    "state_dict",
    "model_state_dict",
    "model",
    "weights",
    "net",
)  # where checkpoints keep the weights among other things
TORCH, SAFE, NUMPY = (".pt", ".pth", ".th", ".ckpt", ".bin"), (".safetensors",), (".npz",)
ENOUGH = 0.5  # of the model's numbers: with less it is another model's file
COUNTERS = "num_batches_tracked"  # batch norms' counters, which old files lack


@dataclass(frozen=True)
class Laid:
    """What was laid into a model. `fresh` parameters and buffers are as they were; `unused` ones of the file found no place."""

    loaded: list[str]
    fresh: list[str]
    unused: list[str]
    by_order: bool = False

    def __str__(self) -> str:
        how = " by their order, as no names agree" if self.by_order else ""
        rest = f"; new: {_few(self.fresh)}" if self.fresh else ""
        left = f"; not used: {_few(self.unused)}" if self.unused else ""
        return f"{len(self.loaded)} tensors were taken over{how}{rest}{left}."


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file or of a run's best checkpoint, on the CPU, in their order.

    Raises DataError for what is not there, cannot be read without running code, or holds no tensors.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _of_run(path)
    if not path.is_file():
        raise DataError(f"`finetune.weights` is {str(path)!r}, and there is nothing there.")
    ending = path.suffix.lower()
    if ending not in (*TORCH, *SAFE, *NUMPY):
        raise DataError(
            f"`finetune.weights` is {str(path)!r}; it can be the folder of a run, or a file ending in "
            f"{', '.join((*SAFE, *TORCH, *NUMPY))}."
        )
    try:
        found = _opened(path, ending)
    except (OSError, ValueError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path} cannot be read as weights: {' '.join(str(error).split())[:300]}. Whole pickled models are not opened, for that "
            "runs their code; save the `state_dict()`."
        ) from None
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise DataError(f"{path} holds no tensors by name ({', '.join(map(str, list(found)[:5])) or 'it is empty'}).")
    return tensors


def _of_run(path: Path) -> dict[str, Tensor]:
    """The best weights of a run; what it learnt beside frozen ones is added to them."""
    from wellfit.finetune import adapters, shaped
    from wellfit.run import Run
    from wellfit.tasks import KINDS

    run = Run.open(path)
    weights = dict(run.best_weights())
    kind = KINDS.get(str(run.task.get("task")))
    if kind is None or kind.network is None or not any(".base_layer." in name for name in weights):
        return weights
    with untouched_randomness():
        model = shaped(kind.network(run.recipe, run.task), run.recipe, run.task)
    model.load_state_dict(weights)
    return dict(adapters.merge(model).state_dict())


def _opened(path: Path, ending: str) -> Mapping[str, Any]:
    if ending in SAFE:
        from safetensors.torch import load_file

        return load_file(path)
    if ending in NUMPY:
        with np.load(path, allow_pickle=False) as packed:
            return {name: torch.from_numpy(np.ascontiguousarray(packed[name])) for name in packed.files}
    found = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(found, Mapping):
        nest = next((name for name in NESTS if isinstance(found.get(name), Mapping)), None)
        if nest is None:
            return found
        found = found[nest]
    raise ValueError(f"it holds a {type(found).__name__}, not tensors by name")


def laid_into(model: nn.Module, weights: Mapping[str, Tensor]) -> Laid:
    """Copies into the model's parameters and buffers what fits; raises ModelError where less than half of it does."""
    if any(".base_layer." in name for name in weights):
        raise ModelError(
            "The weights have LoRA adapters beside them, which would be left behind. Add them in first: load the run's model, "
            "`wellfit.finetune.adapters.merge(model)`, and save its `state_dict()`."
        )
    state = model.state_dict()
    places = {name: value for name, value in state.items() if not name.endswith(COUNTERS)}
    pairs, by_order = _by_name(state, weights), False
    if not _enough(places, pairs):
        plain = {name: value for name, value in weights.items() if not name.endswith(COUNTERS)}
        pairs, by_order = _by_order(places, plain), True
    if not _enough(places, pairs):
        raise ModelError(
            f"The weights do not fit the model: of its {len(places)} tensors ({_few(list(places))}) "
            f"{len(pairs)} are in the file, which has {len(weights)} ({_few(list(weights))}). Choose the architecture that they "
            "were trained in."
        )
    with torch.no_grad():
        for name, other in pairs.items():
            state[name].copy_(weights[other])
    used = set(pairs.values())
    filled = {state[name].data_ptr() for name in pairs}  # a tied weight has two names and is one tensor
    loaded = [n for n in places if n in pairs]
    fresh = [n for n in places if n not in pairs and not (state[n].numel() and state[n].data_ptr() in filled)]
    return Laid(loaded, fresh, [n for n in weights if n not in used and not n.endswith(COUNTERS)], by_order)


def _by_name(places: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, str]:
    """place -> name in the file, with the prefixes taken off that let most names agree."""
    best: dict[str, str] = {}
    for mine in _prefixes(places):
        for theirs in _prefixes(weights):
            names = {name.removeprefix(theirs): name for name in weights if name.startswith(theirs)}
            found = {
                place: names[place.removeprefix(mine)]
                for place in places
                if place.startswith(mine) and place.removeprefix(mine) in names
            }
            found = {place: name for place, name in found.items() if places[place].shape == weights[name].shape}
            if len(found) > len(best):
                best = found
    return best


def _prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """The beginnings that names share, the empty one first, then the longer ones."""
    found = {""}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:n]) + "." for n in range(1, min(4, len(parts)) + 1)}
    many = {prefix for prefix in found if sum(name.startswith(prefix) for name in names) >= ENOUGH * len(names)}
    return sorted(many, key=len)


def _by_order(places: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The longest common beginning by shape, from the first tensor on whose shape the file begins with."""
    theirs = list(weights)
    mine = list(places)
    start = next((i for i, name in enumerate(mine) if places[name].shape == weights[theirs[0]].shape), len(mine))
    pairs: dict[str, str] = {}
    for place, name in zip(mine[start:], theirs, strict=False):
        if places[place].shape != weights[name].shape:
            break
        pairs[place] = name
    return pairs


def _enough(places: Mapping[str, Tensor], pairs: Mapping[str, str]) -> bool:
    total = sum(value.numel() for value in places.values())
    return sum(places[name].numel() for name in pairs if name in places) >= ENOUGH * total


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
