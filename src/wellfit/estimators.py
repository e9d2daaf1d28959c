"""Networks for tables behind scikit-learn's interface: `WellfitClassifier` and `WellfitRegressor`.

They go wherever an estimator goes (`Pipeline`, `GridSearchCV`, `cross_val_score`, pickles) and train as a recipe for tables does: an
MLP, by the loop, with the doctor beside it. Columns are standardised inside, by the mean and deviation of the rows that are learnt
from, and for numbers the target too, so no scaler is needed in front. Rows are kept in single precision: a column whose values
differ only in its eighth digit (seconds since 1970) should have its beginning subtracted first.

Not here: sparse matrices, missing values, several targets (`sklearn.multioutput` has wrappers), and categories as text
(`OneHotEncoder` before, or `wellfit train table.csv`, which encodes them itself).

    >>> from sklearn.model_selection import cross_val_score
    >>> cross_val_score(WellfitClassifier(random_state=0), X, y).mean()
    0.97
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from wellfit import api, losses
from wellfit.data.arrays import Arrays, Loaded
from wellfit.data.batches import Batch, Held, InMemory, untouched_randomness
from wellfit.data.fingerprint import fingerprint
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.probe import Probe
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.events import Ended, Event, Stepped
from wellfit.recipe import Recipe
from wellfit.report.progress import Progress
from wellfit.run import Run
from wellfit.tasks.task import Supervised
from wellfit.train.fit import fit as turn
from wellfit.train.record import Blind, Observer
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials.find_lr import measured

USUAL: dict[str, Any] = {  # where neither the recipe nor `set` says otherwise
    "model": {
        "kind": "mlp",
        "widths": (64, 64),
        "activation": "tanh",
        "dropout": 0.2,
    },  # smooth, as small tables like it
    "optimizer.learning_rate": 0.003,
    "optimizer.weight_decay": 0.1,
}
BATCH, STEPS, FEWEST, MOST = 32, 800, 30, 200  # rows of a batch; steps, as far as epochs between these two make them
SOURCE = "rows passed to fit"  # in place of where data lies, in the recipe of a run
AT_ONCE = 65_536  # rows that are predicted together


class _OfTable(BaseEstimator):
    """What both have in common: parameters, training, and the trained network."""

    _task: str

    def __init__(
        self,
        recipe: Any = None,
        *,
        set: Mapping[str, Any] | None = None,
        epochs: float | None = None,
        learning_rate: float | str | None = None,
        valid_share: float = 0.0,
        random_state: Any = None,
        runs: Any = None,
        quiet: bool = True,
    ):
        self.recipe = recipe
        self.set = set
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.valid_share = valid_share
        self.random_state = random_state
        self.runs = runs
        self.quiet = quiet

    # ---- fitting

    def _fit(self, X: np.ndarray, y: np.ndarray, classes: Sequence[str], sample_weight: Any) -> None:
        """Trains on rows float32 [N, F] and targets, int64 numbers of classes or float32 numbers [N]."""
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)
            counts = weights > 0
            if not counts.any():
                raise ValueError("All of `sample_weight` is zero, so no row counts and there is nothing to learn from.")
            X, y, weights = X[counts], y[counts], weights[counts]
        if len(classes) and len(np.unique(y)) < 2:
            raise DataError(
                f"All rows are of one class, {classes[int(y[0])]!r}; there is nothing to tell apart. Give rows of at least two classes."
            )
        seed = self._seed()
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{i}" for i in range(X.shape[1])])]
        held = _held_out(y, self.valid_share, seed, bool(len(classes)))
        stay = np.setdiff1d(np.arange(len(y)), held)

        def rows(numbers: np.ndarray) -> Arrays:
            return Arrays(torch.from_numpy(X[numbers]), torch.from_numpy(y[numbers]))

        train = rows(stay)
        loaded = Loaded(
            self._task, "rows", train, rows(held) if len(held) else None, None, fingerprint(train.inputs, train.targets),
            tuple(classes), tuple(names), {"numeric": names},
        )  # fmt: skip
        recipe = self._recipe(seed, len(stay))
        with untouched_randomness():
            recipe, told = measured(recipe, loaded=loaded)
            with torch_settings(recipe):
                job = from_recipe(recipe, loaded)
                job.notes += told
                if weights is not None:
                    _weigh(job, *(torch.from_numpy(weights[numbers]) for numbers in (stay, held)))
                self.run_: Run | None = None
                if self.runs is not None:
                    self.run_ = api.trained(job, root=Path(self.runs), quiet=self.quiet)
                    ended, self.findings_ = self.run_.ended(), self.run_.findings()
                else:
                    ended, self.findings_ = _in_memory(
                        job, [] if self.quiet else [Progress(sys.stderr)], weights is not None
                    )
        if not len(held):  # whoever fits an estimator scores it on rows that it is not shown
            self.findings_ = [finding for finding in self.findings_ if finding["id"] != "validation-missing"]
        if ended is None or ended.reason == "interrupted":
            raise KeyboardInterrupt
        # In double precision, for a row's answer shall not depend on the rows beside it.
        self.model_ = job.model.cpu().double().eval()
        self.recipe_, self.n_steps_ = job.recipe, ended.step
        if ended.reason == "loss-not-finite":
            why = f" {self.findings_[0]['says']}" if self.findings_ else ""
            raise ModelError(
                f"The loss was no longer a number after step {ended.step}, so nothing was learnt.{why} Try a smaller `learning_rate`."
            )

    def _seed(self) -> int:
        """A number keeps its meaning; a generator is asked for one."""
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state) % 2**32
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _recipe(self, seed: int, rows: int) -> Recipe:
        """What is trained: the given recipe, or the usual one; then `set`; then the parameters that have a name of their own."""
        if self.recipe is None:
            batch = min(BATCH, rows)
            length = {
                "training.batch_size": batch,
                "training.epochs": float(min(MOST, max(FEWEST, round(STEPS * batch / rows)))),
            }
            recipe = Recipe().override(
                {**USUAL, **length}, by="default", why="what did well on small tables in cross-validation"
            )
        else:
            recipe = self.recipe if isinstance(self.recipe, Recipe) else Recipe.load(self.recipe)
        own = {"training.epochs": self.epochs, "optimizer.learning_rate": self.learning_rate}
        chosen = {**(self.set or {}), **{path: value for path, value in own.items() if value is not None}}
        recipe = recipe.override(chosen) if chosen else recipe
        if recipe.task not in (None, self._task):
            raise RecipeError(
                f"The recipe is for {recipe.task}, and {type(self).__name__} learns {self._task}. Give another recipe."
            )
        passed = {"data.source": SOURCE, "data.target": None, "data.valid_share": 0.0, "task": self._task}
        return recipe.override({**passed, "training.seed": seed}, by="derived", why="passed in Python")

    # ---- what is told of new rows

    @torch.no_grad()
    def _outputs(self, X: Any) -> np.ndarray:
        """float64, of the network: logits [N, classes], or numbers [N]."""
        check_is_fitted(self)
        rows = torch.from_numpy(_writable(validate_data(self, X, dtype=np.float32, reset=False)))
        return torch.cat([self.model_(part) for part in torch.split(rows, AT_ONCE)]).numpy()


class WellfitClassifier(ClassifierMixin, _OfTable):
    """Rows into classes.

    recipe:         a preset's name, a recipe file or a `Recipe`; None: an MLP with two layers of 64, for some 800 steps
    set:            dotted changes of it, {"model.widths": (128, 128), "loss.class_weights": "balanced"}
    epochs:         passes over the rows; None: the recipe's
    learning_rate:  a number, "auto" to have it measured before the training, or None for the recipe's
    valid_share:    share of the rows held out to keep the weights that do best on them, and for `evaluation.patience`; 0: none
    random_state:   decides weights, order, dropout and what is held out
    runs:           a folder in which each fit leaves a run with its report; None: nothing is written
    quiet:          whether progress is not told on the standard error

    After `fit`: `classes_`, `n_features_in_`, `feature_names_in_` where columns had names, `findings_` (what the doctor
    found), `run_` (or None), `recipe_` (with every value resolved), `model_` (a module in double precision), `n_steps_`.

    Raises ValueError and its heirs in `wellfit.errors` for what cannot be learnt from.
    """

    _task = "tabular-classification"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "WellfitClassifier":
        """Trains on rows [N, F] and labels [N]. `sample_weight` [N]: how much each row counts; 0 leaves it out."""
        X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        self._fit(_writable(X), numbers.astype(np.int64), [str(name) for name in self.classes_], sample_weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class of `classes_`, float64 [N, classes]."""
        return torch.from_numpy(self._outputs(X)).softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row."""
        numbers = self._outputs(X).argmax(1)
        classes: np.ndarray = self.classes_[numbers]
        return classes


class WellfitRegressor(RegressorMixin, _OfTable):
    """Rows into numbers. Parameters and attributes are those of `WellfitClassifier`, without `classes_`."""

    _task = "tabular-regression"

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "WellfitRegressor":
        """Trains on rows [N, F] and numbers [N]. `sample_weight` [N]: how much each row counts; 0 leaves it out."""
        X, y = validate_data(self, X, y, dtype=np.float32, y_numeric=True, ensure_min_samples=2)
        self._fit(_writable(X), np.asarray(y, dtype=np.float32), (), sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The number expected for each row, float64 [N], in the target's unit."""
        return self._outputs(X)


