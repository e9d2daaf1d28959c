"""The settings of a recipe: every choice that decides a run, declared once.

Each field says what it is, its default, why that is the default, and the source of the reason. `None` means "derived":
`defaults.py` fills it in. Groups are frozen and refuse keys they do not know. How recipes are loaded, changed and compared
is in `recipe.py`.

    >>> Optimizer(kind="lion", learning_rate=1e-4).beta1
    0.9
"""

from wellfit.settings.data import Augment, Data
from wellfit.settings.finetune import Finetune
from wellfit.settings.models import MLP, MODELS, ConvNet, GivenModel, Model, Named, Pretrained
from wellfit.settings.part import Origin, Part, Who, setting
from wellfit.settings.training import (
    Checkpoints,
    Evaluation,
    Hardware,
    Loss,
    Optimizer,
    Recovery,
    Schedule,
    Task,
    Training,
)

__all__ = [
    "MLP",
    "MODELS",
    "Augment",
    "Checkpoints",
    "ConvNet",
    "Data",
    "Evaluation",
    "Finetune",
    "GivenModel",
    "Hardware",
    "Loss",
    "Model",
    "Named",
    "Optimizer",
    "Origin",
    "Part",
    "Pretrained",
    "Recovery",
    "Schedule",
    "Task",
    "Training",
    "Who",
    "setting",
]
