"""The estimators keep scikit-learn's contract, train as a recipe does, and leave nothing behind."""

import contextlib
import pickle
import random

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import wellfit
from wellfit import WellfitClassifier, WellfitRegressor
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.recipe import Recipe

X, Y = load_wine(return_X_y=True)
ROWS, NUMBERS = (part[:120] for part in load_diabetes(return_X_y=True, scaled=False))
QUICK = {"epochs": 8, "random_state": 0}


def by_rows(_estimator: object) -> dict[str, str]:
    return {
        "check_sample_weight_equivalence_on_dense_data": "batches and dropout are drawn row by row, so a row of weight 2 is not the same "
        "draw as two rows; that holds for whatever learns by stochastic gradients"
    }


@parametrize_with_checks([WellfitClassifier(epochs=10), WellfitRegressor(epochs=10)], expected_failed_checks=by_rows)
def test_the_contract_of_scikit_learn(estimator, check) -> None:
    check(estimator)


def test_classes_are_learnt_and_named() -> None:
    names = np.array(["red", "white", "rosé"])[Y]
    made = WellfitClassifier(**(QUICK | {"epochs": 30})).fit(X, names)
    assert made.score(X, names) > 0.97
    assert made.classes_.tolist() == ["red", "rosé", "white"]
    shares = made.predict_proba(X)
    assert shares.dtype == np.float64
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (made.predict(X) == made.classes_[shares.argmax(1)]).all()
    assert made.findings_ == [], "a healthy training, and whoever cross-validates is not told that nothing is held out"
    assert made.run_ is None


def test_numbers_come_back_in_their_unit() -> None:
    made = WellfitRegressor(random_state=0, epochs=60).fit(ROWS, 1000 * NUMBERS)
    assert made.score(ROWS, 1000 * NUMBERS) > 0.4
    assert abs(made.predict(ROWS).mean() / (1000 * NUMBERS).mean() - 1) < 0.1


def test_the_same_seed_gives_the_same_bits_and_generators_are_left_alone() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    before = random.random(), np.random.random(), torch.rand(1)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    first = WellfitClassifier(**QUICK).fit(X, Y)
    assert (random.random(), np.random.random(), torch.rand(1)) == before
    again, other = WellfitClassifier(**QUICK).fit(X, Y), WellfitClassifier(epochs=8, random_state=1).fit(X, Y)
    assert (first.predict_proba(X) == again.predict_proba(X)).all()
    assert (first.predict_proba(X) != other.predict_proba(X)).any()
    drawn = WellfitClassifier(epochs=8, random_state=np.random.RandomState(5)).fit(X, Y)
    same = WellfitClassifier(epochs=8, random_state=np.random.RandomState(5)).fit(X, Y)
    assert (drawn.predict_proba(X) == same.predict_proba(X)).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_kept_run_is_the_same_training(tmp_path, weighted: bool) -> None:
    """On disk or in memory: the same bits, scores on what is held out, and findings; the run predicts as any other."""
    weights = np.linspace(0.5, 2, len(Y)) if weighted else None
    memory = WellfitClassifier(**QUICK, valid_share=0.2).fit(X, Y, weights)
    kept = WellfitClassifier(**QUICK, valid_share=0.2, runs=tmp_path / "runs").fit(X, Y, weights)
    assert (memory.predict_proba(X) == kept.predict_proba(X)).all()
    assert [f["id"] for f in memory.findings_] == [f["id"] for f in kept.findings_]
    assert memory.n_steps_ == kept.n_steps_ == kept.run_.ended().step
    assert (kept.run_.folder / "report.html").is_file()
    assert 0 < kept.run_.scores()["loss"] < 1.2
    told = wellfit.predict(kept.run_, X[:3])
    assert [one["class"] for one in told] == [str(one) for one in kept.predict(X[:3])]
    assert kept.run_.recipe.training.epochs == 8


def test_in_pipelines_searches_and_pickles() -> None:
    pipeline = make_pipeline(MinMaxScaler(), WellfitClassifier(**QUICK))
    assert cross_val_score(pipeline, X, Y, cv=2).min() > 0.8
    search = GridSearchCV(WellfitClassifier(**QUICK), {"epochs": [1, 12]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"epochs": 12}
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert (again.predict_proba(X) == search.predict_proba(X)).all()
    assert clone(again).get_params() == again.get_params()


def test_names_of_columns_are_kept() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :3], columns=["a", "b", "c"])
    made = WellfitClassifier(**QUICK).fit(frame, Y)
    assert made.feature_names_in_.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names"):
        made.predict(frame[["c", "b", "a"]])