# ---- rows


def _writable(X: np.ndarray) -> np.ndarray:
    """As torch wants arrays: with rows one after another, and not read-only."""
    X = np.ascontiguousarray(X)
    return X if X.flags.writeable else X.copy()


def _held_out(y: np.ndarray, share: float, seed: int, of_classes: bool) -> np.ndarray:
    """The numbers of the rows that are held out, every n-th of them by target, so that they are like those that stay.

    The only row of a class always stays. Raises RecipeError for a share that holds out none or nearly all.
    """
    if not share:
        return np.arange(0)
    if not 0 < share <= 0.5:
        raise RecipeError(f"`valid_share` is {share}; it is a share of the rows from 0 to 0.5.")
    drawn = np.random.default_rng(seed).random(len(y))
    step = 1 / share
    by_target = np.lexsort((drawn, y))
    held = by_target[(np.arange(max(1, int(len(y) * share))) * step + step / 2).astype(int).clip(max=len(y) - 1)]
    if of_classes:
        held = held[np.bincount(y)[y[held]] > 1]
    return np.sort(held)


# ---- weights of rows


class Weighing(Supervised):
    """A task on batches (rows, targets, weights): its loss, each row's times the row's weight."""

    def __init__(self, task: Supervised, each: Callable[[Tensor, Tensor], Tensor], of_class: Tensor | None):
        super().__init__(task.criterion, *task.metrics)
        self.each, self.of_class = each, of_class

    def weight(self, batch: Batch) -> float | Tensor:
        _, y, w = batch
        weight: Tensor = (w if self.of_class is None else w * self.of_class[y]).sum()
        return weight

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y, w = batch
        total: Tensor = (self.each(model(x), y) * w).sum()
        return total

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        x, y, w = batch
        outputs = model(x)
        sums = {"loss": (self.each(outputs, y) * w).sum(), "weight": torch.as_tensor(self.weight(batch)).double()}
        for metric in self.metrics:
            sums |= metric.sums(outputs, y)
        return sums

    def check(self, model: nn.Module, batch: Batch) -> None:
        super().check(model, batch[:2])


