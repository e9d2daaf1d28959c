"""Scores on held-out data: the right mode, no gradients, and everything put back as it was.

>>> evaluate(model, task, held)
{'loss': 0.08, 'accuracy': 0.98}
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.data.batches import Batch
from wellfit.distributed import gathered, total
from wellfit.errors import DataError
from wellfit.tasks.task import Task


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, batches: Iterable[Batch]) -> dict[str, float]:
    """The task's scores over all batches of all ranks. Each module's train or eval mode is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        sums: dict[str, Any] = {}  # tensors are added up, lists strung together
        for batch in batches:
            for name, value in task.measure(model, batch).items():
                value = value.to(torch.float64) if isinstance(value, Tensor) else value
                sums[name] = sums[name] + value if name in sums else value
    finally:
        for module, training in modes:
            module.training = training
    if not sums:
        raise DataError(
            "The held-out data yields no batch, so there is nothing to score on. Pass some, or none at all."
        )
    return task.summarize({name: _whole(value) for name, value in sums.items()})


def _whole(part: Any) -> Any:
    """Over all ranks."""
    if isinstance(part, Tensor):
        return total(part).cpu()
    return [one for rank in gathered(part) for one in rank]
