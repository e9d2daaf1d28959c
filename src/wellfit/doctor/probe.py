"""The probe of wellfit's own loop: on some steps, what the loss, the gradients and the update were like.

The loop asks `due`, and on such a step hands over the loss before its backward pass, and calls `before` and `after`
around the update. On all other steps that question is all it costs. What was measured leaves as `Vitals`.

    >>> probe = Probe(model, optimizer)
    >>> if probe.due: probe.loss(loss, batch)
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from wellfit.doctor import facts, measure, yardstick
from wellfit.doctor.account import Backward, Call, Root, Training
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.history import History
from wellfit.doctor.watch import Watch, safely
from wellfit.events import Vitals

DENSE, SPARSE = 4, 256  # all of the first steps are looked at; later one in so many at least
OF_SOME = ("labels", "tags", "targets")  # what some of the batches tell as well as all of them
LONG = 100  # steps, below which a run is a first look that may well have learnt little
WELL_LEARNED = 0.8  # of the loss is gone: nothing is to be explained by a classical model


class Probe(Watch):
    """Measures one training. `vitals` holds what was measured since it was last emptied.

    `trained_before`: the model came with weights that were learnt before. `weighted`: the loss weighs classes.
    """

    def __init__(
        self, model: nn.Module, optimizer: Any, step: int = 0, *, trained_before: bool = False, weighted: bool = False
    ):
        super().__init__(Doctor())
        self.lessons.samples.weighted = weighted
        if trained_before:  # what is new in it is told from the rest by its values
            self.origins.loaded(model, dict(model.named_parameters()))
        self.vitals: list[Vitals] = []
        self.model = model
        self.root: Root = self.lessons.roots.of(model)
        self.outer.ran = {id(module) for module in model.modules()}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.training = Training("", parameters, None, "")
        self.training.by_hand = False
        self.training.optimizer = weakref.ref(optimizer)
        self.training.step = self.steps = step
        self.training.next_look = step + 1
        self.trainings = [self.training]

    @property
    def due(self) -> bool:
        """Whether the step that comes is looked at."""
        return self.training.step + 1 >= self.training.next_look

    @safely
    def loss(self, loss: Tensor, batch: Any) -> None:
        """Reads the graph of a loss, and the batch behind it. Called before the backward pass of a step that is due."""
        given = measure.tensors(batch)
        call = Call(self.root, (), True, given[:1], self.model.training, False)
        call.mixing = self.model.training and bool(self.root.switches)
        call.args, call.learned = tuple(given[:1]), True
        target = given[1] if isinstance(batch, tuple | list) and len(given) > 1 else None
        back = Backward("", math.nan, None)
        self.lessons.learn_from(loss, back, call, target, self.training.step)
        back.divided = True  # the loop weighs its micro-batches itself
        self.since = self.training.pending = [back]

    @safely
    def before(self) -> None:
        """The gradients are whole, and not yet clipped."""
        self._begin(self.training)

    def after(self) -> None:
        """The weights are updated. Called after every step."""
        training = self.training
        training.step += 1
        self.steps += 1
        if self.since:
            self._look_back()
            self.since, training.pending, training.before, training.grad_norms, training.grads = [], [], [], [], {}
            steps = training.step
            training.next_look = steps + (1 if steps < DENSE else max(4, min(SPARSE, steps // 2)))

    def back_to(self, step: int) -> None:
        """Training goes on from an earlier step: what was measured since belongs to nothing."""
        training = self.training
        training.step = self.steps = step
        training.next_look = step + 1
        self.since, training.pending, training.before, training.grad_norms, training.grads = [], [], [], [], {}

    def closing(self, history: History) -> list[Vitals]:
        """What the samples that were looked at are like, and how a classical model does on them, now that training is over."""
        self.vitals.clear()
        self._close(history)
        return list(self.vitals)

    @safely
    def _close(self, history: History) -> None:
        samples = self.lessons.samples

        def emit(_: Any, about: str, name: str, values: dict[str, float], words: Any = None) -> None:
            if about in OF_SOME:
                self._tell(None, about, name, values, words)

        samples.tell(emit, final=True)
        if history.fell() <= WELL_LEARNED and self.training.step >= LONG:
            told = yardstick.compared(samples, history, self.training.step)
            if told is not None:
                self._tell(None, "yardstick", "classical model", told)

    @safely
    def _look_back(self) -> None:
        optimizer = self.training.optimizer() if self.training.optimizer is not None else None
        if self.training.step == 1 and optimizer is not None:
            self._tell(None, "optimizer", facts.rule(optimizer), facts.settings(optimizer), {"place": ""})
        self._tell_step(self.training, self.since[-1:])

    def _tell(
        self,
        training: Training | None,
        about: str,
        name: str,
        values: dict[str, float],
        words: Mapping[str, str] | None = None,
    ) -> None:
        del training
        self.vitals.append(Vitals(self.training.step, about, name, values, dict(words or {})))
