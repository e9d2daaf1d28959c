"""What the targets hold where the inputs are padding, and whether token ids belong to the model's vocabulary.

Functions from a batch of token ids and the targets of a cross entropy to numbers. A place counts as padding only where
the program itself says so: by an `attention_mask`, or by the padding index of the model's embedding or configuration.

    >>> padded_targets(ids, attended, target, ignored=-100, padding=None, classes=30522, tokens=30522)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

FEW = 4  # padded places of a batch, below which it says nothing


def padded_targets(
    ids: Tensor, attended: Tensor | None, target: Tensor, ignored: int, padding: int | None, classes: int, tokens: int
) -> dict[str, float] | None:  # fmt: skip
    """How many targets of a loss stand at padding. None where nothing is padding, or its place in the targets is not known.

    ids: [samples, length]; attended: the same shape, 0 where there is padding, or None; target: class ids, flat or not,
    [samples * length] or [samples * (length - 1)]; ignored: the class that the loss leaves out; classes, tokens: units
    of the head and rows of the embedding. Without a mask only language models are judged, whose targets are the inputs.
    """
    rows, length = ids.shape
    if target.is_floating_point() or length < 3 or target.numel() not in (rows * length, rows * (length - 1)):
        return None
    labels = target.detach().reshape(rows, -1)
    known = attended is not None
    empty = attended == 0 if attended is not None else run_of(ids, padding) if padding is not None else None
    if empty is None or int(empty.sum()) < FEW or bool(empty.all()):
        return None
    ahead = labels[:, : length - 1]
    inner = ~empty[:, 1:] & (ahead != ignored)
    moved = bool(inner.any()) and float((ahead == ids[:, 1:])[inner].float().mean()) > 0.98
    told: Tensor
    if moved and classes >= tokens:
        told, places, used = ahead, empty[:, 1:], ahead != ignored
        if not known:
            run = empty & empty.roll(1, dims=1)  # the first of a run may mark the end of the text
            places = run[:, 1:] & (ahead == padding)
    elif known and labels.shape[1] == length:
        told, places, used = labels, empty, labels != ignored
    else:
        return None
    padded, counted = int(places.sum()), int((places & used).sum())
    if padded < FEW:
        return None
    values = told[places & used]
    return {
        "padding": float(padded), "counted": float(counted), "targets": float(used.sum()), "ignored": float(ignored),
        "value": float(values.mode().values) if counted else -1.0, "masked": float(known), "next": float(moved),
        "rows": float((places & used).any(dim=1).sum()),
    }  # fmt: skip


def padded_answers(labels: Tensor, target: Tensor, ignored: int, padding: int) -> dict[str, float] | None:
    """The same for the labels of an encoder-decoder, which are a sequence of their own: padding at their ends counts.

    labels: [samples, length], the very targets of the loss. One padding id at an end may mark that end; a run of them
    does not.
    """
    if target.numel() != labels.numel() or not torch.equal(target.reshape(labels.shape), labels) or padding == ignored:
        return None
    places = run_of(labels, padding)
    places = places & places.roll(1, dims=1)  # all of a run but its first
    places[:, 0] = False
    padded = int(places.sum())
    if padded < FEW or len(torch.unique(places.sum(dim=1))) < 2:
        return None
    return {
        "padding": float(padded), "counted": float(padded), "targets": float((labels != ignored).sum()),
        "ignored": float(ignored), "value": float(padding), "masked": 0.0, "next": 0.0,
        "rows": float(places.any(dim=1).sum()),
    }  # fmt: skip


def run_of(ids: Tensor, padding: int) -> Tensor:
    """Where a row ends, or begins, with nothing but the padding id. [samples, length], bool."""
    same = (ids == padding).to(torch.int8)
    trailing = same.flip(1).cumprod(dim=1).flip(1)
    return (trailing + same.cumprod(dim=1)) > 0


def crowd(ids: Tensor, attended: Tensor | None, padding: int | None) -> dict[str, float] | None:
    """The most frequent id of a batch, padding left aside: its share, and how many ids and kinds of them there are."""
    used = attended != 0 if attended is not None else torch.ones_like(ids, dtype=torch.bool)
    used = used & ~run_of(ids, padding) if padding is not None else used & ~_ends(ids)
    kept = ids[used]
    if kept.numel() < 16:
        return None
    values, counts = torch.unique(kept, return_counts=True)
    top = int(counts.argmax())
    return {
        "share": float(counts[top]) / kept.numel(), "id": float(values[top]), "tokens": float(kept.numel()),
        "kinds": float(len(values)), "largest": float(values[-1]),
    }  # fmt: skip


def attention(kwargs: Mapping[str, Any], ids: Tensor) -> Tensor | None:
    """The mask that goes with the ids, where the program gives one with a hole in it."""
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != ids.shape or mask.is_floating_point() or mask.device != ids.device:
        return None
    return mask


def setting(module: nn.Module | None, name: str) -> Any:
    """A setting of the configuration that models of transformers carry."""
    config = getattr(module, "config", None)
    return getattr(config, name, None) if config is not None and not isinstance(config, dict) else None


def vocabulary(module: nn.Module) -> int:
    """The rows of the first embedding, in the order of registration: that of the tokens; 0 where there is none."""
    return next((m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)), 0)


def _ends(ids: Tensor) -> Tensor:
    """Where a row ends with a run of two and more of one id."""
    same = (ids == ids[:, -1:]).to(torch.int8).flip(1).cumprod(dim=1).flip(1).bool()
    return same & (same.sum(dim=1, keepdim=True) > 1)
