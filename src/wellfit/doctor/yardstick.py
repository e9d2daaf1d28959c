"""A classical model on the samples that were seen: can the targets be told from the inputs at all, and how well?

It decides between a model that learns too little and data that hold nothing to learn. Made once, when a training is
over and did not go well; scikit-learn is loaded only then.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from wellfit.doctor.history import History
from wellfit.doctor.samples import Samples

ROWS, FOLDS, TREES = 1000, 4, 60
LATE = 0.7  # of the steps of a training: what was learned is what it does after them


def compared(samples: Samples, history: History, steps: int) -> dict[str, float] | None:
    """The classical model's score on the samples seen, beside what the network learned by the end of `steps`.

    `learned` and `held_out` are accuracies or R2. None where the two cannot be compared.
    """
    table = samples.gathered_table()
    told = [v.values for v in history.all("loss") if v.step > LATE * steps]
    if table is not None and table[1].ndim > 1:  # squared errors, of whatever loss
        losses = [x.get("squared_error", x.get("mean_loss", math.nan)) for x in told if x.get("reduced", 1)]
    else:
        losses = [x["mean_loss"] for x in told if "mean_loss" in x]
    losses = [loss for loss in losses if not math.isnan(loss)]
    shares = [v.values["share"] for v in history.all("agreement") if v.step > LATE * steps]
    if samples.weighted:  # a weighted loss is no measure of what is known
        shares, losses = [values.get("agreement", math.nan) for values in told], []
    agreed = [share for share in shares if not math.isnan(share)]
    if table is None or steps < 30 or not (losses or agreed) or history.adversarial():
        return None
    inputs, targets, classes = table
    if targets.ndim > 1 and any(v.values["losses"] != 1 for v in history.all("root", "loss")):
        return None  # which part of the loss is of these targets is not known
    narrowest = [int(v.values["narrowest"]) for v in history.all("root", "loss") if v.values.get("narrowest")]
    score = measured(inputs, targets, classes, rank=min(narrowest, default=1))
    if score is None:
        return None
    score["learned"] = sum(agreed) / len(agreed) if agreed else math.nan
    right = [x["agreement"] for x in told if "agreement" in x] or agreed
    if classes and right:
        score["right"] = sum(right) / len(right)
    scores = [v.values for v in history.all("evaluation")]
    if targets.ndim > 1:
        held = []
    elif classes:
        held = [x["accuracy"] for x in scores if "accuracy" in x]
    else:
        held = [1 - x["squared_error"] / max(x["target_variance"], 1e-12) for x in scores if "squared_error" in x]
    if held:
        score["held_out"] = max(held)
    if samples.tagged and samples.tags is not None:  # several yes-or-no targets
        rates = (samples.tags / samples.tagged).clamp(1e-9, 1 - 1e-9)
        score["spread"] = float(-(rates * rates.log() + (1 - rates) * (1 - rates).log()).mean())
    if losses:
        score["learned"] = 1 - sum(losses) / len(losses) / max(score["spread"], 1e-12)
    score["tabular"] = float(samples.flat and not samples.whole)
    return score


def bigrams(samples: Samples, history: History, steps: int) -> dict[str, float] | None:
    """What counts of token and target say, beside what the network learned; None where there are no such pairs."""
    told, losses = samples.told_by_tokens(), history.losses.values()
    late = losses[int(LATE * len(losses)) :]
    if told is None or not late or steps < 30:
        return None
    return {
        "alone": told[0],
        "known": told[1],
        "learned": sum(late) / len(late),
        "tokens": float(samples.pairs.total()),
    }


def measured(inputs: Any, targets: Any, classes: int, rank: int = 1) -> dict[str, float] | None:
    """Cross-validated score of the better of a linear model and a forest, with what guessing gives, and its standard error.

    `classes` is 0 for numbers; the score is then R2, else accuracy, and `told` the share of the targets' entropy that is
    explained. Targets of several columns are told by one linear map of at most `rank`, the network's narrowest place: for
    an autoencoder, its principal components. None where there is too little to compare.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = np.random.RandomState(0).permutation(len(inputs))[:ROWS]
    x, y = inputs[order], targets[order]
    good = np.isfinite(x).all(axis=1) & np.isfinite(y.astype(float)).reshape(len(y), -1).all(axis=1)
    x, y = x[good].clip(-1e6, 1e6), y[good]
    if len(y) < 60 or x.std() == 0:
        return None
    if y.ndim > 1:
        return _several(x, y.astype(float), rank)
    if classes:
        return _classified(x, y)
    y = y.astype(float)
    if y.std() == 0:
        return None
    best, error = -np.inf, 0.0
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in (RidgeCV(np.logspace(-2, 4, 9)), RandomForestRegressor(60, random_state=0)):
            scores = cross_val_score(make_pipeline(StandardScaler(), model), x, y, cv=folds)
            if scores.mean() > best:
                best, error = float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(FOLDS))
    return {"score": best, "chance": 0.0, "error": error, "rows": float(len(y)), "spread": float(y.var())}


def _classified(x: Any, y: Any) -> dict[str, float] | None:
    """Accuracy of the better of a logistic regression and a forest, and how much of the entropy of the classes the better one explains."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, counts = np.unique(y, return_counts=True)
    keep = np.isin(y, names[counts >= FOLDS])
    x, y, counts = x[keep], np.unique(y[keep], return_inverse=True)[1], counts[counts >= FOLDS]
    if len(counts) < 2:
        return None
    shares = counts / counts.sum()
    spread = float(-(shares * np.log(shares)).sum())
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    best, error, explained = -np.inf, 0.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in (LogisticRegression(max_iter=200), RandomForestClassifier(TREES, random_state=0)):
            odds = cross_val_predict(make_pipeline(StandardScaler(), model), x, y, cv=folds, method="predict_proba")
            hits = odds.argmax(axis=1) == y
            picked = (TREES * odds[np.arange(len(y)), y] + shares[y]) / (
                TREES + 1
            )  # no forest is surer than it has trees
            explained = max(explained, 1 + float(np.log(picked).mean()) / spread)
            if hits.mean() > best:
                best = float(hits.mean())
                each = [hits[test].mean() for _, test in folds.split(x, y)]
                error = max(
                    float(np.std(each, ddof=1) / np.sqrt(FOLDS)), math.sqrt(max(best * (1 - best), 0.0) / len(y))
                )
    return {
        "score": best,
        "chance": float(shares.max()),
        "error": error,
        "rows": float(len(y)),
        "spread": spread,
        "told": explained,
    }


def _several(x: Any, y: Any, rank: int) -> dict[str, float] | None:
    """R2 over all columns of a ridge regression of reduced rank (Izenman, 1975): its predictions on their first principal axes."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    spread = float(y.var(axis=0).mean())
    if spread == 0:
        return None
    scores = []
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        middle = y[train].mean(axis=0)
        scale = x[train].std() or 1.0
        model = Ridge(1.0).fit(x[train] / scale, y[train] - middle)
        told = model.predict(x[train] / scale)
        axes = np.linalg.svd(told, full_matrices=False)[2][: max(1, rank)]
        left = y[test] - middle - model.predict(x[test] / scale) @ axes.T @ axes
        scores.append(1 - left.var() / (y[test] - middle).var())
    error = float(np.std(scores, ddof=1) / np.sqrt(FOLDS))
    return {"score": float(np.mean(scores)), "chance": 0.0, "error": error, "rows": float(len(y)), "spread": spread}
