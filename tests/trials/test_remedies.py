"""Remedies as functions from recipe to recipe: named by the catalogue, applicable where they change something, and valid."""

from typing import Any

import pytest

from wellfit.doctor.finding import catalogue
from wellfit.recipe import MODELS, Recipe
from wellfit.trials.remedies import CHANGES, about, applied, changed

NAMED = {name for kind in catalogue().values() for remedy in kind.remedies for name in remedy.change}


def test_every_remedy_is_named_by_the_catalogue_and_the_other_way_round() -> None:
    assert set(CHANGES) == NAMED


@pytest.mark.parametrize("name", CHANGES)
def test_each_says_what_it_does(name: str) -> None:
    assert about(name).endswith(".")
    assert len(about(name)) > 15


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "given"])
@pytest.mark.parametrize("name", CHANGES)
def test_none_breaks_a_recipe_of_any_network(name: str, kind: str) -> None:
    """What it sets is in the recipe, and applying it is a change or nothing."""
    recipe = Recipe().override({"model": {"kind": kind}, "optimizer.learning_rate": 1e-3, "training.batch_size": 64})
    treated = applied(name, recipe)
    if treated is None:
        assert not changed(name, recipe)
    else:
        assert {change.path for change in recipe.diff(treated)} or all(
            v is None for v in changed(name, recipe).values()
        )


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("clip-gradients", {"training.max_grad_norm": None}, {"training.max_grad_norm": 1.0}),
        ("lower-learning-rate", {"optimizer.learning_rate": 1.0}, {"optimizer.learning_rate": 0.1}),
        ("usual-learning-rate", {"optimizer.learning_rate": 1.0}, {"optimizer.learning_rate": None}),
        ("unsaturated-activation", {"model.activation": "sigmoid"}, {"model.activation": "relu"}),
        ("normalise-layers", {"training.batch_size": 64}, {"model.norm": "batch"}),
        ("shuffle", {"data.shuffle": False}, {"data.shuffle": True}),
        ("deduplicate", {"task": "tabular-classification"}, {"data.deduplicate": True}),
        ("usual-schedule", {"schedule.kind": "step", "schedule.drop": 0.5}, {"schedule.kind": "cosine", "schedule.drop": 0.1}),
        ("usual-model", {"model.widths": [2]}, {"model.widths": [128, 128]}),
        ("larger-network", {"model.widths": [256, 256]}, {"model.widths": [512, 512]}),
        ("larger-batch", {"training.batch_size": 4, "training.steps": 800}, {"training.batch_size": 32, "training.steps": 100}),
        ("smaller-micro-batch", {"training.batch_size": 64}, {"training.gradient_accumulation_steps": 2}),
        ("usual-momentum", {"optimizer.eps": 1.0}, {"optimizer.eps": 1e-8}),
    ],
)  # fmt: skip
def test_what_they_set(name: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    assert changed(name, Recipe().override({"model": {"kind": "mlp"}} | before)) == after


@pytest.mark.parametrize(
    "name",
    [
        "clip-gradients",
        "unsaturated-activation",
        "shuffle",
        "usual-schedule",
        "usual-model",
        "usual-learning-rate",
        "sharp-labels",
    ],
)
def test_a_usual_recipe_has_nothing_to_be_made_usual(name: str) -> None:
    assert applied(name, Recipe().override({"model": {"kind": "mlp"}}, by="default")) is None


def test_rates_of_parts_go_with_the_rate() -> None:
    recipe = Recipe().override({"optimizer.learning_rate": 1.0, "optimizer.learning_rates": {"head.*": 3.0}})
    assert changed("lower-learning-rate", recipe)["optimizer.learning_rates"] == pytest.approx({"head.*": 0.3})


def test_a_rate_beyond_what_a_recipe_allows_is_no_remedy() -> None:
    assert applied("much-higher-learning-rate", Recipe().override({"optimizer.learning_rate": 50.0})) is None
