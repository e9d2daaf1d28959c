"""wellfit: train any neural network well, and know why when it isn't.

    >>> import wellfit
    >>> run = wellfit.fit_recipe("digits")

The public names are listed in `__all__`; importing wellfit is quick, because torch is loaded when one of them is first
used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Recipe", "Run", "Tracker", "WellfitClassifier", "WellfitError", "WellfitRegressor", "__version__",
    "ablate", "check", "check_recipe", "compare", "cure", "eject", "export", "find_batch", "find_lr", "fit", "fit_recipe", "html",
    "lab", "learning_curve", "memory_plan", "memory_plan_config", "memory_plan_recipe",
    "open", "predict", "profile", "rerun", "resume", "suggest", "trace", "trace_recipe", "track", "watch",
]  # fmt: skip

_HOMES = {
    "Recipe": "wellfit.recipe",
    "Run": "wellfit.run",
    "Tracker": "wellfit.integrations.trackers",
    "WellfitClassifier": "wellfit.estimators",
    "WellfitError": "wellfit.errors",
    "WellfitRegressor": "wellfit.estimators",
    "ablate": "wellfit.trials.compare",
    "check": "wellfit.examine",
    "check_recipe": "wellfit.examine",
    "compare": "wellfit.trials.compare",
    "cure": "wellfit.trials.treatment",
    "eject": "wellfit.deliver.eject",
    "export": "wellfit.deliver.export",
    "find_batch": "wellfit.trials.find_batch",
    "find_lr": "wellfit.trials.find_lr",
    "fit": "wellfit.api",
    "fit_recipe": "wellfit.api",
    "html": "wellfit.report.notebook",
    "lab": "wellfit.laboratory.verb",
    "learning_curve": "wellfit.curve",
    "memory_plan": "wellfit.memory",
    "memory_plan_config": "wellfit.memory",
    "memory_plan_recipe": "wellfit.memory",
    "open": "wellfit.api",
    "predict": "wellfit.deliver.predict",
    "profile": "wellfit.trials.profile",
    "rerun": "wellfit.trials.counterfactual",
    "resume": "wellfit.api",
    "suggest": "wellfit.advise",
    "trace": "wellfit.examine",
    "trace_recipe": "wellfit.examine",
    "track": "wellfit.integrations.trackers",
    "watch": "wellfit.doctor.beside",
}

if TYPE_CHECKING:
    from wellfit.advise import suggest
    from wellfit.api import fit, fit_recipe, open, resume
    from wellfit.curve import learning_curve
    from wellfit.deliver.eject import eject
    from wellfit.deliver.export import export
    from wellfit.deliver.predict import predict
    from wellfit.doctor.beside import watch
    from wellfit.errors import WellfitError
    from wellfit.estimators import WellfitClassifier, WellfitRegressor
    from wellfit.examine import check, check_recipe, trace, trace_recipe
    from wellfit.integrations.trackers import Tracker, track
    from wellfit.laboratory.verb import lab
    from wellfit.memory import memory_plan, memory_plan_config, memory_plan_recipe
    from wellfit.recipe import Recipe
    from wellfit.report.notebook import html
    from wellfit.run import Run
    from wellfit.trials.compare import ablate, compare
    from wellfit.trials.counterfactual import rerun
    from wellfit.trials.find_batch import find_batch
    from wellfit.trials.find_lr import find_lr
    from wellfit.trials.profile import profile
    from wellfit.trials.treatment import cure


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wellfit' has no attribute {name!r}")
    import importlib
    import random

    state = random.getstate()  # a library that is loaded may draw from it (rich's styles do)
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return sorted(__all__)
