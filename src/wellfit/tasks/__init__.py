"""What is learnt, one file a task: data, a sound default model, the loss as a sum, metrics, and what is told of new data.

`KINDS` has for each `task` of a recipe what builds it from loaded data, what makes its untrained model again from a run's
recipe and record, what predicts with it, and which classical models stand beside it. The loop knows only `Task`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wellfit.data.arrays import Loaded
from wellfit.tasks import (
    forecasting,
    image_classification,
    object_detection,
    sentence_embeddings,
    seq_to_seq,
    tabular,
    text_classification,
    text_generation,
    token_classification,
    yardsticks,
)
from wellfit.tasks.baseline import Baseline, baselines
from wellfit.tasks.task import Built, Supervised, Task, suited


@dataclass(frozen=True)
class Kind:
    """One task. `network(recipe, record)`; `predict(model, record, inputs, **choices)` gives a plain dictionary for each input."""

    build: Callable[..., Built]
    network: Callable[..., Any] | None = None
    predict: Callable[..., list[dict[str, Any]]] | None = None
    yardsticks: Callable[[Loaded], list[Baseline]] | None = None  # scored on the test samples


KINDS: dict[str, Kind] = {
    "image-classification": Kind(
        image_classification.build, image_classification.network, image_classification.predict
    ),
    "tabular-classification": Kind(
        tabular.classification, tabular.network_for_classes, tabular.predict_class, baselines
    ),
    "tabular-regression": Kind(tabular.regression, tabular.network_for_numbers, tabular.predict_number, baselines),
    "text-classification": Kind(
        text_classification.build, text_classification.network, text_classification.predict, yardsticks.yardsticks
    ),
    "text-generation": Kind(text_generation.build, text_generation.network, text_generation.predict),
    "seq-to-seq": Kind(seq_to_seq.build, seq_to_seq.network, seq_to_seq.predict, yardsticks.yardsticks),
    "sentence-embeddings": Kind(
        sentence_embeddings.build, sentence_embeddings.network, sentence_embeddings.predict, yardsticks.yardsticks
    ),
    "token-classification": Kind(
        token_classification.build, token_classification.network, token_classification.predict, yardsticks.yardsticks
    ),
    "forecasting": Kind(forecasting.build, forecasting.network, forecasting.predict, forecasting.yardsticks),
    "object-detection": Kind(object_detection.build, object_detection.network, object_detection.predict),
}

__all__ = ["KINDS", "Built", "Kind", "Supervised", "Task", "suited"]
