"""Scores on held-out data: the right mode, no gradients, and everything put back as it was.

>>> evaluate(model, task, held)
{'loss': 0.08, 'accuracy': 0.98}
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import sharding
from wellfit.data.batches import Batch
from wellfit.distributed import any_rank, gathered, world
from wellfit.errors import DataError
from wellfit.tasks.task import Task


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, float]:
    """The task's scores over all batches of all ranks. Each module's train or eval mode is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        sums: dict[str, Any] = {}  # tensors are added up, lists strung together
        alike = getattr(task, "one_pass", True)
        with sharding.passes(model, alike):
            for batch, counts in _in_step(batches) if alike and sharding.is_sharded(model) else _each(batches):
                for name, value in task.measure(model, batch).items():
                    value = value.to(torch.float64) if isinstance(value, Tensor) else value
                    if counts:
                        sums[name] = sums[name] + value if name in sums else value
    finally:
        for module, training in modes:
            module.training = training
    sums = _over_ranks(sums)
    if not sums:
        raise DataError(
            "The held-out data yields no batch, so there is nothing to score on. Pass some, or none at all."
        )
    return task.summarize(sums)


def _each(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    return ((batch, True) for batch in batches)


def _in_step(batches: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """As many batches on each rank, since all must pass through a cut model together: who has no more takes its last one again.

    That one does not count.
    """
    mine, last = iter(batches), None
    while True:
        batch = next(mine, None)
        if not any_rank(batch is not None)[0]:
            return
        last = batch if batch is not None else last
        if not all(gathered(last is not None)):
            raise DataError(
                f"There are fewer held-out samples than the {world()} ranks, and a model that is cut over them needs one on each. Hold out "
                "more, or set `hardware.parallel=ddp`."
            )
        yield last, batch is not None


def _over_ranks(sums: dict[str, Any]) -> dict[str, Any]:
    """All ranks' sums added up, in their order, on the CPU. A rank that has had no batch adds nothing."""
    mine = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in sums.items()}
    whole: dict[str, Any] = {}
    for theirs in gathered(mine):
        for name, value in theirs.items():
            whole[name] = whole[name] + value if name in whole else value
    return whole
