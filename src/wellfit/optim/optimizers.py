"""The optimizers: torch's own, Lion, and Muon paired with AdamW.

`build` makes one from a recipe; each has `param_groups`, `step`, `zero_grad`, `state_dict` and `load_state_dict`, and
each group has `peak`, the rate that the schedule scales to give `lr`. What a setting means differs between them:

- `weight_decay`: sgd and adam add decay x weight to the gradient (L2), where Adam then rescales it like any gradient;
  all others shrink the weights by lr x decay, apart from the gradient (Loshchilov & Hutter 2019).
- `momentum` is for sgd and muon, `beta1` and `beta2` are for adam, adamw, lion and the AdamW half of muon.
- adafactor takes the rate relative to the size of each parameter, at most 1 / sqrt(step) (Shazeer & Stern 2018).

Not here: schedules, clipping, loss scaling; they act on the groups and gradients from outside.

    >>> optimizer = build(model, Optimizer(kind="adamw", learning_rate=1e-3, weight_decay=0.01, beta2=0.999))
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as hooks

from wellfit.errors import RecipeError
from wellfit.optim.eight_bits import AVERAGES, eight_bits, state_of_eight_bits
from wellfit.optim.fused import FusedAdamW, FusedSGD
from wellfit.optim.gradients import in_memory
from wellfit.optim.groups import assert_complete, embeddings, parameter_groups
from wellfit.optim.lion import Lion
from wellfit.recipe import Optimizer
from wellfit.sharding import is_sharded

Groups = list[dict[str, Any]]


def build(
    model: nn.Module, settings: Optimizer, of_eight_bits: "EightBits" = eight_bits
) -> "torch.optim.Optimizer | Pair":
    """The optimizer of all trainable parameters of the model, which must be on its device already.

    `learning_rate`, `weight_decay` and `beta2` must be resolved. `of_eight_bits` makes those with averages of eight bits. Raises
    RecipeError for settings that do not fit the model, ModelError if nothing is trainable, and what `eight_bits` raises.
    """
    assert isinstance(settings.learning_rate, float), "learning_rate is not resolved"
    assert settings.weight_decay is not None, "weight_decay is not resolved"
    groups = parameter_groups(model, settings, settings.learning_rate, settings.weight_decay)
    _refuse_sparse(model, settings)
    made = functools.partial(_eight_bits, made=of_eight_bits) if settings.kind in AVERAGES else KINDS[settings.kind]
    optimizer = made(groups, settings, model)
    assert_complete(model, optimizer)
    for half in (optimizer.first, optimizer.second) if isinstance(optimizer, Pair) else (optimizer,):
        half.register_load_state_dict_post_hook(_laid_out)
    return optimizer


def _laid_out(optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint holds tensors in the order of their shapes, and fused kernels want state as its parameter lies in memory."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if type(value) is Tensor and value.shape == parameter.shape and value.stride() != in_memory(parameter):
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def scaled(learning_rate: float | str | None, batch_size: int, reference: int, rule: str | None) -> float:
    """A rate that was chosen for batches of `reference` samples, for batches of `batch_size`.

    linear: x (batch / reference), for SGD (Goyal et al. 2017, 2.1). sqrt: x sqrt(batch / reference), for Adam and its
    kin (Krizhevsky 2014; Malladi et al. 2022, who scale the betas and eps as well, which is not done here). Both hold
    only up to some batch size, and the linear one needs a warmup. Rate and rule must be resolved.
    """
    assert isinstance(learning_rate, float), "learning_rate is not resolved"
    assert rule is not None, "batch_scaling is not resolved"
    return learning_rate * SCALINGS[rule](batch_size / reference)


SCALINGS: dict[str, Callable[[float], float]] = {"linear": lambda ratio: ratio, "sqrt": math.sqrt}


def state_bytes(kind: str, shape: Sequence[int], width: int = 4, momentum: float = 0.9) -> int:
    """How many bytes an optimizer keeps for one parameter of that shape, whose numbers have `width` bytes each.

    Adam's and Adafactor's step counters are counted, one number each. For `muon` this is a hidden matrix; ask for `adamw` for what
    it leaves to its other half. For averages of eight bits it is no embedding, which has those of the kind without.
    """
    if kind in AVERAGES:
        return state_of_eight_bits(kind, math.prod(shape))
    return width * STATE_NUMEL[kind](tuple(shape), momentum)


# How many numbers of the parameter's precision.
STATE_NUMEL: dict[str, Callable[[tuple[int, ...], float], int]] = {
    "sgd": lambda shape, momentum: math.prod(shape) if momentum else 0,
    "adam": lambda shape, _: 2 * math.prod(shape) + 1,
    "adamw": lambda shape, _: 2 * math.prod(shape) + 1,
    "adafactor": lambda shape, _: _rows_and_columns(shape) + 1,
    "lion": lambda shape, _: math.prod(shape),
    "muon": lambda shape, _: math.prod(shape),
}


def _rows_and_columns(shape: tuple[int, ...]) -> int:
    numel = math.prod(shape)
    return numel if len(shape) < 2 else numel // shape[-1] + numel // shape[-2]


def update(optimizer: Any) -> None:
    """`optimizer.step()`, without torch's wrappers around it where they have nothing to do.

    One opens a profiler range and calls step hooks, which costs a small step a twentieth; it is passed over as long as no
    profiler runs and no hook is registered, on this optimizer or on all. The other loads torch's compiler at its first
    call, which takes seconds, to switch gradients off.
    """
    if isinstance(optimizer, Pair):
        update(optimizer.first)
        update(optimizer.second)
        return
    if not isinstance(optimizer, torch.optim.Optimizer):  # one that ranks share
        optimizer.step()
        return
    watched = (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    )
    if watched:
        optimizer.step()
    else:
        with torch.no_grad():
            _bare_step(type(optimizer).step)(optimizer)


@functools.cache
def _bare_step(step: Callable[..., Any]) -> Callable[..., Any]:
    bare: Callable[..., Any] = inspect.unwrap(step)
    return bare


class Pair:
    """Two optimizers that share a model, behind one's verbs.

    The halves are real torch optimizers, so hooks on them, torch's global ones included, run once for each half.
    """

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer):
        self.first, self.second = first, second

    @property
    def param_groups(self) -> Groups:
        """The groups of both, the very dictionaries: setting a rate in them sets it."""
        return [*self.first.param_groups, *self.second.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """Parameter -> its state, of both; the outer dictionary is a copy."""
        return {**self.first.state, **self.second.state}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update by both. A closure is called once, by the first."""
        loss = self.first.step(closure)
        self.second.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.first.zero_grad(set_to_none)
        self.second.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first.load_state_dict(state["first"])
        self.second.load_state_dict(state["second"])


