"""What a looked-at step shows of the training itself: layers, updates, the order of the loop, which parameters are held.

Functions from the accounts of a training to what is told of it. They read weights and gradients, and change none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from wellfit.doctor import facts, measure
from wellfit.doctor.account import Backward, Training
from wellfit.doctor.roots import Roots


class Told(NamedTuple):
    """Vitals without their step."""

    about: str
    name: str
    values: dict[str, float]
    words: dict[str, str] = {}  # noqa: RUF012 - never written to


def layers(training: Training, roots: Roots) -> Iterator[Told]:
    """The update as a whole, and for each weight matrix its length, gradient and update; at first its scale too."""
    updates, before = [], []
    returned = bool(training.anchor) and all(
        torch.equal(old, training.anchor[position]) for position, old in training.before if position in training.anchor
    )
    if not training.anchor:
        learning = [pair for pair in training.before if training.parameters[pair[0]].requires_grad]
        training.anchor = dict(sorted(learning, key=lambda pair: pair[1].numel())[:4])
    for position, old in training.before:
        new = training.parameters[position].detach()
        if new.shape == old.shape and new.is_floating_point():
            updates.append((position, new - old))
            before.append(old)
    if not updates:
        return
    sizes, lengths = measure.norms(u for _, u in updates), measure.norms(before)
    order, directions = 0, []
    for i, (position, update) in enumerate(updates):
        p = training.parameters[position]
        grad = training.grads.get(position)
        if grad is not None and i < 32 and sizes[i] > 0 and training.grad_norms[position] > 0:
            directions.append(float((update * grad).sum()) / (sizes[i] * training.grad_norms[position] + 1e-300))
    along = sum(directions) / len(directions) if directions else 0.0
    moved = sum(size > 0 for size in sizes)
    yield Told("update", "all", {
        "along_gradient": along, "moved": float(moved), "returned": float(returned), "parameters": float(len(sizes)), "rate": training.rate(),
        "size": math.sqrt(sum(s * s for s in sizes)), "length": math.sqrt(sum(s * s for s in lengths)),
        "gradient": math.sqrt(sum(n * n for n in training.grad_norms if not math.isnan(n))),
    })  # fmt: skip
    for i, (position, _) in enumerate(updates):
        p = training.parameters[position]
        if p.ndim < 2 or order >= measure.LAYERS:
            continue
        known = position < len(training.grad_norms) and p.requires_grad  # one that is frozen holds an old gradient
        grad_norm = training.grad_norms[position] if known else math.nan
        values = {
            "order": float(order), "grad_norm": grad_norm, "weight_norm": lengths[i], "update_norm": sizes[i],
            "ratio": sizes[i] / lengths[i] if lengths[i] > 0 else math.nan, "numel": float(p.numel()),
        }  # fmt: skip
        if training.step <= 1:
            values |= measure.weight(before[i])
        grad = training.grads.get(position)
        if training.step == 2 and grad is not None and p.shape[0] > 1:
            gates = roots.gates.get(id(p), 1)
            rows = grad.detach().reshape(gates, -1, p[0].numel())[:, :256]
            values["rows_agree"] = float(rows.mean(1).square().sum() / (rows.square().sum(2).mean(1).sum() + 1e-300))
            values["alike_gradient"] = float((rows - rows[:, :1]).abs().max() <= 1e-4 * rows.abs().max() + 1e-30)
        name = roots.called(p)
        kind_ = "embedding" if id(p) in roots.embeddings else "adapter" if facts.ADAPTER.search(name) else "weight"
        yield Told("layer", name, values, {"kind": kind_})
        order += 1


def loop(training: Training, backs: list[Backward], roots: Roots) -> Told:
    """The order of things: gradients kept from before, cleared too early, or added up."""
    slots = training.slots
    kept = len(slots.left) if training.step > 1 and backs else 0
    name = roots.called(slots.left[0].parameter) if kept else ""
    last = backs[-1].place if backs else ""
    foreign = len(slots.lent) if slots.added_to and slots.added_to == last else 0
    if foreign:
        name = roots.called(slots.lent[0].parameter)
    return Told("loop", "step", {
        "kept": float(kept), "emptied": float(slots.emptied), "backwards": float(sum(not b.inside for b in backs)),
        "divided": float(all(b.divided for b in backs)), "foreign": float(foreign),
    }, {"parameter": name, "place": last, "foreign_place": slots.lent_by})  # fmt: skip


def windows(training: Training) -> Told:
    """How many backward passes went into a step: the usual number, and others."""
    return Told("windows", "accumulation", {
        "most": float(max(training.windows)), "usual": float(training.windows.most_common(1)[0][0]),
        "kinds": float(len(training.windows)), "steps": float(training.windows.total()),
        "larger": float(sum(n for size, n in training.windows.items() if size > training.windows.most_common(1)[0][0])),
    })  # fmt: skip


def structure(
    training: Training, trainings: list[Training], since: list[Backward], roots: Roots, ran: set[int]
) -> Iterator[Told]:
    """Which parameters the loss reaches, and which ones some optimizer holds."""
    held = {key for t in trainings for key in t.ids if not t.by_hand}
    modules = list(roots.living())
    owners: dict[int, nn.Module] = {}
    for module in modules:
        for part in module.modules():
            owners.update({id(own): part for own in part._parameters.values() if own is not None})
    reached = [p for back in since for p in back.reached]
    training.reached.update(id(p) for back in training.pending[-8:] for p in back.reached)
    ever = training.reached if training.slots.in_vain or training.slots.emptied or not since else set()
    unheld = []
    for p in reached:
        owner = owners.get(id(p))
        if id(p) not in held and isinstance(p, nn.Parameter) and (owner is None or owner.training):
            unheld.append(p)
    without = [
        p for position, p in enumerate(training.parameters)
        if p.requires_grad and p.grad is None and training.without[position] >= 2 and id(p) not in ever
    ]  # fmt: skip
    shapes = {p.shape for module in modules for p in module.parameters()}
    stale = [p for p in without if owners and id(p) not in owners and (unheld or (p.ndim > 1 and p.shape in shapes))]
    idle = [p for p in without if id(p) in owners and id(owners[id(p)]) not in ran]
    own = training.own(training.pending[-64:])[-1:]
    last = {id(p) for back in own for p in back.reached}.union(*(back.passed for back in own))
    passed = set().union(*(back.passed for back in own))
    learning = {id(p) for back in own for p in back.reached}
    crossed = {t.name for t in trainings if t is not training and t.step and last & t.ids}
    training.touches |= crossed
    here = own[0].place if own else ""
    rivals = sum(1 for t in trainings if t is not training and t.step and (t.name in training.touches or training.name in t.touches)
                 and t.last_place != here and abs(t.backwards - training.backwards) < max(8, training.backwards // 2))  # fmt: skip
    heads = {id(m.weight) for back in since for head in back.heads if (m := head.module()) is not None}
    yield Told("structure", "parameters", {
        "crosses": float(bool(crossed)), "frozen_behind": len(passed - learning) / max(1, len(passed)),
        "unheld": float(len(unheld)), "unheld_numel": float(sum(p.numel() for p in unheld)),
        "without": float(len(without)), "stale": float(len(stale)), "idle": float(len(idle)),
        "held": float(len(training.parameters)), "rivals": float(rivals), "by_hand": float(training.by_hand),
        "frozen": float(sum(not p.requires_grad for p in training.parameters)),
        "without_share": sum(p.numel() for p in without) / max(1, sum(p.numel() for p in training.parameters)),
    }, {"unheld": facts.listed([roots.called(p) for p in unheld]), "without": facts.listed([roots.called(p) for p in without]),
        "stale": facts.listed([roots.called(p) for p in stale]), "place": training.place,
        "unheld_head": facts.listed([roots.called(p) for p in unheld if id(p) in heads])})  # fmt: skip
