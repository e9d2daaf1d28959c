"""Held-out shares: drawn once, with a seed of their own, in the same proportions of classes.

scikit-learn draws; what this file adds is what to say when it cannot be done.

    >>> train, valid = split(torch.arange(100), targets, 0.1, seed=0, what="validation", stratify=True)
"""

from collections.abc import Sequence

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from wellfit.errors import DataError


def split(
    samples: Tensor, targets: Tensor, share: float, *, seed: int, what: str, stratify: bool, names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Sample numbers [n] -> those that stay and those held out, each in the original order.

    `targets` [N] are of all samples; `names` are the classes', for the error. Raises DataError if a side would be empty
    or lack a class.
    """
    count = round(share * len(samples))
    kept = len(samples) - count
    field = "valid" if what == "validation" else "test"
    if count < 1 or kept < 1:
        raise DataError(
            f"`data.{field}_share` is {share:g}, which of {len(samples)} samples holds out {count} and leaves {kept}. "
            f"Set it so that both sides have some, or name a separate {what} set with `data.{field}=PATH`."
        )
    labels = targets[samples] if stratify else None
    if labels is not None:
        sizes = torch.bincount(labels)
        present = int((sizes > 0).sum())
        if int(sizes[sizes > 0].min()) < 2 or min(count, kept) < present:
            smallest = int(torch.where(sizes > 0, sizes, sizes.max() + 1).argmin())
            name = f" ({names[smallest]!r})" if names else ""
            raise DataError(
                f"A {what} share of {share:g} cannot hold out samples of each class: {len(samples)} samples, {present} classes, and "
                f"class number {smallest} has {int(sizes[smallest])}{name}. Add samples, leave out classes that rare, raise "
                f"`data.{field}_share`, or name a separate {what} set with `data.{field}=PATH`."
            )
    stay, held = train_test_split(samples.numpy(), test_size=count, random_state=seed, stratify=labels)
    return torch.from_numpy(stay).sort().values, torch.from_numpy(held).sort().values
