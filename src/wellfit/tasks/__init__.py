"""What is learnt, one file a task: data, a sound default model, the loss as a sum, metrics.

`KINDS` maps the recipe's `task` to the function that builds it from loaded data. The loop knows only `Task`.
"""

from collections.abc import Callable

from wellfit.tasks import image_classification, tabular, text_classification, text_generation
from wellfit.tasks.task import Built, Supervised, Task, suited

KINDS: dict[str, Callable[..., Built]] = {
    "image-classification": image_classification.build,
    "tabular-classification": tabular.classification,
    "tabular-regression": tabular.regression,
    "text-classification": text_classification.build,
    "text-generation": text_generation.build,
}

__all__ = ["KINDS", "Built", "Supervised", "Task", "suited"]
