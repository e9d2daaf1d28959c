"""A run in words: the headline and the short summary that the report and the command line share.

Everything is told from the recipe and the events alone. These are statements of what was recorded, not a diagnosis:
why a number is what it is, and what to change, is the doctor's business.

    >>> print(*summary(run.recipe, run.events()), sep="\\n")
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from wellfit.events import DOCTOR, Ended, Evaluated, Event, Noted, Paced, Started, Stepped
from wellfit.recipe import Change, Recipe

E = TypeVar("E", bound=Event)


class Metric(NamedTuple):
    """How a metric is spoken of."""

    plain: str  # inside a sentence
    better: str  # "max" or "min"
    share: bool = False  # between 0 and 1, told in percent


METRICS = {
    "loss": Metric("loss", "min"),
    "accuracy": Metric("accuracy", "max", share=True),
    "error": Metric("error rate", "min", share=True),
    "f1": Metric("F1 score", "max"),
    "r2": Metric("R²", "max"),
    "rmse": Metric("root mean square error", "min"),
    "mae": Metric("mean absolute error", "min"),
    "mse": Metric("mean squared error", "min"),
    "perplexity": Metric("perplexity", "min"),
    "bleu": Metric("BLEU", "max"),
    "chrf": Metric("chrF", "max"),
    "rouge1": Metric("ROUGE-1", "max"),
    "rougeL": Metric("ROUGE-L", "max"),
    "spearman": Metric("Spearman correlation", "max"),
    "mrr": Metric("mean reciprocal rank", "max"),
    "recall_at_1": Metric("recall at 1", "max", share=True),
    "precision": Metric("precision", "max"),
    "recall": Metric("recall", "max"),
    "token_accuracy": Metric("accuracy over tokens", "max", share=True),
}
TOLD_FIRST = (  # which metric stands for a run, if several were taken
    "accuracy", "error", "r2", "rmse", "mae", "bleu", "spearman", "mrr", "f1",
)  # fmt: skip
TASKS = {
    "image-classification": "image classification",
    "tabular-classification": "classification of table rows",
    "tabular-regression": "regression on table rows",
    "seq-to-seq": "making one text into another",
    "sentence-embeddings": "vectors of sentences",
    "token-classification": "tagging words",
    "forecasting": "forecasting of series",
}
NETWORKS = {
    "convnet": "convolutional network",
    "mlp": "multi-layer perceptron",
    "bag": "bag of words",
    "faster-rcnn": "Faster R-CNN",
    "encoder-decoder": "Transformer",
    "recurrent": "recurrent network",
    "patchtst": "Transformer over patches",
    "dlinear": "pair of linear maps",
    "tft": "Temporal Fusion Transformer",
}
SURE = 0.9  # below it, a finding says how sure it is
SPLITS = {"valid": "validation", "test": "test", "old": "old task's"}


class Standing(NamedTuple):
    """The model beside the best baseline, on one split and one metric."""

    metric: str
    model: float
    rival: str
    best: float
    wins: bool | None  # None: level, to the digits shown


def summary(recipe: Recipe, events: Sequence[Event]) -> list[str]:
    """What was trained, how well, whether it beat the baseline, how long it took: short sentences."""
    sentences = [_trained(recipe, events), _result(recipe, events), _against(recipe, events), _time(events)]
    return [sentence for sentence in sentences if sentence]


def onset(finding: Mapping[str, Any]) -> str:
    """From when on something was found, and how sure that is where it is not: "from step 96, 75 % sure"."""
    step, sure = finding.get("onset_step"), finding.get("confidence")
    began = "" if not isinstance(step, int) else f"from step {step:,}" if step else "before the first step"
    doubt = f"{100 * sure:.0f} % sure" if isinstance(sure, float) and sure < SURE else ""
    return ", ".join(part for part in (began, doubt) if part)


def notes(events: Sequence[Event], findings: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """What was noted, once each; what the doctor noted on the way is left out where its `findings` are told, which it judged at the end."""
    noted = dict.fromkeys(event.text for event in events if isinstance(event, Noted))
    return [text for text in noted if not (findings and text.startswith(DOCTOR))]


def headline(recipe: Recipe, events: Sequence[Event]) -> str:
    """The result in one line: `99.2 % test accuracy after 20 epochs; best at step 400`."""
    if not any(isinstance(event, Started) for event in events):
        return "Nothing has been trained yet"
    reached, ended = _after(events), last(events, Ended)
    if ended is not None and ended.reason == "loss-not-finite":
        what, step = _broke(events, ended)
        return f"Failed at step {step:,}: the {what} was not a finite number"
    scored = chosen_scores(recipe, events)
    if scored is not None:
        name = told(scored.metrics, recipe.evaluation.metric)
        result = f"{scored_as(name, scored.metrics[name], scored.split)} after {reached}"
    else:
        losses = [event.loss for event in events if isinstance(event, Stepped)]
        result = (
            f"Training loss {number(losses[-1])} after {reached}" if losses else f"Nothing measured after {reached}"
        )
    best = best_step(recipe, events)
    if best is not None and len(evaluations(events)) > 1:
        result += f"; best at step {best:,}"
    if ended is None:
        return f"Not ended: {result}"
    return f"Interrupted: {result}" if ended.reason == "interrupted" else result


def verdict(recipe: Recipe, events: Sequence[Event]) -> Standing | None:
    """How the model stands beside the best baseline; None where there is none, or no number to compare."""
    scored = chosen_scores(recipe, events)
    if scored is None:
        return None
    rivals = {
        event.of: event.metrics
        for event in events
        if isinstance(event, Evaluated) and event.of != "model" and event.split == scored.split
    }
    shared = {
        name: value
        for name, value in scored.metrics.items()
        if better(recipe, name) and any(name in metrics for metrics in rivals.values())
    }
    if not shared:
        return None
    name = told(shared, recipe.evaluation.metric)
    sign = 1 if better(recipe, name) == "max" else -1
    finite = {of: m[name] for of, m in rivals.items() if math.isfinite(m.get(name, math.nan))}
    if not finite:
        return None
    rival = max(finite, key=lambda of: sign * finite[of])
    mine, best = shared[name], finite[rival]
    level = math.isfinite(mine) and amount(name, mine) == amount(name, best)
    return Standing(name, mine, rival, best, None if level else math.isfinite(mine) and sign * (mine - best) > 0)


# ---- what the events hold


def last(events: Sequence[Event], kind: type[E]) -> E | None:
    """The latest event of a kind."""
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def evaluations(events: Iterable[Event], split: str = "valid") -> list[Evaluated]:
    """The model's scores on a split, in the order of steps."""
    return [event for event in events if isinstance(event, Evaluated) and event.of == "model" and event.split == split]


