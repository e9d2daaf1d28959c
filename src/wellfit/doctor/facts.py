"""Small facts for the rules: what a loss was given, what a dropout drops, what token ids hold.

Functions from tensors and autograd's nodes to numbers and words, used by the watch. They keep nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wellfit.doctor import measure
from wellfit.doctor.graph import BOUNDED, SHAPING, Graph, dropped, is_soft, kind, saved, through

ADAPTER = re.compile(
    r"lora|adapter", re.IGNORECASE
)  # in the name of a weight beside a frozen one, which starts at nothing


def tokens(ids: Tensor, padding: int | None) -> dict[str, float]:
    """Padding of a batch of token ids: the share of padding and of rows that hold nothing else."""
    last = ids[:, -1]
    pad = padding if padding is not None else int(last.mode().values)
    same = ids == pad
    trailing = same.flip(1).to(torch.int8).cumprod(dim=1).sum(dim=1)
    leading = same.to(torch.int8).cumprod(dim=1).sum(dim=1)
    run = (trailing + leading).clamp(max=ids.shape[1])  # a window of a padded stream may begin with it and end with it
    padded = int(run.sum())
    alone = (
        int(same.sum()) <= 1.02 * padded
    )  # what also stands among the others is no padding, but a token or a category
    guessed = alone and ids.shape[1] >= 4 and len(torch.unique(run)) >= 3
    return {
        "padding": padded / max(1, ids.numel()), "empty": float((run == ids.shape[1]).sum()),
        "samples": float(len(ids)), "length": float(ids.shape[1]), "known": float(padding is not None or guessed),
    }  # fmt: skip


def acts(switch: nn.Module) -> bool:
    """Whether a switch belongs to what is trained: dropout always, batch norm unless its own parameters are frozen."""
    own = list(switch.parameters(recurse=False))
    return not own or any(p.requires_grad for p in own)


def small(module: nn.Module) -> bool:
    return all(count <= 20000 for count, _ in enumerate(module.modules()))


def classes(modules: list[nn.Module]) -> str:
    counted = Counter(type(m).__name__ for m in modules)
    return ", ".join(f"{count} {name}" for name, count in counted.most_common(3))


def listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")


def width(layer: Any, side: int) -> float:
    weight = layer.weight
    if weight is None:
        return math.inf
    return float(weight.shape[side] if weight.ndim > 1 else weight.numel())


def rule(optimizer: Any) -> str:
    """The name of an optimizer's rule: torch's own, where a class only computes it another way."""
    ours = type(optimizer)
    known = [c for c in ours.__mro__ if c.__module__.startswith("torch.optim") and c is not Optimizer]
    return (known[0] if known else ours).__name__


def settings(optimizer: Optimizer) -> dict[str, float]:
    values = {}
    for group in optimizer.param_groups[:1]:
        for name in ("lr", "weight_decay", "momentum", "dampening"):
            if isinstance(group.get(name), int | float):
                values[name] = float(group[name])
        values["maximize"] = float(bool(group.get("maximize", False)))
    return values


def loss(loss: Any) -> tuple[dict[str, float], dict[str, str]]:
    """What a loss in the graph was given: the numbers behind softmax-before-cross-entropy and its kin."""
    node, head = loss.node, loss.head
    values: dict[str, float] = {"sign": float(loss.sign), "scaled": float(loss.scaled)}
    words = {"function": loss.function, "head": kind(head) if head is not None else ""}
    given, target = loss.told("self"), loss.told("target")
    if head is not None and dropped(head):
        words["head"] = "Dropout"
    inner = head
    if loss.function == "nll_loss" and words["head"] == "LogSoftmax":
        words["function"] = "cross_entropy"
        inner = through(next((b for b, _ in head.next_functions if b is not None), None))
        words["head"] = "Dropout" if inner is not None and dropped(inner) else kind(inner) if inner is not None else ""
    if inner is not None and is_soft(inner):
        words["head"] = "Softmax"
    if inner is not None and words["head"] in BOUNDED:
        made = saved(inner, "result")
        if isinstance(made, Tensor) and made.is_floating_point():
            values |= {f"head_{k}": v for k, v in measure.spread(made).items()}
    if isinstance(given, Tensor) and given.is_floating_point():
        values |= {f"given_{k}": v for k, v in measure.spread(given).items()}
        values["given_size"] = float(given.numel())
        if loss.function in ("nll_loss", "cross_entropy") and given.ndim >= 2 and isinstance(target, Tensor):
            logs = given.transpose(1, -1).reshape(-1, given.shape[1])[:4096].double()
            values["classes"] = float(given.shape[1])
            values["rows"] = float(len(logs))
            values["not_log_probabilities"] = float((logs.exp().sum(dim=1) - 1).abs().max())
            ignored = saved(node, "ignore_index")
            used = target != ignored if isinstance(ignored, int) else torch.ones_like(target, dtype=torch.bool)
            values["ignored"] = 1.0 - float(used.float().mean()) if target.numel() else 1.0
            if bool(used.any()) and target.shape == (given.shape[0], *given.shape[2:]):
                rows = target[used][:4096]
                ok = (rows >= 0) & (rows < given.shape[1])
                if bool(ok.all()):
                    picked = given.movedim(1, -1)[used][:4096].gather(1, rows[:, None])
                    values["mean_loss"] = -float(picked.double().mean())
                    counts = torch.bincount(rows).double()
                    shares = counts[counts > 0] / counts.sum()
                    values["target_entropy"] = float(-(shares * shares.log()).sum())
    binary = loss.function in ("binary_cross_entropy", "binary_cross_entropy_with_logits")
    if binary and isinstance(given, Tensor) and isinstance(target, Tensor) and given.shape == target.shape:
        chances = given.double() if loss.function == "binary_cross_entropy" else given.double().sigmoid()
        values["squared_error"] = float((chances - target.double()).square().mean())
    if loss.function == "binary_cross_entropy_with_logits" and isinstance(given, Tensor) and isinstance(target, Tensor):
        values["mean_loss"] = float(
            (torch.nn.functional.softplus(given.double()) - given.double() * target.double()).mean()
        )
    if isinstance(target, Tensor):
        values |= {f"target_{k}": v for k, v in measure.spread(target.float()).items()}
        values["target_size"] = float(target.numel())
        values["target_whole"] = float(
            bool((some_of(target) == some_of(target).round()).all()) if target.is_floating_point() else 1.0
        )
        if isinstance(given, Tensor) and given.shape == target.shape and loss.function == "mse_loss":
            values["mean_loss"] = float((given.double() - target.double()).square().mean())
            values["reduced"] = float(saved(node, "reduction") in (1, 2))  # else some of it may be masked afterwards
        if (
            isinstance(given, Tensor)
            and target.numel() == (len(target) if target.ndim else 0)
            and len(given) == len(target)
        ):
            values["agreement"] = measure.agreement(given, target.reshape(len(target)))
        words["shapes"] = f"{list(given.shape) if isinstance(given, Tensor) else '?'} and {list(target.shape)}"
    return values, words


def into(graph: Graph, node: Any) -> str:
    """The first operation after a node that is more than a change of shape."""
    above = graph.parent.get(node)
    while above is not None and kind(above) in SHAPING:
        above = graph.parent.get(above)
    return kind(above) if above is not None else ""


def dropout_share(node: Any) -> float:
    """The probability of a dropout, from the factor by which it scales what it keeps."""
    mask = saved(node, "other") if node.next_functions[0][0] is not None else saved(node, "self")
    p = saved(node, "p")
    if isinstance(p, float):
        return p
    top = float(mask.max()) if isinstance(mask, Tensor) and mask.numel() else 1.0
    return 1 - 1 / top if top >= 1 else 0.0


def same_kind(a: str, b: str) -> bool:
    """Whether two operations are both matrix products, or both convolutions."""
    return a == b or {a, b} <= {"Addmm", "Mm", "Linear"}


def some_of(values: Tensor) -> Tensor:
    """The first numbers of a target."""
    return values.reshape(-1)[:4096]


def out_of_range(function: str, given: Tensor, target: Tensor) -> str:
    """Why symbols have no unit in the head, where torch itself does not refuse them."""
    if function == "ctc_loss" and target.numel() and int(target.max()) >= given.shape[-1]:
        return f"`ctc_loss` is given symbols up to {int(target.max())}, and the head has {given.shape[-1]} units, one of them for the blank."
    return ""


def unfit(function: str, given: Tensor, target: Tensor) -> str:
    """Why targets or inputs are not what a loss is made for, where the graph does not show it."""
    if function == "cross_entropy" and target.is_floating_point() and target.shape == given.shape and target.ndim > 1:
        sums = target.detach().sum(dim=1)
        if float((sums - 1).abs().max()) > 0.01:
            return (
                "`cross_entropy` takes targets that sum to 1 over the classes, and these sum to "
                f"{float(sums.min()):g} to {float(sums.max()):g}. For several labels at once use `binary_cross_entropy_with_logits`."
            )
    if function == "cross_entropy" and given.ndim == 1 and target.ndim == 1 and target.is_floating_point():
        return (
            f"`cross_entropy` is given one number for each of {len(given)} samples and takes the samples for classes. Give it "
            "[samples, classes], or use `binary_cross_entropy_with_logits` for a yes or no."
        )
    if function == "ctc_loss":
        most = float((given.detach().double().exp().sum(dim=-1) - 1).abs().max())
        if most > 0.05:
            return "`ctc_loss` expects log-probabilities over the symbols, and these do not sum to 1; use `log_softmax` over the last dimension."
    if function == "kl_div" and float(given.detach().max()) > 1e-3:
        return "`kl_div` takes log-probabilities first, and is given numbers above 0; use `log_softmax`."
    if function in ("hinge_embedding_loss", "soft_margin_loss", "margin_ranking_loss", "cosine_embedding_loss"):
        target = target.detach()
        if function != "margin_ranking_loss" and not bool((target.abs() == 1).all()):
            return f"`{function}` takes targets of 1 and -1, and these go from {float(target.min()):g} to {float(target.max()):g}."
    return ""
