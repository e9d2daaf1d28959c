"""A classical model on the samples that were seen: can the targets be told from the inputs at all, and how well?

It decides between a model that learns too little and data that hold nothing to learn. Made once, when a training is
over and did not go well; scikit-learn is loaded only then.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

ROWS, FOLDS = 1000, 4


def measured(inputs: Any, targets: Any, classes: int) -> dict[str, float] | None:
    """Cross-validated score of the better of a linear model and a forest, with what guessing gives, and its standard error.

    `classes` is 0 for numbers; the score is then R2, else accuracy. None where there is too little to compare.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    order = np.random.RandomState(0).permutation(len(inputs))[:ROWS]
    x, y = inputs[order], targets[order]
    good = np.isfinite(x).all(axis=1) & np.isfinite(y.astype(float))
    x, y = x[good].clip(-1e6, 1e6), y[good]
    if len(y) < 60 or x.std() == 0:
        return None
    if classes:
        names, counts = np.unique(y, return_counts=True)
        keep = np.isin(y, names[counts >= FOLDS])
        x, y, counts = x[keep], y[keep], counts[counts >= FOLDS]
        if len(counts) < 2:
            return None
        models = [LogisticRegression(max_iter=200), RandomForestClassifier(60, random_state=0)]
        folds: Any = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        shares = counts / counts.sum()
        chance, spread = float(shares.max()), float(-(shares * np.log(shares)).sum())
    else:
        y = y.astype(float)
        if y.std() == 0:
            return None
        models = [RidgeCV(np.logspace(-2, 4, 9)), RandomForestRegressor(60, random_state=0)]
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        chance, spread = 0.0, float(y.var())
    best, error = -np.inf, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in models:
            scores = cross_val_score(make_pipeline(StandardScaler(), model), x, y, cv=folds)
            if scores.mean() > best:
                best = float(scores.mean())
                fold_error = float(scores.std(ddof=1) / np.sqrt(FOLDS))
                error = max(fold_error, float(np.sqrt(max(best * (1 - best), 0.0) / len(y))) if classes else fold_error)
    return {"score": best, "chance": chance, "error": error, "rows": float(len(y)), "spread": spread}
