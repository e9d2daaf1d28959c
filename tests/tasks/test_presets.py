"""The presets meet their bars, and tables are scored beside classical models."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, r2_score, root_mean_squared_error

from wellfit import api
from wellfit.events import Evaluated
from wellfit.report.words import summary
from wellfit.tasks.metrics import Averaged, Classification, Regression


def test_digits(tmp_path) -> None:
    run = api.fit_recipe("digits", root=tmp_path, quiet=True)
    assert run.scores("test")["accuracy"] >= 0.985
    assert run.ended().seconds < 60


def test_mnist_learns(tmp_path, data_folder) -> None:
    """A thirtieth of the preset's steps; the whole of it is in bench/accuracy.py."""
    settings = {"data.source": str(data_folder / "mnist"), "training.steps": 70, "data.valid_share": 0.02}
    run = api.fit_recipe("mnist", set=settings, root=tmp_path, quiet=True)
    assert run.scores("test")["accuracy"] > 0.93


@pytest.mark.parametrize(("name", "metric"), [("wine", "accuracy"), ("diabetes", "rmse")])
def test_tables_have_yardsticks(tmp_path, name: str, metric: str) -> None:
    run = api.fit_recipe(name, root=tmp_path, quiet=True)
    tests = {
        event.of: event.metrics[metric]
        for event in run.events()
        if isinstance(event, Evaluated) and event.split == "test"
    }
    assert set(tests) == {"model", "gradient boosting", "logistic regression" if name == "wine" else "ridge regression"}
    if metric == "accuracy":
        assert tests["model"] >= max(tests.values()) - 0.03
    else:
        assert tests["model"] <= min(tests.values()) * 1.03
    assert any(
        "gradient boosting" in sentence or "regression" in sentence for sentence in summary(run.recipe, run.events())
    )


def test_classification_scores_are_scikit_learns() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(300, 5), torch.randint(0, 4, (300,))
    targets[::9] = -100
    metric, sums = Classification(), {}
    for part in (slice(0, 7), slice(7, 300)):
        for key, value in metric.sums(outputs[part], targets[part]).items():
            sums[key] = sums.get(key, 0) + value
    counted = targets >= 0
    predicted, actual = outputs.argmax(1)[counted], targets[counted]
    assert metric.scores(sums)["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert metric.scores(sums)["f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))


def test_regression_scores_are_scikit_learns() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(200) * 3 + 1, torch.randn(200) + 50
    metric, sums = Regression(), {}
    for part in (slice(0, 13), slice(13, 200)):
        for key, value in metric.sums(outputs[part], targets[part]).items():
            sums[key] = sums.get(key, 0) + value
    found = metric.scores(sums)
    assert found["mae"] == pytest.approx(mean_absolute_error(targets, outputs), rel=1e-6)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(targets, outputs), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(targets, outputs), rel=1e-6)


def test_averages_weigh_samples() -> None:
    metric = Averaged("m", lambda outputs, targets: (outputs - targets).mean())
    sums = {}
    for n in (3, 5):
        for key, value in metric.sums(torch.full((n,), float(n)), torch.zeros(n)).items():
            sums[key] = sums.get(key, 0) + value
    assert math.isclose(metric.scores(sums)["m"], (9 + 25) / 8)
