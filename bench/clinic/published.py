"""What earlier diagnosis tools say of the clinic's runs: their published decision rules, over what we recorded.

Re-implemented in our own words from the papers and the released code: AutoTrainer, DeepDiagnosis and UMLAUT, with the
two trivial answers `always-flag` and `never-flag`. These are rules, not the tools: nothing is repaired, run again or
searched, and what a tool reads and we do not record is replaced by the nearest thing that is, or left out, as the
docstring of each rule says. All three were made for Keras, where a tool sees one `fit` and reads it once an epoch.

- An epoch is a pass over the training data as the doctor saw it; else the time between evaluations, else a tenth of
  the run.
- Layers are read where the doctor looked: at each of the first steps, later ever more rarely. The last look of an
  epoch stands for it, and an epoch without a look for nothing.
- A loss of torch that holds its softmax or sigmoid (`cross_entropy`) counts as Keras's loss with that activation
  before it.
- A tool that stops at its first symptom is credited with all that its rules say of the whole run.

>>> {name: rule(doctor.histories) for name, rule in RULES.items()}  # ids as in the catalogue of findings
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from wellfit.doctor.history import History
from wellfit.events import Vitals

OF_CLASSES = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")
SOFTMAX = ("Softmax", "SafeSoftmax", "LogSoftmax")
SLOW = ("learning-rate-too-low", "loss-not-decreasing")  # AutoTrainer's "slow convergence" stands between the two


@dataclass(frozen=True)
class Epoch:
    """One pass over the data, with what a Keras callback is given at its end."""

    first: int  # steps, counted from 1
    last: int
    loss: float  # mean of the training losses; not finite where one of them was not
    held_out: float | None  # the loss on held-out data, where it was evaluated in these steps
    accuracy: float | None  # on held-out data, where the doctor could count it


Rule = Callable[[History, Sequence[Epoch]], Iterable[str]]


def epochs(h: History) -> list[Epoch]:
    """The run in epochs. Those of which no loss is kept (long runs are thinned in the middle) are left out.

    NaN counts where the doctor saw a loss or gradient break; else it stands for a step whose loss was not heard.
    """
    length, broke = epoch_length(h), bool(h.names("not-finite"))
    losses = _by_epoch([(s, x) for s, x in h.losses.points() if broke or math.isfinite(x)], length)
    held_out = _by_epoch(evaluations(h), length)
    scores = [v for v in h.all("evaluation") if "accuracy" in v.values]
    accuracy = _by_epoch([(v.step, v.values["accuracy"]) for v in scores], length)
    return [
        Epoch(
            n * length + 1,
            min((n + 1) * length, h.step),
            sum(values) / len(values),
            held_out[n][-1] if n in held_out else None,
            accuracy[n][-1] if n in accuracy else None,
        )
        for n, values in sorted(losses.items())
    ]


def epoch_length(h: History) -> int:
    """Steps of an epoch. Gaps between evaluations are taken early in the run, where the doctor hears each of them."""
    seen = h.latest("population")
    windows = h.latest("windows")
    each = max(1.0, windows.values["usual"]) if windows is not None else 1.0  # batches of a step
    if seen is not None and seen.values["seen"] > 0:
        x = seen.values
        size = x["seen"] / x["batches"]
        whole = x["distinct"] == x["before_repeat"] < x["seen"]  # nothing came twice before everything had come once
        samples = x["pass_seen"] or (x["distinct"] if whole else 0.0)
        if samples:
            return max(1, math.ceil(samples / size / each - 1e-6))
    evaluated = sorted({0, *(step for step, _ in evaluations(h))})
    gaps = [b - a for a, b in pairwise(evaluated[:5])]
    return max(1, min(gaps)) if len(gaps) > 1 else max(1, h.step // 10)


def evaluations(h: History) -> list[tuple[int, float]]:
    """(step, held-out loss) of the evaluation that is made most often."""
    streams = sorted(h.evaluations.values(), key=len)
    return streams[-1] if streams else []


def _by_epoch(points: Iterable[tuple[int, float]], length: int) -> dict[int, list[float]]:
    """Values by the number of their epoch, which starts at 0."""
    found: dict[int, list[float]] = {}
    for step, value in points:
        found.setdefault((max(step, 1) - 1) // length, []).append(value)
    return found


def at_ends(looks: Iterable[Vitals], over: Sequence[Epoch]) -> list[Vitals]:
    """Of each epoch that was looked at, the last look."""
    looks = sorted(looks, key=lambda v: v.step)
    inside = ([v for v in looks if e.first <= v.step <= e.last] for e in over)
    return [found[-1] for found in inside if found]


def never_stepped(h: History) -> bool:
    """Backward passes and no step of the optimizer. No losses are recorded then; a tool would see them stand still."""
    return h.step == 0 and any(v.values["steps"] == 0 for v in h.all("discarded"))


def layers_at(h: History, step: int) -> list[Vitals]:
    """The weight matrices of a look, first layer first; no embeddings, whose gradients Keras gives as slices."""
    found = [v for v in h.all("layer") if v.step == step and v.words["kind"] == "weight"]
    return sorted(found, key=lambda v: v.values["order"])


def activations(h: History) -> Iterator[tuple[str, list[Vitals]]]:
    """Activations by name; not the gates of recurrent layers or functions of the data: no layers to these tools."""
    for name in h.names("activation"):
        if not name.endswith("after ?") and "weight_ih" not in name and "weight_hh" not in name:
            yield name, h.all("activation", name)


# ---- AutoTrainer


@dataclass
class Seen:
    """AutoTrainer's features. They are set from check to check and never taken back."""

    exploding: bool = False
    vanishing: bool = False
    dying: bool = False
    abnormal: bool = False
    poor: bool = False
    slow: bool = False
    oscillating: bool = False


