"""A trained run at work: the model made again from recipe and record, its best weights, and the task's `predict`.

The folder of the run is all that is needed: neither the training data nor the process that trained. Two predictions of the
same input are the same, whatever was predicted before or beside it.

    >>> wellfit.predict("runs/2026-11-22-1015-digits-convnet", ["a.png", "b.png"])
    [{'input': 'a.png', 'class': '3', 'confidence': 0.99}, {'input': 'b.png', 'class': '7', 'confidence': 0.98}]
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from wellfit import finetune
from wellfit.data.batches import untouched_randomness
from wellfit.errors import RecipeError, RunError
from wellfit.recipe import nearest
from wellfit.run import Run
from wellfit.tasks import KINDS


@dataclass(frozen=True)
class Predictor:
    """A run's model with its best weights, on the CPU and in evaluation mode, to be asked many times."""

    model: nn.Module
    record: dict[str, Any]
    task: str

    @classmethod
    def of(cls, run: Run | str | Path) -> "Predictor":
        """From a run or its folder. Raises RunError if it is none, or holds no model that can be made again."""
        run = run if isinstance(run, Run) else Run.open(run)
        recipe, record = run.recipe, run.task
        task = str(record.get("task") or recipe.task or "given")
        if task == "given":
            raise RunError(
                f"The run {run.folder} trained a model that was passed to `wellfit.fit` in Python, and a run folder holds no code. "
                "Make the model there, load `wellfit.open(...).best_weights()` into it, and call it."
            )
        kind = KINDS.get(task)
        if kind is None or kind.network is None or kind.predict is None:
            able = [name for name, known in KINDS.items() if known.predict is not None]
            raise RunError(
                f"The run {run.folder} is of the task {task!r}, with which this version of wellfit cannot predict; it can with "
                f"{', '.join(able)}."
            )
        weights = run.best_weights()
        with untouched_randomness():  # the first weights are drawn only to be replaced
            model = finetune.shaped(kind.network(recipe, record), recipe)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise RunError(
                f"The weights of {run.folder} do not fit the model that its recipe makes: {' '.join(str(error).split())}. "
                "It was trained by another version of wellfit; use that one, or train it anew."
            ) from None
        return cls(model.eval(), record, task)

    def __call__(self, inputs: Any, **choices: Any) -> list[dict[str, Any]]:
        """One plain dictionary for each input. Raises DataError for an input that cannot be taken."""
        predict = KINDS[self.task].predict
        assert predict is not None
        allowed = [*inspect.signature(predict).parameters][3:]
        for name in choices:
            if name not in allowed:
                raise RecipeError(
                    f"{name!r} is nothing that a prediction of the task {self.task} lets choose.{nearest(name, allowed)} "
                    + (f"It can be {', '.join(allowed)}." if allowed else "There is no choice.")
                )
        return predict(self.model, self.record, _several(inputs, self.record), **choices)


def predict(run: Run | str | Path, inputs: Any, **choices: Any) -> list[dict[str, Any]]:
    """What a trained run says of new inputs: a list with one plain dictionary for each.

    `run`: a run or its folder. `inputs`: one input or a sequence of them, of the kind that the task takes: paths of pictures
    or folders, or arrays, for images; rows (column -> value) or paths of tables for tables; texts for texts. `choices` are
    the task's own, such as `top=3` for images or `length=100` for text that is written.

    Raises RunError for what is no run, has no checkpoint, or trained a model of one's own; DataError for an input that is
    not there or cannot be taken, naming it.
    """
    return Predictor.of(run)(inputs, **choices)


def _several(inputs: Any, record: Mapping[str, Any]) -> Sequence[Any]:
    """A sequence of inputs, where one may have been given without a list around it."""
    if isinstance(inputs, str | Path | Mapping):
        return [inputs]
    if isinstance(inputs, np.ndarray | Tensor):
        alone = (2, 3) if len(record.get("input", ())) == 3 else (1,)
        stacked = inputs.ndim not in alone or (
            inputs.ndim == 3 and record["input"][0] == 1 and _are_grey(inputs, record)
        )
        return list(inputs) if stacked else [inputs]
    return list(inputs)


def _are_grey(inputs: Any, record: Mapping[str, Any]) -> bool:
    """Whether [N, H, W] are grey images, and not one image of H x W with channels."""
    return bool(list(inputs.shape[1:]) == record["input"][1:] and inputs.shape[0] != 1)