def test_weights_of_rows_count() -> None:
    """Rows that contradict each other: the heavier ones decide. Zero leaves a row out, to the bit."""
    rows, labels = np.concatenate([X, X]), np.concatenate([Y == 0, Y != 0])
    weights = np.concatenate([np.full(len(Y), 9.0), np.full(len(Y), 1.0)])
    made = WellfitClassifier(epochs=20, random_state=0).fit(rows, labels, weights)
    assert made.score(X, Y == 0) > 0.95
    assert abs(made.predict_proba(X).max(1).mean() - 0.9) < 0.07, "nine of ten, by weight"
    zeroed = WellfitClassifier(**QUICK).fit(rows, labels, np.concatenate([np.ones(len(Y)), np.zeros(len(Y))]))
    alone = WellfitClassifier(**QUICK).fit(X, Y == 0, np.ones(len(Y)))
    assert (zeroed.predict_proba(X) == alone.predict_proba(X)).all()
    plain = WellfitRegressor(**QUICK).fit(ROWS, NUMBERS).predict(ROWS)
    np.testing.assert_allclose(
        WellfitRegressor(**QUICK).fit(ROWS, NUMBERS, np.full(120, 3.0)).predict(ROWS), plain, rtol=1e-4
    )
    for loss in ("huber", "smooth-l1"):
        weighed = WellfitRegressor(**QUICK, set={"loss.kind": loss})
        even, heavy = weighed.fit(ROWS, NUMBERS).predict(ROWS), weighed.fit(ROWS, NUMBERS, NUMBERS).predict(ROWS)
        assert heavy.mean() > even.mean() + 1, loss


def test_recipes_and_their_changes(tmp_path) -> None:
    made = WellfitClassifier("wine", set={"model.widths": (8,), "loss.class_weights": "balanced"}, **QUICK).fit(X, Y)
    assert made.recipe_.model.widths == (8,)
    assert made.recipe_.model.dropout == 0.2, "the preset's"
    assert made.recipe_.training.epochs == 8
    (tmp_path / "own.yaml").write_text("optimizer: {kind: sgd, learning_rate: 0.01}\n")
    own = WellfitClassifier(tmp_path / "own.yaml", **QUICK, learning_rate=0.02).fit(X, Y)
    assert (own.recipe_.optimizer.kind, own.recipe_.optimizer.learning_rate) == ("sgd", 0.02)
    stops = {"evaluation.patience": 1, "evaluation.min_improvement": 10.0}
    early = WellfitClassifier(Recipe(), set=stops, valid_share=0.2, epochs=50, random_state=0).fit(X, Y)
    assert early.n_steps_ < 50 * 4


def test_a_measured_rate() -> None:
    made = WellfitClassifier(learning_rate="auto", **QUICK).fit(X[::2], Y[::2])
    assert made.recipe_.origin("optimizer.learning_rate").by in ("measured", "derived")
    assert isinstance(made.recipe_.optimizer.learning_rate, float)


def test_what_is_held_out_is_like_what_stays() -> None:
    from wellfit.estimators import _held_out

    labels = np.array([0] * 90 + [1] * 9 + [2])
    held = _held_out(labels, 0.2, 0, True)
    assert np.bincount(labels[held], minlength=3).tolist()[:2] in ([18, 2], [18, 1], [19, 1])
    assert 99 not in held, "the only row of a class stays"
    assert (_held_out(labels, 0.2, 0, True) == held).all()
    assert (_held_out(labels, 0.2, 1, True) != held).any()
    numbers = np.linspace(0, 1, 50)
    assert abs(numbers[_held_out(numbers, 0.1, 0, False)].mean() - 0.5) < 0.1
    assert not len(_held_out(labels, 0.0, 0, True))


def test_the_doctor_is_there() -> None:
    wild = {"optimizer.kind": "sgd", "training.max_grad_norm": None}
    made = WellfitClassifier(learning_rate=50.0, epochs=20, random_state=0, set=wild)
    with contextlib.suppress(
        ModelError
    ):  # where the loss is no number in the end; what was found is there all the same
        made.fit(X, Y)
    found = {finding["id"] for finding in made.findings_}
    assert found & {"learning-rate-too-high", "loss-not-finite", "gradient-not-finite"}


def test_errors_say_what_to_do() -> None:
    with pytest.raises(DataError, match="at least two classes"):
        WellfitClassifier(**QUICK).fit(X, np.zeros(len(X)))
    with pytest.raises(RecipeError, match=r"from 0 to 0\.5"):
        WellfitClassifier(valid_share=0.9).fit(X, Y)
    with pytest.raises(RecipeError, match=r"does not go with `loss\.kind=focal`"):
        WellfitClassifier(**QUICK, set={"loss.kind": "focal"}).fit(X, Y, np.ones(len(Y)))
    with pytest.raises(RecipeError, match="Did you mean"):
        WellfitClassifier(set={"optimizer.learning_rat": 1}).fit(X, Y)
    with pytest.raises(ModelError, match="takes images"):
        WellfitClassifier("digits", **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match="NaN"):
        WellfitClassifier().fit(np.full((10, 2), np.nan), np.arange(10) % 2)