def autotrainer(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """AutoTrainer: Zhang, Zhai, Ma, Shen, ICSE 2021; extended in TDSC 2024, which the later release goes with.

    Thresholds are the defaults of the released code, the same in both releases (`beta_1` 1e-3, `beta_2` 1e-4, `beta_3`
    70, `gamma` 0.7, `zeta` 0.03, `eta` 0.2, `delta` 0.01, `Theta` 0.7), and of the later one `omega_1` 10; the order of
    decisions is that of the later release. It checks every third epoch, judges curves from 30 % of the epochs on, and
    names a gradient problem only where the accuracy is poor (below 0.7) or has never gained 0.01 in an epoch. The
    epochs of the run stand for those planned. The later release starts three epochs sooner, which in runs as short as
    the clinic's would judge a curve of one point; here it waits for two. Its verdict on a binary loss with several
    units is left out, as it cannot tell several labels from a mistake, and that on squared errors, which its code calls
    improper whatever the output.
    """
    if never_stepped(h):
        yield from SLOW
    yield from not_finite_is_exploding(h, over)
    yield from negative_loss(over)
    yield from one_unit_for_classes(h)
    seen = Seen()
    for n in range(0, len(over), 3):
        so_far = over[: n + 1]
        if not all(math.isfinite(e.loss) for e in so_far):
            return
        _gradients(h, over[n], seen)
        seen.abnormal = seen.abnormal or abnormal_outputs(h, over[n])
        if len(so_far) >= max(2.0, 0.3 * len(over)):
            _curves(h, so_far, seen)
        yield from _verdict(seen)


def _verdict(seen: Seen) -> Iterator[str]:
    """The order of the later release: one gradient problem is named, and slow convergence where there is none."""
    if seen.abnormal:
        yield "inputs-not-normalized"  # "abnormal data": told from layer outputs, and mended by scaling the data
    if seen.poor or seen.slow:
        if seen.dying:
            yield "dead-units"
        elif seen.exploding:
            yield "exploding-gradients"
        elif seen.vanishing:
            yield "vanishing-gradients"
        elif seen.poor and seen.slow and not seen.abnormal:
            yield from SLOW
    if seen.oscillating:
        yield "learning-rate-too-high"  # "oscillating loss": its remedies are Adam, a lower rate, larger batches


def _gradients(h: History, epoch: Epoch, seen: Seen) -> None:
    """The gradient of the first weight matrix against that of the last, and dying ReLUs, at a check.

    The tool counts zeros among the gradients of one batch (at least 70 %). Recorded is the share of ReLU units that are
    zero for every sample of the batch, whose incoming weights have those zero gradients.
    """
    for look in at_ends(h.all("update", "all"), [epoch]):
        norms = [v.values["grad_norm"] for v in layers_at(h, look.step)]
        norms = [n for n in norms if math.isfinite(n)]
        if norms and (norms[0] > 0 or norms[-1] > 0):
            ratio = norms[0] / norms[-1] if norms[-1] > 0 else math.inf
            seen.vanishing = seen.vanishing or (ratio < 1e-3 and norms[0] < 1e-4)
            seen.exploding = seen.exploding or ratio > 70
        units = [v.values for _, all_ in activations(h) for v in all_ if v.step == look.step and "dead" in v.values]
        total = sum(x["units"] for x in units)
        seen.dying = seen.dying or (total > 0 and sum(x["dead"] * x["units"] for x in units) >= 0.7 * total)


def _curves(h: History, so_far: Sequence[Epoch], seen: Seen) -> None:
    """Poor accuracy, slow gain and oscillation, from the accuracies up to a check."""
    train, test = accuracies(h, so_far)
    if len(train) < 2:
        return
    tests = [test] if test else []
    seen.poor = seen.poor or all(max(curve) < 0.7 for curve in [train, *tests])
    seen.slow = seen.slow or all(max((b - a for a, b in pairwise(c)), default=0.0) < 0.01 for c in [train, *tests])
    seen.oscillating = seen.oscillating or oscillates(train)


def accuracies(h: History, over: Sequence[Epoch]) -> tuple[list[float], list[float]]:
    """(training, held-out) accuracy of each epoch; the second where known. Empty where the loss is no known function.

    Training accuracy is not recorded. For classes, exp(-loss) stands for it: the probability given to the right class
    (its geometric mean), which is at guessing what accuracy is, and 1 where all is learned. For numbers, which the tool
    was not made for, the share of the first loss that is gone. In games of several optimizers neither says anything.
    """
    losses = h.all("loss")
    first = next(iter(h.losses.values()), 0.0)
    if not losses or first <= 0 or h.adversarial():
        return [], []
    x = losses[0].values
    if losses[0].words["function"] in OF_CLASSES and x.get("target_whole", 1.0):
        unit = max(1.0, first / x["mean_loss"]) if x.get("mean_loss", 0.0) > 0 else 1.0  # sums, or several losses

        def share(loss: float) -> float:
            return math.exp(-max(0.0, loss) / unit)
    else:

        def share(loss: float) -> float:
            return min(1.0, max(0.0, 1 - loss / first))

    test = []
    for e in over:
        if e.accuracy is not None:
            test.append(e.accuracy)
        elif e.held_out is not None and math.isfinite(e.held_out):
            test.append(share(e.held_out))
    return [share(e.loss) for e in over], test


def oscillates(accuracy: Sequence[float], height: float = 0.03, share: float = 0.2) -> bool:
    """Oscillating loss (ICSE 2021): local maxima at least 0.03 above the minima beside them, for a fifth of the epochs.

    As in the release, the n-th maximum is held against the n-th minimum.
    """
    inner = range(1, len(accuracy) - 1)
    tops = [accuracy[i] for i in inner if accuracy[i] >= max(accuracy[i - 1], accuracy[i + 1])]
    lows = [accuracy[i] for i in inner if accuracy[i] <= min(accuracy[i - 1], accuracy[i + 1])]
    swings = sum(a - b >= height for a, b in zip(tops, lows, strict=False))
    return len(accuracy) > 2 and swings >= share * len(accuracy)


def not_finite_is_exploding(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Exploding gradient (ICSE 2021) is also a loss, weight or gradient that is not finite: it stands for both ids."""
    if any(not math.isfinite(e.loss) for e in over) or {"weights", "gradient"} & set(h.names("not-finite")):
        yield from ("exploding-gradients", "loss-not-finite")


def negative_loss(over: Sequence[Epoch]) -> Iterator[str]:
    """Loss issue (later release): a loss below zero, in training or on held-out data, is one that does not fit."""
    if any(e.loss < 0 or (e.held_out or 0.0) < 0 for e in over):
        yield "head-loss-mismatch"


def one_unit_for_classes(h: History) -> Iterator[str]:
    """Improper loss (later release): a categorical loss over a single unit."""
    if any(v.words["function"] == "cross_entropy" and v.values.get("classes") == 1 for v in h.all("loss")):
        yield "head-loss-mismatch"


def abnormal_outputs(h: History, epoch: Epoch) -> bool:
    """Abnormal data (later release): a hidden layer's mean absolute output is 10 or more.

    Recorded are the means of activations, and the magnitude of a mean is at most the mean of the magnitudes.
    """
    return any(abs(v.values["mean"]) >= 10 for _, looks in activations(h) for v in at_ends(looks, [epoch]))


# ---- DeepDiagnosis


def deep_diagnosis(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """DeepDiagnosis: Wardat, Cruz, Le, Rajan, ICSE 2022. Eight symptoms, then what they advise to change.

    Thresholds are those of the callback in the reproduction package (`mapFaluireToFix`), which reads the model at the
    end of each epoch on the first batch; windows are of 5 epochs, for accuracy of 20. Left out: an accuracy of exactly
    0, which is not recorded. From each symptom the tool goes on to a fix; where that is the data's scale or the
    learning rate, it is named too.
    """
    if never_stepped(h):
        yield "weights-not-changing"
    if not over:
        return
    by_epoch = (range_of_output, numerical, saturated, unchanged, vanishing)
    symptoms = {*metrics(over), *dead_nodes(h), *(found for rule in by_epoch for found in rule(h, over))}
    yield from symptoms
    if symptoms - {"head-loss-mismatch", "weights-not-changing"}:
        yield from advised(h, scale=bool(symptoms - {"vanishing-gradients"}))


def range_of_output(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Out of range, at the end of the first epoch: targets beyond what the last activation gives, or no activation and
    outputs that span over ten times the targets' range. A softmax is excused; a ReLU before a loss for classes is not.

    The tool reads all targets; recorded are those of the batches that were looked at.
    """
    ranges = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Relu": (0.0, math.inf), "Elu": (-1.0, math.inf)}
    for name in h.names("loss"):
        for v in at_ends(h.all("loss", name), over[:1]):
            x, head, function = v.values, v.words["head"], v.words["function"]
            if function in ("cross_entropy", "nll_loss"):  # class numbers stand for their one-hot rows, from 0 to 1
                if head == "Relu":
                    yield "head-loss-mismatch"
                continue
            if function == "binary_cross_entropy_with_logits":
                head = "Sigmoid"
            if head in SOFTMAX or "target_min" not in x:
                continue
            told = [o.values for o in h.all("loss") if o.words["function"] == function and "target_min" in o.values]
            lowest, highest = min(o["target_min"] for o in told), max(o["target_max"] for o in told)
            low, high = ranges.get(head, (-math.inf, math.inf))
            beyond = lowest < low or highest > high
            wide = x.get("given_max", 0.0) - x.get("given_min", 0.0) > 10 * (highest - lowest)
            if beyond or (wide and head not in ranges and highest > lowest):
                yield "head-loss-mismatch"


def numerical(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Exploding tensor: the mean of a layer's output, weight or weight gradient is NaN, infinite, or exactly 0.

    A mean of 0 is recorded for activations; of weights and gradients the norm is, and is 0 only where all of them are.
    """
    wrong = set(h.names("not-finite"))
    if wrong & {"activation", "inputs"}:
        yield "activation-not-finite"
    if wrong & {"weights", "gradient"}:
        yield "gradient-not-finite"
    if any(v.values["mean"] == 0 for _, looks in activations(h) for v in at_ends(looks, over)):
        yield "dead-units"
    for v in (v for name in h.names("layer") for v in at_ends(h.all("layer", name), over)):
        if v.words["kind"] == "weight" and v.values["weight_norm"] == 0:
            yield "poor-initialization"
        if v.words["kind"] == "weight" and v.values["grad_norm"] == 0:
            yield "vanishing-gradients"  # "numerical error in delta weights"


def dead_nodes(h: History) -> Iterator[str]:
    """Dead node: in the last epoch, 70 % of the values that a ReLU gives are 0. Read at the last look."""
    for _, looks in activations(h):
        if looks and looks[-1].values.get("zeros", 0.0) >= 0.7:
            yield "dead-units"


def saturated(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Saturated activation: over half of what a sigmoid or tanh is given is beyond -5 or 5.

    The tool asks every fifth epoch; here, as looks are few, at each from the fifth epoch on. Recorded is the share
    beyond 5 for the sigmoid, and beyond 2.5 for the tanh.
    """
    for _, looks in activations(h):
        if any(v.values.get("flat_values", 0.0) > 0.5 for v in at_ends(looks, over[4:])):
            yield "saturated-units"


def unchanged(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Unchanged weight: over 5 epochs the mean of a layer's output, weight or gradient is one and the same.

    Outputs are recorded on whichever batch was looked at. Of weights and gradients the norms are.
    """
    means = [[v.values["mean"] for v in at_ends(looks, over)] for _, looks in activations(h)]
    ends = [at_ends(h.all("layer", n), over) for n in h.names("layer")]
    kept = [[v.values[key] for v in looks] for looks in ends for key in ("weight_norm", "grad_norm")]
    if any(stands_still(values, 5) for values in (*means, *kept)):
        yield "weights-not-changing"


def vanishing(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """Vanishing gradient: the mean magnitude of a dense layer's gradient is below 1e-7. Here, its root mean square."""
    for name in h.names("layer"):
        looks = h.all("layer", name)
        dense = looks[0].values.get("dims", 2.0) == 2 and looks[0].words["kind"] == "weight"
        ends = at_ends(looks, over) if dense else []
        if any(v.values["grad_norm"] / math.sqrt(v.values["numel"]) < 1e-7 for v in ends):
            yield "vanishing-gradients"


def metrics(over: Sequence[Epoch]) -> Iterator[str]:
    """Loss not finite; loss not decreasing, one and the same for 5 epochs; accuracy not increasing, the same for 20.

    The tool reads training accuracy; recorded is that on held-out data.
    """
    if any(not math.isfinite(e.loss) for e in over):
        yield "loss-not-finite"
    right = [e.accuracy for e in over if e.accuracy is not None]
    if stands_still([e.loss for e in over], 5) or stands_still(right, 20):
        yield "loss-not-decreasing"


def advised(h: History, scale: bool) -> Iterator[str]:
    """The fix: scale the data where inputs leave [-1, 1], else the learning rate where rate x |gradient| / |weight| is
    beyond 1e-1 or below 1e-5, a hundred times from 1e-3. The rule on the variance of weights is left out: it is applied
    to their mean, a single number, and never true.
    """
    if scale and any(beyond_one(h)):
        yield "inputs-not-normalized"
        return
    rate = next(iter(h.rates.recent(1)), math.nan)
    step = max((v.step for v in h.all("layer")), default=0)
    sizes = [rate * x["grad_norm"] / x["weight_norm"] for v in layers_at(h, step) if (x := v.values)["weight_norm"] > 0]
    wrong = next((size for size in sizes if size > 1e-1 or size < 1e-5), None)
    if wrong is not None:
        yield "learning-rate-too-high" if wrong > 1e-1 else "learning-rate-too-low"


def stands_still(values: Sequence[float], window: int) -> bool:
    """Whether all are equal in one of the windows that the values are cut into, one after the other."""
    cut = [values[i : i + window] for i in range(0, len(values) - window + 1, window)]
    return any(min(part) == max(part) for part in cut)


# ---- UMLAUT


def umlaut(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """UMLAUT: Schoop, Huang, Hartmann, CHI 2021. Heuristics on program and behaviour, checked at the end of each epoch.

    Thresholds are those of the released client (`heuristics.py`); its server's list of messages has three more (dropout
    above 0.5, an activation before the softmax, NaN in the loss). Left out: the shape of images, of which only the
    number of dimensions is recorded.
    """
    if not over:
        return
    for rule in (inputs_off, no_softmax, activation_before_softmax, linear_layers, high_dropout):
        yield from rule(h)
    for curve in (val_rises, val_too_good):
        yield from curve(over)
    yield from nan(h, over)
    yield from rates_off(h, over)


def beyond_one(h: History) -> Iterator[bool]:
    """Of each look at the data that a layer reads, whether it leaves [-1, 1]; not of ids that are looked up."""
    for v in h.all("input"):
        if "Embedding" not in v.words.get("operation", ""):
            yield v.values["min"] < -1 or v.values["max"] > 1


def inputs_off(h: History) -> Iterator[str]:
    """Input exceeds [-1, 1], or is not floating point; the nearest id for both is that of the scale."""
    whole = (v.values["whole"] and "Embedding" not in v.words.get("operation", "") for v in h.all("input"))
    if any(beyond_one(h)) or any(whole):
        yield "inputs-not-normalized"


def nan(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """NaN in the loss at the end of an epoch, and NaN in the input then."""
    if any(not math.isfinite(e.loss) for e in over):
        yield "loss-not-finite"
        if "inputs" in h.names("not-finite"):
            yield "inputs-not-finite"


def no_softmax(h: History) -> Iterator[str]:
    """A loss that expects probabilities is given plain outputs.

    The client raises this for every loss of Keras that is not told `from_logits` and has no separate softmax layer
    before it. Here only losses for classes count, by what they are given: `nll_loss` without log-probabilities,
    `binary_cross_entropy` without a sigmoid or softmax.
    """
    for v in h.all("loss"):
        plain = v.words["function"] == "binary_cross_entropy" and v.words["head"] not in ("Sigmoid", *SOFTMAX)
        if plain or (v.words["function"] == "nll_loss" and v.values.get("not_log_probabilities", 0.0) > 0.05):
            yield "head-loss-mismatch"


def activation_before_softmax(h: History) -> Iterator[str]:
    """The last layer has an activation before the softmax, which in torch is in the loss."""
    for v in h.all("loss"):
        if v.words["function"] == "cross_entropy" and v.words["head"] in SOFTMAX:
            yield "softmax-before-cross-entropy"
        elif v.words["function"] == "cross_entropy" and v.words["head"] in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Elu",
            "Softplus",
        ):
            yield "head-loss-mismatch"


def linear_layers(h: History) -> Iterator[str]:
    """A layer before the last has no activation.

    The client reads each layer's setting, and would raise this for a convolution before batch norm too. Recorded are
    pairs of linear layers with nothing between them; those inside attention are one layer to Keras.
    """
    inside = ("Bmm", "ScaledDot")
    if any(not v.words.get("into", "").startswith(inside) for v in h.all("linear-pair")):
        yield "missing-nonlinearity"


def rates_off(h: History, over: Sequence[Epoch]) -> Iterator[str]:
    """The learning rate at the end of an epoch is above 0.01 or below 1e-7, whatever the optimizer."""
    points = h.rates.points()
    ends = [[r for s, r in points if e.first <= s <= e.last and math.isfinite(r)][-1:] for e in over]
    last = [r for found in ends for r in found]
    if any(r > 1e-2 for r in last):
        yield "learning-rate-too-high"
    if any(r < 1e-7 for r in last):
        yield "learning-rate-too-low"


def val_rises(over: Sequence[Epoch]) -> Iterator[str]:
    """From one epoch to the next the held-out loss rises and the training loss does not."""
    told = [(e.loss, e.held_out) for e in over if e.held_out is not None]
    if any(b[1] > a[1] and b[0] <= a[0] for a, b in pairwise(told)):
        yield "overfitting"


def val_too_good(over: Sequence[Epoch]) -> Iterator[str]:
    """From the fourth epoch on, held-out accuracy is above 95 %, or better than that of training.

    Training accuracy is not recorded: for the second, the losses of the epoch are compared, where there is an accuracy.
    The message speaks of labels and of overlap between the sets.
    """
    for e in over[3:]:
        better = e.held_out is not None and e.held_out < e.loss
        if e.accuracy is not None and (e.accuracy > 0.95 or better):
            yield "train-validation-leakage"


def high_dropout(h: History) -> Iterator[str]:
    """A dropout above 0.5. Recorded from 0.8 on, from the factor of what is kept.

    A layer's share is a round number and the same at every look; other products by a constant are not.
    """
    for name in h.names("dropout"):
        shares = {round(v.values["p"], 5) for v in h.all("dropout", name)}
        if name != "the inputs" and len(shares) == 1 and all(p > 0.5 and p == round(p, 2) for p in shares):
            yield "dropout-harmful"


# ---- all of them


def of_each(rule: Rule) -> Callable[[dict[str, History]], set[str]]:
    """A rule for one training asked of every training of a program, as each `fit` would have been watched."""

    def of_all(histories: dict[str, History]) -> set[str]:
        return {found for h in histories.values() for found in rule(h, epochs(h))}

    return of_all


RULES: dict[str, Callable[[dict[str, History]], set[str]]] = {
    "AutoTrainer": of_each(autotrainer),
    "DeepDiagnosis": of_each(deep_diagnosis),
    "UMLAUT": of_each(umlaut),
    "always-flag": lambda _: {"loss-not-decreasing"},
    "never-flag": lambda _: set(),
}