def _weigh(job: Job, train: Tensor, valid: Tensor) -> None:
    """Gives the rows of a job their weights. Raises RecipeError for a loss that does not tell rows apart."""
    task, batches, loaded, loss = job.task, job.batches, job.loaded, job.recipe.loss
    assert isinstance(task, Supervised)
    assert isinstance(batches, InMemory)
    assert loaded is not None
    of_class, criterion = None, task.criterion
    if loss.kind == "cross-entropy":
        assert isinstance(criterion, losses.CrossEntropy)
        of_class = criterion.class_weights
        each = functools.partial(
            F.cross_entropy, weight=of_class, reduction="none", label_smoothing=loss.label_smoothing
        )
    elif loss.kind in ("mse", "huber", "smooth-l1"):
        functions: dict[str, Callable[..., Tensor]] = {
            "mse": F.mse_loss,
            "huber": functools.partial(F.huber_loss, delta=loss.delta),
            "smooth-l1": functools.partial(F.smooth_l1_loss, beta=loss.delta),
        }
        function, scale = functions[loss.kind], float(criterion.scale)  # type: ignore[attr-defined]  # in deviations of the target, as without weights

        def each(outputs: Tensor, targets: Tensor) -> Tensor:  # type: ignore[misc]
            return function(outputs / scale, targets / scale, reduction="none")
    else:
        raise RecipeError(
            f"`sample_weight` does not go with `loss.kind={loss.kind}`; leave it out, or choose cross-entropy for classes and mse, huber or "
            "smooth-l1 for numbers."
        )
    mean = train.mean()  # so that a batch of weights far from 1 is still a batch
    job.task = Weighing(task, each, of_class)
    job.batches = InMemory((*batches.tensors, train / mean), batches.order, batches.device)
    if job.valid is not None:
        size = job.valid.batch_size
        job.valid = Held.of_tensors((loaded.valid.inputs, loaded.valid.targets, valid / mean), size, job.device)


