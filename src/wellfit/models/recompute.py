"""Activation checkpointing: keep no activations inside a block, recompute them in the backward pass.

Chen et al. 2016: with n blocks, memory for activations falls from n to about one block plus n block inputs, for one more
forward pass (about a third more time). The weights come out the same to the last bit: dropout replays its random numbers,
and batch norm updates its running statistics only the first time.

    >>> recompute(model, every=1)
"""

import contextlib
import functools
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from wellfit.errors import ModelError


def recompute(model: nn.Module, every: int) -> int:
    """Makes every `every`-th block of the model recompute its activations. Returns how many do.

    Blocks are the children of the module called `blocks` (or `layers`, `h`, `layer`), else of the longest `ModuleList`
    or `Sequential` in the model. Raises ModelError if there are none.
    """
    chosen = blocks(model)[::every]
    if not chosen:
        raise ModelError(
            f"`hardware.activation_checkpointing` is {every}, but no blocks were found in {type(model).__name__}. "
            "Put the repeated part into an `nn.Sequential` or `nn.ModuleList` called `blocks`, or set it to 0."
        )
    for block in chosen:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False,
            context_fn=functools.partial(_first_and_again, block),
        )  # fmt: skip
    return len(chosen)


def blocks(model: nn.Module) -> list[nn.Module]:
    named = [
        module for name, module in model.named_modules() if name.split(".")[-1] in ("blocks", "layers", "h", "layer")
    ]
    lists = [module for module in named or model.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    longest = max(lists, key=len, default=None)
    return list(longest.children()) if longest is not None else []


def _first_and_again(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norm inside the block normalises as before and leaves its running statistics alone."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # running <- 1 * running + 0 * batch
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
