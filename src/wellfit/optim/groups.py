"""Parameter groups: which rate and which decay each parameter gets.

Weight decay is for weights. It is not for biases, normalisation or anything else with fewer than two dimensions: they
are few, they set the scale and place of activations, and pulling them to zero costs fit and simplifies nothing (He et
al. 2019, "Bag of Tricks", 3.1). A group holds torch's own keys and `peak`, the rate that the schedule multiplies;
all of it loads with `weights_only=True`. Freezing is not decided here: what does not require a gradient gets no group.

    >>> groups = parameter_groups(model, Optimizer(), learning_rate=1e-3, weight_decay=0.01)
    >>> [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups]
    [(0.001, 0.01, 3), (0.001, 0.0, 3)]
"""

import re
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from wellfit.errors import ModelError, RecipeError
from wellfit.recipe import Optimizer


def parameter_groups(
    model: nn.Module, settings: Optimizer, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """As few groups as there are different (rate, decay), in the order of the model.

    Each is {"params": [(name, parameter), ...], "lr", "peak", "weight_decay"}, which torch's optimizers take. A tied
    weight appears once, under its first name. Raises RecipeError for a rate pattern that decides nothing, and
    ModelError if nothing is trainable.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trainable:
        raise ModelError(
            "The model has no trainable parameter"
            + (
                ": all of them are frozen. Let some require gradients, `parameter.requires_grad_(True)`."
                if any(True for _ in model.parameters())
                else " at all. Register its layers as attributes, or in `nn.ModuleList` or `nn.ModuleDict`."
            )
        )
    rates = _rates(list(trainable), settings.learning_rates, learning_rate)
    kept = undecayed(model, settings.decay_embeddings)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in trainable.items():
        rate, decay = rates[name], 0.0 if id(parameter) in kept else weight_decay
        empty = {"params": [], "lr": rate, "peak": rate, "weight_decay": decay}
        groups.setdefault((rate, decay), empty)["params"].append((name, parameter))
    return list(groups.values())


def undecayed(model: nn.Module, decay_embeddings: bool = True) -> set[int]:
    """The ids of the parameters that are not decayed: biases, vectors, scalars, norms, and embeddings if so wished."""
    return {
        id(parameter)
        for owner, name, parameter in owned(model)
        if parameter.ndim < 2
        or "bias" in re.split("[^a-z]+", name.lower())  # `in_proj_bias`, `bias_ih_l0`
        or _is(owner, "Norm")
        or (not decay_embeddings and _is(owner, "Embedding"))
    }


def embeddings(model: nn.Module) -> set[int]:
    """The ids of the parameters of embedding modules, tied output layers included."""
    return {id(parameter) for owner, _, parameter in owned(model) if _is(owner, "Embedding")}


def owned(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Each module's own parameters, as (module, name in it, parameter). A tied weight comes once for each owner.

    What lies in an `nn.ParameterList` or `nn.ParameterDict` comes for its holder too, if that has no other children:
    Keras's layers keep their weights so.
    """
    for module in model.modules():
        children = list(module.children())
        holds = bool(children) and all(isinstance(child, nn.ParameterList | nn.ParameterDict) for child in children)
        for name, parameter in module.named_parameters(recurse=holds):
            yield module, name, parameter


def assert_complete(model: nn.Module, optimizer: Any) -> None:
    """Asserts that the optimizer holds every trainable parameter of the model exactly once, and nothing else."""
    held = Counter(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing = [name for key, name in names.items() if key not in held]
    twice = [name for key, name in names.items() if held[key] > 1]
    foreign = sum(key not in names for key in held)
    assert not missing, f"not in the optimizer: {missing}"
    assert not twice, f"twice in the optimizer: {twice}"
    assert not foreign, f"{foreign} parameters of the optimizer are foreign to the model or frozen"


def _is(module: nn.Module, kind: str) -> bool:
    """Whether the module's class or one it inherits from is so named: other libraries have norms of their own."""
    return any(kind in ancestor.__name__ for ancestor in type(module).__mro__)


def _rates(names: list[str], patterns: dict[str, float], default: float) -> dict[str, float]:
    """The rate of each parameter. The first pattern that matches a name decides."""
    first = {name: next((p for p in patterns if fnmatchcase(name, p)), None) for name in names}
    for pattern, rate in patterns.items():
        if rate < 0:
            raise RecipeError(f"`optimizer.learning_rates` gives {pattern!r} the rate {rate}; it must be 0 or more.")
        if pattern in first.values():
            continue
        if any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(
                f"`optimizer.learning_rates` has the pattern {pattern!r}, but an earlier one already takes all that it "
                "matches. Put the narrower pattern first: the first match counts."
            )
        some = ", ".join(names[:5]) + (f", ... ({len(names)} in all)" if len(names) > 5 else "")
        raise RecipeError(
            f"`optimizer.learning_rates` has the pattern {pattern!r}, which matches no trainable parameter. Their "
            f"names are {some}."
        )
    return {name: default if pattern is None else patterns[pattern] for name, pattern in first.items()}
