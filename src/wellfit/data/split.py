"""Held-out shares: drawn once, with a seed of their own, in the same proportions of classes.

scikit-learn draws; what this file adds is what to say when it cannot be done.

    >>> train, valid = split(torch.arange(100), targets, 0.1, seed=0, what="validation", stratify=True)
"""

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from wellfit.errors import DataError


def split(
    samples: Tensor, targets: Tensor, share: float, *, seed: int, what: str, stratify: bool
) -> tuple[Tensor, Tensor]:
    """Sample numbers [n] -> those that stay and those held out, each in the original order.

    `targets` [N] are of all samples. Raises DataError if a side would be empty or lack a class.
    """
    count = round(share * len(samples))
    field = "valid_share" if what == "validation" else "test_share"
    if count < 1 or count >= len(samples):
        raise DataError(
            f"`data.{field}` is {share:g}, which of {len(samples)} samples holds out {count} and leaves {len(samples) - count}. "
            f"Set it so that both sides have some, or name a separate {what} set with `data.{field.split('_')[0]}=PATH`."
        )
    labels = targets[samples] if stratify else None
    if labels is not None:
        sizes = torch.bincount(labels)
        present = int((sizes > 0).sum())
        if int(sizes[sizes > 0].min()) < 2 or min(count, len(samples) - count) < present:
            smallest = int(torch.where(sizes > 0, sizes, sizes.max() + 1).argmin())
            raise DataError(
                f"A {what} share of {share:g} cannot hold out samples of each class: {len(samples)} samples, {present} classes, and "
                f"class number {smallest} has {int(sizes[smallest])}. Add samples, leave out classes that rare, raise "
                f"`data.{field}`, or name a separate {what} set with `data.{field.split('_')[0]}=PATH`."
            )
    kept, held = train_test_split(samples.numpy(), test_size=count, random_state=seed, stratify=labels)
    return torch.from_numpy(kept).sort().values, torch.from_numpy(held).sort().values
