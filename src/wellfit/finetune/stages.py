"""What learns when: a function of the step and of nothing else, so a resumed run knows it without being told.

A plan gives each parameter the step from which on it learns, and a factor for the rate at each step. Frozen parameters take
no gradient, and neither momentum nor decay moves them; the batch norms of frozen blocks stay in evaluation mode, or their
statistics would drift although nothing was meant to change (a classic fault). What learns from the first step on is settled
before the optimizer is made, and what never learns is not in it.

    >>> stages = plan(model, Finetune(strategy="recipe"), total=1000, per_epoch=100, fresh=["head.weight", "head.bias"])
    >>> stages.at(0), stages.at(200)   # the head alone; everything
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wellfit.errors import RecipeError
from wellfit.finetune.blocks import blocks, ending
from wellfit.finetune.quantize import numel
from wellfit.recipe import Finetune, Optimizer
from wellfit.settings.finetune import BEFORE, BESIDE

NEVER = -1
LAID_IN = ("lora_", "prompt_encoder")  # in the names of what PEFT puts beside or before frozen weights
Share = Callable[[int, int], float]  # (step, of how many) -> share of the peak rate


@dataclass
class Stages:
    """The steps from which on parameters learn, and the factor of the learning rate."""

    model: nn.Module
    starts: dict[str, int]  # parameter -> the step before which it is frozen; `NEVER` for one that never learns
    head_until: int = (
        0  # the step before which the head learns alone at the full rate; then a schedule of its own begins
    )
    smaller: float = 1.0
    decays: dict[str, float] = field(default_factory=dict)  # parameter -> factor of its rate
    _now: int | None = None  # how many parameters learn at present

    def freeze(self) -> None:
        """Before the optimizer is made: what never learns requires no gradient, all else does."""
        self._now = None
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.starts.get(name, 0) != NEVER)

    def at(self, step: int) -> None:
        """Lets learn what learns in the step after `step`. Free unless that has changed since the last call."""
        learning = {name for name, start in self.starts.items() if start != NEVER and start <= step}
        if len(learning) == self._now:
            return
        self._now = len(learning)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in learning or name not in self.starts)
        for path, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
                if not own:  # without weights: it goes with what is beside it
                    beside = path.rpartition(".")[0]
                    own = [name for name in self.starts if name.startswith(f"{beside}." if beside else "")]
                if any(name in self.starts for name in own):
                    module.train(any(name in learning for name in own))

    def share(self, step: int, total: int, schedule: Share) -> float:
        """The factor of the peak rate: the schedule, begun anew for everything when the head has learnt alone."""
        if not self.head_until:
            return schedule(step, total) / self.smaller
        if step < self.head_until:
            return schedule(step, self.head_until)
        return schedule(step - self.head_until, total - self.head_until) / self.smaller

    @property
    def moves(self) -> bool:
        """Whether something begins to learn on the way."""
        return any(start > 0 for start in self.starts.values())

    def rates(self, settings: Optimizer) -> dict[str, float]:
        """The optimizer's rates by pattern, and after those the rate of each parameter that has a factor."""
        assert isinstance(settings.learning_rate, float), "learning_rate is not resolved"
        patterns = settings.learning_rates
        free = {name: d for name, d in self.decays.items() if not any(fnmatchcase(name, p) for p in patterns)}
        return {**patterns, **{name: settings.learning_rate * decay for name, decay in free.items()}}

    def __str__(self) -> str:
        sizes = {name: numel(p) for name, p in self.model.named_parameters()}
        total, first = sum(sizes.values()), sum(n for name, n in sizes.items() if self.starts.get(name, 0) == 0)
        later = sorted({start for start in self.starts.values() if start > 0})
        frozen = sum(n for name, n in sizes.items() if self.starts.get(name, 0) == NEVER)
        parts = [f"{first:,} of {total:,} parameters ({first / total:.2%}) learn from the first step on"]
        if later:
            steps = ", ".join(f"{step:,}" for step in later[:6]) + (", ..." if len(later) > 6 else "")
            parts.append(f"the rest follows {'block by block ' if len(later) > 1 else ''}after step {steps}")
        if frozen:
            parts.append(f"{frozen:,} stay as they are")
        return "; ".join(parts) + "."


def plan(
    model: nn.Module,
    settings: Finetune,
    *,
    total: int,
    per_epoch: int,
    fresh: Sequence[str] | None = None,
    kept: Sequence[str] = (),
) -> Stages:
    """The stages of a strategy over `total` steps; parameters that are `kept` never learn.

    The head is what is `fresh`, drawn anew; where nothing is, the last block. What learns beside or before frozen weights (lora,
    prompt ...) has a head beside it only if something is fresh, or, where that is not known (None), if the last block is a single
    layer: the head of a language model is as trained as the rest of it, and often tied to its embeddings.

    Raises RecipeError for a training that is too short for it.
    """
    parts = blocks(model)
    names = [name for part in parts for name in part]
    head = set(fresh or ()) & set(names)
    if not head and settings.strategy not in (*BESIDE, *BEFORE):
        head = set(parts[-1])
    elif fresh is None:
        head = set(ending(model))
    body = [[name for name in part if name not in head] for part in parts]
    body = [part for part in body if part]
    starts = dict.fromkeys(names, 0)
    if settings.strategy in (*BESIDE, *BEFORE):
        starts |= {name: NEVER for part in body for name in part if not any(mark in name for mark in LAID_IN)}
    elif settings.strategy == "frozen":
        starts |= {name: NEVER for part in body for name in part}
    elif settings.strategy == "recipe":
        until = round(settings.head_epochs * per_epoch)
        if until >= total:
            raise RecipeError(
                f"`finetune.head_epochs` is {settings.head_epochs:g}, which is {until:,} steps, and the whole training has {total:,}. "
                "Train longer (`training.epochs`), or let the head learn alone for less."
            )
        starts |= {name: until for part in body for name in part}
        starts |= {name: NEVER for name in kept if name in starts}
        return Stages(model, starts, head_until=until, smaller=settings.smaller)
    elif settings.strategy == "progressive":
        gap = settings.thawed * total / max(1, len(body))
        for i, part in enumerate(reversed(body), start=1):
            starts |= dict.fromkeys(part, max(1, round(i * gap)))
    decays: dict[str, float] = {}
    if settings.strategy == "differential":
        for depth, part in enumerate(reversed(body), start=1):
            decays |= dict.fromkeys(part, settings.depth_decay**depth)
    starts |= {name: NEVER for name in kept if name in starts}
    return Stages(model, starts, decays=decays)