def best_step(recipe: Recipe, events: Sequence[Event]) -> int | None:
    """The step whose weights scored best on the validation set; None if nothing finite was scored."""
    ended = last(events, Ended)
    if ended is not None and ended.best_step is not None:
        return ended.best_step
    name = recipe.evaluation.metric or "loss"
    sign = 1 if better(recipe, name) == "max" else -1
    scores = {event.step: sign * event.metrics.get(name, math.nan) for event in evaluations(events)}
    finite = {step: score for step, score in scores.items() if math.isfinite(score)}
    return max(finite, key=lambda step: finite[step]) if finite else None


def chosen_scores(recipe: Recipe, events: Sequence[Event]) -> Evaluated | None:
    """The scores that stand for the run: on the test set, or on the validation set at its best step."""
    tests, valids = ([event for event in evaluations(events, split) if event.metrics] for split in ("test", "valid"))
    best = best_step(recipe, events)
    return (tests or [event for event in valids if event.step == best] or valids or [None])[-1]  # type: ignore[list-item]


def told(metrics: Mapping[str, float], wanted: str | None = None) -> str:
    """The name of the one metric that stands for all of them: the wanted one, unless that is only the loss."""
    order = [*([wanted] if wanted and wanted != "loss" else []), *TOLD_FIRST, *(n for n in metrics if n != "loss")]
    return next((name for name in order if name in metrics), "loss")


def better(recipe: Recipe, name: str) -> str | None:
    """Whether more ("max") or less ("min") of a metric is better; None for one that nobody told us about."""
    if name == recipe.evaluation.metric and recipe.evaluation.goal:
        return recipe.evaluation.goal
    return METRICS[name].better if name in METRICS else None


# ---- names and numbers


def plain(name: str) -> str:
    """A metric's name as it reads in a sentence."""
    return METRICS[name].plain if name in METRICS else name


def amount(name: str, value: float) -> str:
    """A metric's value: shares in percent, all else to four digits."""
    if name in METRICS and METRICS[name].share and 0 <= value <= 1:
        return percent(value)
    return number(value)


