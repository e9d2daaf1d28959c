"""A classical model beside the network: whoever trains a network on a table should know what a simple one does.

Both yardsticks are scikit-learn's and tuned by cross-validation on the training and validation rows together (the
network only learns from the former, so this favours them): a regularised linear model and gradient-boosted trees. They take longer
than a small network, and know nothing of it: whoever trains a second one on the same rows is told what was found the first time.

    >>> baselines(loaded)
    [Baseline(name='logistic regression', scores={'accuracy': 0.97, ...}), Baseline(name='gradient boosting', ...)]
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellfit import kept
from wellfit.data.arrays import Loaded
from wellfit.tasks import metrics
from wellfit.tasks.metrics import Classification, Regression

FOLDS = 5
MOST_ROWS = 50_000  # of these many, drawn with a fixed seed, the yardsticks learn; a larger sample moves them little
SMALL = 200_000  # numbers in a table, below which the yardsticks have one thread
TREES = {"learning_rate": [0.03, 0.1], "max_leaf_nodes": [4, 15], "min_samples_leaf": [10, 30]}


@dataclass(frozen=True)
class Baseline:
    """A fitted yardstick's name and its scores on the test rows, named as the network's."""

    name: str
    scores: dict[str, float]


def baselines(loaded: Loaded) -> list[Baseline]:
    """The yardsticks for a tabular task, scored on its test rows; empty where there are none."""
    if loaded.test is None:
        return []
    parts = [loaded.train, *([loaded.valid] if loaded.valid is not None else [])]
    rows = torch.cat([part.inputs for part in parts]).numpy()
    targets = torch.cat([part.targets for part in parts]).numpy()
    if len(rows) > MOST_ROWS:
        chosen = np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False)
        rows, targets = rows[chosen], targets[chosen]
    name = _name(rows, targets, loaded)
    found = _recalled(name)
    if found is None:
        classes = loaded.task == "tabular-classification"
        score = _class_scores if classes else _number_scores
        candidates = _classifiers(targets) if classes else _regressors()
        with _few_threads(rows.size):
            found = [Baseline(name, score(model.fit(rows, targets), loaded)) for name, model in candidates.items()]
        kept.remember(name, json.dumps([asdict(one) for one in found]).encode())
    return found


def _name(rows: np.ndarray, targets: np.ndarray, loaded: Loaded) -> str:
    """All that the scores depend on: the rows of each part, the task, the code that learns and scores, and the library."""
    assert loaded.test is not None
    digest = hashlib.sha256(f"{loaded.task} {len(loaded.classes)} {version('scikit-learn')}".encode())
    for code in (__file__, metrics.__file__):
        digest.update(Path(code).read_bytes())
    for part in (rows, targets, loaded.test.inputs.numpy(), loaded.test.targets.numpy()):
        digest.update(f"{part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data)
    return f"yardsticks-{digest.hexdigest()[:32]}.json"


def _recalled(name: str) -> list[Baseline] | None:
    try:
        told = json.loads(kept.recalled(name) or b"")
        return [Baseline(str(one["name"]), {str(k): float(v) for k, v in one["scores"].items()}) for one in told]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _few_threads(numbers: int) -> contextlib.AbstractContextManager[Any]:
    """A small table has little to share out, and threads that wait for one another on busy cores hardly come to an end."""
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    limits: contextlib.AbstractContextManager[Any] = threadpool_limits(1 if numbers < SMALL else None, "openmp")
    return limits


def _classifiers(targets: np.ndarray) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(max(2, min(FOLDS, int(np.bincount(targets).min()))), shuffle=True, random_state=0)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    strengths = {"logisticregression__C": np.logspace(-3, 2, 11)}
    trees = HistGradientBoostingClassifier(max_iter=150, random_state=0)
    return {
        "logistic regression": GridSearchCV(linear, strengths, cv=folds),
        "gradient boosting": GridSearchCV(trees, TREES, cv=folds),
    }


def _regressors() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = KFold(FOLDS, shuffle=True, random_state=0)
    return {
        "ridge regression": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 29))),
        "gradient boosting": GridSearchCV(HistGradientBoostingRegressor(max_iter=150, random_state=0), TREES, cv=folds),
    }


def _class_scores(model: Any, loaded: Loaded) -> dict[str, float]:
    assert loaded.test is not None
    predicted = torch.from_numpy(model.predict(loaded.test.inputs.numpy()))
    one_hot = torch.nn.functional.one_hot(predicted, len(loaded.classes))
    return Classification().scores(Classification().sums(one_hot, loaded.test.targets))


def _number_scores(model: Any, loaded: Loaded) -> dict[str, float]:
    assert loaded.test is not None
    predicted = torch.from_numpy(model.predict(loaded.test.inputs.numpy()))
    return Regression().scores(Regression().sums(predicted, loaded.test.targets))
