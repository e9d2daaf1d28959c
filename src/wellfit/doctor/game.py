"""Networks of which one is fed by another: which way each backward pass pulls the answers, and what the outputs can be.

In a game (a generator and its critic) no loss need fall, and its faults show only between the two: both pull the critic's
answers to generated samples the same way; the generator's last operation cannot give what the real samples hold. Facts
alone; the rules decide whether it is a game at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wellfit.doctor import facts, measure
from wellfit.doctor.account import Call
from wellfit.doctor.graph import BOUNDED, Graph, dropped, kind, through

KEPT = 4  # passes of each kind that are compared
SQUARED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")  # their pull turns with the answer, in a game too


def feeding(calls: list[Call], graph: Graph, tell: Callable[..., None]) -> None:
    """Tells of each module that the loss reaches and that was fed with another one's output. Some of it after the backward pass.

    `tell(about, name, values, words)` may be called until that pass is over.
    """
    learned = [call for call in calls if call.learned]
    for call in learned:
        given = call.inputs[0] if call.inputs and call.feeder is None else None
        if given is not None and given.is_floating_point() and given.numel():
            told = measure.spread(given)
            call.root.real = (told["min"], told["max"], told["std"])
    for call in learned:
        if call.feeder is None or not call.outputs:
            continue
        trained = call.inputs[0].requires_grad if call.inputs else False  # the pass goes through to what fed it
        if not any(loss.function in SQUARED for loss in graph.losses):
            _pull(call, trained, tell)
        if trained:
            _range(call, tell)
        return


def _pull(call: Call, trained: bool, tell: Callable[..., None]) -> None:
    """Which way the answers are pulled: 1 where all are to fall, -1 where all are to rise; by its own step and the other's."""
    pulls = call.root.pulls

    def hook(gradients: Any) -> None:
        gradient = gradients[0] if gradients else None
        if not isinstance(gradient, Tensor) or gradient.layout != torch.strided or not gradient.is_floating_point():
            return
        if bool(torch.isfinite(gradient).all()) and bool(gradient.any()):
            pulls.setdefault(trained, []).append(float(gradient.sum() / gradient.abs().sum()))
            own, through = pulls.get(False, [])[-KEPT:], pulls.get(True, [])[-KEPT:]
            if len(own) >= KEPT and len(through) >= KEPT:
                tell("game", "pull", {"own_least": min(own), "own_most": max(own), "through_least": min(through), "through_most": max(through)},
                     {"answers": call.root.name, "samples": call.feeder.name if call.feeder is not None else ""})  # fmt: skip

    call.outputs[0].register_prehook(hook)


def _range(call: Call, tell: Callable[..., None]) -> None:
    """What the feeder's last operation can give, beside what the same module is fed with otherwise."""
    given = call.inputs[0] if call.inputs else None
    head = through(given.grad_fn) if given is not None and given.grad_fn is not None else None
    if head is not None:
        operation = kind(head)
        call.root.fed_with = operation if operation in BOUNDED else "-"
        if dropped(head):
            tell(
                "game",
                "dropout",
                {"p": facts.dropout_share(head)},
                {"samples": call.feeder.name if call.feeder is not None else ""},
            )
    if call.root.fed_with not in ("", "-") and call.root.real is not None:
        low, high, spread = call.root.real
        tell("game", "range", {"real_min": low, "real_max": high, "real_std": spread},
             {"head": call.root.fed_with, "samples": call.feeder.name if call.feeder is not None else ""})  # fmt: skip