# ---- kinds: (groups, settings, model) -> optimizer

EightBits = Callable[..., torch.optim.Optimizer]  # (kind, groups, betas=..., [eps=...])


def _sgd(groups: Groups, settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    if settings.nesterov and not settings.momentum:
        raise RecipeError(
            "`optimizer.nesterov` is on, but `optimizer.momentum` is 0 and there is nothing to look ahead along. Set a "
            "momentum such as 0.9, or turn nesterov off."
        )
    one_kernel = _fused(model) and not is_sharded(model)  # it takes no cut tensors
    kind = FusedSGD if one_kernel else torch.optim.SGD
    return kind(groups, momentum=settings.momentum, nesterov=settings.nesterov)


def _adam(groups: Groups, settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=_betas(settings), eps=settings.eps, fused=_fused(model))


def _adamw(groups: Groups, settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    kind = FusedAdamW if _fused(model) else torch.optim.AdamW
    return kind(groups, betas=_betas(settings), eps=settings.eps)


def _adafactor(groups: Groups, _settings: Optimizer, _model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups)


def _lion(groups: Groups, settings: Optimizer, _model: nn.Module) -> torch.optim.Optimizer:
    return Lion(groups, betas=_betas(settings))


def _muon(groups: Groups, settings: Optimizer, model: nn.Module) -> torch.optim.Optimizer | Pair:
    """Hidden matrices by Muon (Jordan et al. 2024), everything else by AdamW.

    Muon's updates are brought to the RMS that AdamW's usually have, so one learning rate serves both (Liu et al. 2025,
    2.2). The momentum is Nesterov's, as in the original, whatever `nesterov` says of SGD.
    """
    chosen = hidden_matrices(model)
    matrices, rest = _split(groups, chosen)
    if not matrices:
        raise RecipeError(
            "`optimizer.kind` is 'muon', which is for hidden weight matrices, and this model has none besides its "
            "embeddings and its output layer (kernels of convolutions are not matrices). Use adamw."
        )
    first = torch.optim.Muon(matrices, momentum=settings.momentum, adjust_lr_fn="match_rms_adamw")
    return Pair(first, _adamw(rest, settings, model)) if rest else first


def _eight_bits(
    groups: Groups, settings: Optimizer, model: nn.Module, made: EightBits = eight_bits
) -> torch.optim.Optimizer | Pair:
    """Embeddings by the kind itself, with averages of 32 bits; everything else by the one of eight (Dettmers et al. 2022, 2.3)."""
    tables, rest = _split(groups, embeddings(model))
    whole = KINDS[settings.kind.removesuffix("8bit")]
    if not rest:
        return whole(groups, settings, model)
    more: dict[str, Any] = {"eps": settings.eps} if settings.kind == "adamw8bit" else {}
    first = made(settings.kind, rest, betas=_betas(settings), **more)
    if not tables:
        return first
    second = whole(tables, settings, model)
    assert isinstance(second, torch.optim.Optimizer)
    return Pair(first, second)


KINDS: dict[str, Callable[[Groups, Optimizer, nn.Module], torch.optim.Optimizer | Pair]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
    "adamw8bit": _eight_bits,
    "lion8bit": _eight_bits,
}


def hidden_matrices(model: nn.Module) -> set[int]:
    """The ids of the trainable 2-D parameters that Muon takes: no embedding, and not the output layer.

    The output layer is the last `nn.Linear` of the model, or its last matrix where it has no `nn.Linear`.
    """
    matrices = [id(p) for p in model.parameters() if p.ndim == 2 and p.requires_grad]
    linear = [id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    return set(matrices) - embeddings(model) - set((linear or matrices)[-1:])


def _split(groups: Groups, chosen: set[int]) -> tuple[Groups, Groups]:
    halves: tuple[Groups, Groups] = ([], [])
    for group in groups:
        for half, wanted in zip(halves, (True, False), strict=True):
            members = [(name, p) for name, p in group["params"] if (id(p) in chosen) is wanted]
            if members:
                half.append({**group, "params": members})
    return halves


def _betas(settings: Optimizer) -> tuple[float, float]:
    assert settings.beta2 is not None, "beta2 is not resolved"
    return settings.beta1, settings.beta2


def _fused(model: nn.Module) -> bool | None:
    """True where one kernel can do the whole update; None lets torch choose between a loop and its foreach kernels."""
    fit = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters() if p.requires_grad)
    return True if fit and not _sparse_tables(model) else None


def _sparse_tables(model: nn.Module) -> list[str]:
    tables = (nn.Embedding, nn.EmbeddingBag)
    return [name for name, module in model.named_modules() if isinstance(module, tables) and module.sparse]


def _refuse_sparse(model: nn.Module, settings: Optimizer) -> None:
    sparse = _sparse_tables(model)
    decayed = settings.decay_embeddings and settings.weight_decay
    if sparse and (settings.kind != "sgd" or decayed):
        what = f"{settings.kind} with weight decay on embeddings" if settings.kind == "sgd" else settings.kind
        raise RecipeError(
            f"The embedding {sparse[0]!r} has sparse gradients, which {what} cannot use. Build it with `sparse=False`, "
            "or choose sgd with `optimizer.decay_embeddings=false`."
        )