# ---- a training that leaves nothing on disk


class _Memory:
    """A `Recorder` of a training in memory: the doctor and the observers hear of it, and the best weights are kept."""

    checkpoints = None
    first = True
    tolerant = False

    def __init__(self, probe: Any, listeners: Iterable[Observer]):
        self.probe, self.listeners, self.finite = probe, list(listeners), True
        self.best: dict[str, Tensor] | None = None
        self._steps: list[tuple[int, list[Tensor], float | Tensor, Tensor, float, bool]] = []

    def add(
        self, step: int, losses: list[Tensor], weight: float | Tensor, grad_norm: Tensor, learning_rate: float, updated: bool, waited: float
    ) -> None:  # fmt: skip
        del waited
        self._steps.append((step, losses, weight, grad_norm, learning_rate, updated))

    def flush(self) -> bool:
        """Tells of the steps since the last time. False as soon as a loss or gradient was not finite."""
        for step, parts, weight, norm, rate, updated in self._steps:
            loss = sum(float(part) for part in parts) / max(float(weight), 1e-12)
            self._tell(Stepped(step, loss, float(norm), rate, skipped=not updated))
            if updated or not self.tolerant:  # a step that was skipped changed nothing
                self.finite = self.finite and math.isfinite(loss) and math.isfinite(float(norm))
        self._steps = []
        vitals = getattr(self.probe, "vitals", [])
        for event in list(vitals):
            self._tell(event)
        vitals.clear()
        return self.finite

    def emit(self, event: Event) -> None:
        self.flush()
        self._tell(event)

    def save_is_overdue(self) -> bool:
        return False

    def save(self, job: Job, best: bool) -> None:
        self.flush()
        if best:
            self.best = {name: value.clone() for name, value in job.model.state_dict().items()}

    def note(self, text: str) -> None: ...
    def back_to(self, step: int, best: int | None) -> None: ...

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)


def _in_memory(job: Job, observers: list[Observer], weighted: bool) -> tuple[Ended, list[dict[str, Any]]]:
    """Trains a job; how it ended, and what the doctor found."""
    doctor = Doctor() if job.recipe.training.doctor else None
    listeners = [*([doctor.see] if doctor is not None else []), *observers]
    probe: Any = Blind()
    if doctor is not None and not job.recipe.hardware.compile:
        loss = job.recipe.loss
        weighs = weighted or loss.class_weights is not None or loss.kind == "focal"
        probe = Probe(job.model, job.optimizer, weighted=weighs)
    record = _Memory(probe, listeners)
    record.emit(api.started(job))
    reason = turn(job, record)
    if job.recipe.evaluation.restore_best and record.best is not None and reason != "interrupted":
        job.put(record.best)
    if doctor is not None and isinstance(probe, Probe) and reason in ("finished", "early-stopping"):
        for vitals in probe.closing(doctor.history("")):
            record.emit(vitals)
    standing = job.standing
    ended = Ended(standing.step, reason, 0.0, standing.best_step, standing.best_value)
    record.emit(ended)
    return ended, [finding.as_dict() for finding in doctor.findings()] if doctor is not None else []
