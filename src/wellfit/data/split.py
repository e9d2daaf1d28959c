"""Which samples are held out, and which of the others are learnt from: drawn with seeds of their own, in the proportions of the classes.

scikit-learn draws what is held out; what this file adds is what to say when it cannot be done. `once` leaves repeats out, `fewer` draws the training
samples, if not all are wanted, before anything is learnt from them, an encoding or a vocabulary included.

    >>> train, valid = split(torch.arange(100), targets, 0.1, seed=0, what="validation", stratify=True)
    >>> train = fewer(Data(train_samples=20), train, notes, targets)
"""

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from wellfit.errors import DataError
from wellfit.recipe import Data


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
    from sklearn.model_selection import train_test_split  # here, for it takes seconds to load

    stay, held = train_test_split(samples.numpy(), test_size=count, random_state=seed, stratify=labels)
    return torch.from_numpy(stay).sort().values, torch.from_numpy(held).sort().values


def once(samples: Tensor, keys: Sequence[Hashable], held_out: Iterable[Hashable], notes: list[str]) -> Tensor:
    """Those of the training samples, numbers [n], whose key comes for the first time and is not `held_out`, in the original order.

    `keys` [N] are of all samples; those of equal content are equal.
    """
    seen = set(held_out)
    held = sum(keys[i] in seen for i in samples.tolist())
    kept = [i for i in samples.tolist() if not (keys[i] in seen or seen.add(keys[i]))]  # type: ignore[func-returns-value]
    left_out = len(samples) - len(kept)
    if left_out:
        also = f", {held:,} of them one that is held out," if held else ""
        told = f"{left_out:,} of {len(samples):,} training samples repeat others{also} and were left out"
        notes.append(f"{told} (`data.deduplicate`).")
    if not kept:
        raise DataError(
            "Every training sample repeats one that is held out, so nothing is left to learn from. Set `data.deduplicate=false`."
        )
    return torch.tensor(kept)


def fewer(
    data: Data, samples: Tensor, notes: list[str], targets: Tensor | None = None, names: Sequence[str] = ()
) -> Tensor:
    """Those of the training samples, numbers [n], that `data.train_samples` asks for, in the original order.

    They are the beginning of one order that `data.draw_seed` alone decides, so fewer are always among more. With `targets`
    [N], classes of all samples, the order begins with one of each class and keeps to their proportions as closely as whole
    samples can. `names` are the classes', for the error.

    Raises DataError if there are not so many, or fewer are asked for than there are classes.
    """
    wanted = data.train_samples
    if wanted is None:
        return samples
    if wanted > len(samples):
        raise DataError(
            f"`data.train_samples` is {wanted:,}, but after what is held out there are {len(samples):,} training samples. Set it to "
            "that or less, or to null for all."
        )
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(data.draw_seed))
    if targets is not None:
        labels = targets[samples[order]]
        sizes = torch.bincount(labels)
        present = int((sizes > 0).sum())
        if wanted < present:
            raise DataError(
                f"`data.train_samples` is {wanted:,}, but the training samples have {present:,} classes"
                f"{f' ({names[0]!r}, {names[1]!r}, ...)' if len(names) > 1 else ''}, and each needs one at least. Set it to {present:,} or more."
            )
        by_class = labels.argsort(stable=True)
        which = torch.empty_like(labels)  # of its class: the first, the second, ...
        which[by_class] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
        place = torch.where(which == 0, -1.0, (which + 0.5) / sizes[labels])
        order = order[place.argsort(stable=True)]
    notes.append(
        f"Learns from {wanted:,} of {len(samples):,} training samples, drawn with seed {data.draw_seed}"
        f"{', in the proportions of the classes' if targets is not None else ''}; `data.train_samples` says how many."
    )
    return samples[order[:wanted].sort().values]