def _is(told: str) -> str:
    """`Test R² 0.51` -> `test R² is 0.51`."""
    what = told.partition(" × 10")[0].rpartition(" ")[0]
    return f"{what[0].lower()}{what[1:]} is {told[len(what) + 1 :]}"


def scored_as(name: str, value: float, split: str) -> str:
    """`99.2 % test accuracy`, or `Test R² 0.51` where the value is not a share."""
    where, value_told = SPLITS.get(split, split), amount(name, value)
    if value_told.endswith("%"):
        return f"{value_told} {where} {plain(name)}"
    return f"{where.capitalize()} {plain(name)} {value_told}"


def percent(share: float) -> str:
    """A share of 1 in percent; never rounded up to all or down to nothing."""
    if 0.9995 <= share < 1:
        return f"{min(share * 100, 99.99):.2f} %"
    if 0 < share < 0.0005:
        return f"{max(share * 100, 0.01):.2f} %"
    return f"{share * 100:.0f} %" if share in (0, 1) else f"{share * 100:.1f} %"


def number(value: float) -> str:
    """Four digits, readable; what is not finite is named."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    if value and not 1e-4 <= abs(value) < 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')} × 10{superscript(int(exponent))}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def duration(seconds: float) -> str:
    """`0.4 seconds`, `12 seconds`, `3 min 20 s`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if round(seconds) < 60:
        return f"{seconds:.1f} seconds" if seconds < 9.95 else f"{seconds:.0f} seconds"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ago(seconds: float) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `12 days ago`."""
    if not seconds >= 60:
        return "just now"
    for name, scale in (("min", 60), ("h", 3600)):
        if seconds < scale * (60 if name == "min" else 48):
            return f"{seconds / scale:.0f} {name} ago"
    return f"{seconds / 86400:,.0f} days ago"


def clean(text: str) -> str:
    """The text on one line, without characters that steer a terminal: names come from data."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def setting(value: Any) -> str:
    """A setting's value as one would type it; `not set` for None."""
    if value is None:
        return "not set"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(setting, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def change_told(change: Change) -> str:
    """`training.max_grad_norm: not set -> 1`."""
    return f"{change.path}: {setting(change.before)} -> {setting(change.after)}"


def count(amount: float, one: str, many: str = "") -> str:
    """`1 step`, `2 steps`, `1,437 samples`, `2.5 epochs`."""
    told = f"{amount:,.0f}" if float(amount).is_integer() else f"{amount:.3g}"
    return f"{told} {one if told == '1' else many or one + 's'}"


# ---- the sentences


def _trained(recipe: Recipe, events: Sequence[Event]) -> str:
    started, ended = last(events, Started), last(events, Ended)
    if started is None:
        return "Nothing has been trained yet: the run's folder holds no start of training."
    model = recipe.model
    name = getattr(model, "name", "")
    kind = NETWORKS.get(model.kind, model.kind) if model else "network"
    if model is not None and name:
        kind = f"model of class {name}" if model.kind == "given" else name.rstrip("/").rpartition("/")[2]
    what = f" for {TASKS[recipe.task]}" if recipe.task in TASKS else ""
    data = f" of {recipe.data.source}" if recipe.task != "given" else ""
    begun = (
        f"{'An' if kind[0] in 'aeiouAEIOU' else 'A'} {kind} with {count(started.trainable, 'trainable parameter')}{what} "
        f"was trained on {count(started.train_samples, 'sample')}{data}"
    )
    if ended is not None and ended.reason == "finished":
        return f"{begun} for {_after(events)}."
    end = {
        "early-stopping": "until the validation score had stopped improving",
        "interrupted": "then it was interrupted",
        "loss-not-finite": "then it failed",
    }.get(ended.reason if ended else "", "and has not ended: it is still going, or it was killed")
    return f"{begun} up to step {_reached(events):,} of {started.steps:,}, {end}."


def _result(recipe: Recipe, events: Sequence[Event]) -> str:
    ended = last(events, Ended)
    if ended is not None and ended.reason == "loss-not-finite":
        return _failure(events, ended)
    scored = chosen_scores(recipe, events)
    if scored is None:
        losses = [event.loss for event in events if isinstance(event, Stepped)]
        if not losses:
            return ""
        first, final = number(losses[0]), number(losses[-1])
        course = f"was {first}" if len(losses) == 1 else f"went from {first} to {final}"
        return f"The training loss {course}. Nothing was scored on held-out data."
    name = told(scored.metrics, recipe.evaluation.metric)
    result = scored_as(name, scored.metrics[name], scored.split)
    result = f"It reached {result}" if result.endswith(plain(name)) else f"Its {_is(result)}"
    if name == "r2" and "rmse" in scored.metrics:  # R² says how good, the error says how far off, in the target's unit
        result += f" ({plain('rmse')} {number(scored.metrics['rmse'])})"
    best, tried = best_step(recipe, events), len(evaluations(events))
    if best is None:
        return f"{result}."
    metric = recipe.evaluation.metric or "loss"
    at_best = [event.metrics[metric] for event in evaluations(events) if event.step == best and metric in event.metrics]
    value = f" (validation {plain(metric)} {amount(metric, at_best[0])})" if at_best else ""
    if scored.step == best and tried > 1:
        return f"{result}, with the weights of step {best:,}, the best of {tried:,} evaluations{value}."
    if scored.step == best:
        return f"{result}, with the weights of step {best:,}{value}."
    return f"{result}, with the weights of step {scored.step:,}; the best evaluation was at step {best:,}{value}."


def _failure(events: Sequence[Event], ended: Ended) -> str:
    finite = [event for event in events if isinstance(event, Stepped) and math.isfinite(event.loss)]
    before = f" It was last finite at step {finite[-1].step:,}: {number(finite[-1].loss)}." if finite else ""
    what, at = _broke(events, ended)
    kept = f" The best weights before that, of step {ended.best_step:,}, are kept." if ended.best_step else ""
    return (
        f"The {what} stopped being a finite number at step {at:,}, so training could not go on.{before}{kept} "
        "Try a smaller `optimizer.learning_rate` first, and look for extreme values in the data."
    )


def _broke(events: Sequence[Event], ended: Ended) -> tuple[str, int]:
    """What was first not finite, the loss or the gradient, and at which step."""
    for event in events:
        if isinstance(event, Stepped) and not event.skipped:
            if not math.isfinite(event.loss):
                return "loss", event.step
            if not math.isfinite(event.grad_norm):
                return "gradient", event.step
    return "loss", ended.step


def _against(recipe: Recipe, events: Sequence[Event]) -> str:
    standing = verdict(recipe, events)
    if standing is None:
        return ""
    mine, best = (amount(standing.metric, value) for value in (standing.model, standing.best))
    name = plain(standing.metric)
    if standing.wins is None:
        return f"It is level with {standing.rival}, the best baseline ({name} {best})."
    if standing.wins:
        return f"It beats {standing.rival}, the best baseline ({name} {mine} against {best})."
    return (
        f"It does not beat the baseline: {standing.rival} is better ({name} {best} against {mine}). "
        "As things stand, prefer that one."
    )


def _spent(events: Sequence[Event]) -> float:
    """Seconds of all steps, however often the training was stopped."""
    paces = sorted((event for event in events if isinstance(event, Paced)), key=lambda pace: pace.step)
    steps = [0, *(pace.step for pace in paces)]
    return sum(pace.seconds_per_step * (pace.step - before) for pace, before in zip(paces, steps, strict=False))


def _time(events: Sequence[Event]) -> str:
    started = last([event for event in events if not (isinstance(event, Started) and event.went_back)], Started)
    ended = last(events, Ended)
    if started is None or ended is None:
        return ""
    where = f"on {started.device} in {started.precision}" + (
        f", {started.world} processes" if started.world > 1 else ""
    )
    if started.step >= ended.step:  # nothing was left to do
        return f"It took {duration(_spent(events))} {where}."
    if started.step:
        return f"The last part, from step {started.step:,} on, took {duration(ended.seconds)} {where}."
    return f"It took {duration(ended.seconds)} {where}."


def _reached(events: Sequence[Event]) -> int:
    """The last step that was taken."""
    return max((event.step for event in events if isinstance(event, Stepped | Ended | Started)), default=0)


def _after(events: Sequence[Event]) -> str:
    """How far training came: epochs, or steps where there is not a whole epoch."""
    started, reached = last(events, Started), _reached(events)
    per_epoch = started.steps_per_epoch if started is not None else 0
    if per_epoch > 0 and reached >= per_epoch:
        return count(round(reached / per_epoch, 1), "epoch")
    return count(reached, "step")
