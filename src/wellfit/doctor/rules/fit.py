"""Fit: over- and underfitting, too short, unvalidated, beaten. Told from whole curves, and so mostly at the end."""

import math
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import SLOW, History


def overfitting(h: History) -> Iterator[Finding]:
    if h.adversarial() or h.rewarded():
        return
    points = [(s, x) for s, x in h.losses.points() if math.isfinite(x)]
    for stream, scores in h.evaluations.items():
        scores = [(s, x) for s, x in scores if math.isfinite(x)]
        if len(scores) < 6 or len(points) < 10:
            continue
        smooth = [statistics.fmean(x for _, x in scores[max(0, i - 1) : i + 2]) for i in range(len(scores))]
        i = min(range(len(smooth)), key=smooth.__getitem__)
        low, last = smooth[i], statistics.fmean(x for _, x in scores[-2:])
        after = len(scores) - 1 - i
        if low <= 0 or after < 3 or _mirrored(scores, points) or _is_of_few(h):
            continue
        rising = sum(b > a for a, b in zip(smooth[i:], smooth[i + 1 :], strict=False)) / max(1, after)
        at, width = scores[i][0], max(3, len(points) // 12)
        near = [x for s, x in points if abs(s - at) <= max(1, h.step // 12)] or [x for _, x in points[:width]]
        end = statistics.fmean(x for _, x in points[-width:])
        trained = end < 0.8 * statistics.fmean(near)
        rise = last / low
        slight = after >= 0.5 * len(scores) and not _as_right(h, at)
        if trained and rising >= 0.55 and rise > (1.15 if slight else 1.25):
            yield find(
                "overfitting", at,
                f"The validation loss (evaluated from {stream}) was lowest at step {at} with {low:.4g} and has risen to "
                f"{last:.4g}, while the training loss fell from "
                f"{statistics.fmean(near):.4g} to {end:.4g}.",
                {"lowest": low, "last": last, "train_then": statistics.fmean(near), "train_now": end, "evaluations_since": float(after)},
                confidence=0.9,
            )  # fmt: skip
            return


def memorised(h: History) -> Iterator[Finding]:
    """Nothing of the training data is left to learn, and of the held-out data much is, more than there once was."""
    points = [x for _, x in h.losses.points() if math.isfinite(x)]
    if h.adversarial() or h.rewarded() or len(points) < 30 or min(points[:3]) <= 0:
        return
    untrained, end = statistics.fmean(points[:3]), statistics.fmean(points[-max(3, len(points) // 10) :])
    for stream, scores in h.evaluations.items():
        held = [x for _, x in scores if math.isfinite(x)]
        if len(held) < 10 or min(held) <= 0 or _is_of_few(h):
            continue
        smooth = [statistics.fmean(held[max(0, i - 1) : i + 2]) for i in range(len(held))]
        i = min(range(len(smooth)), key=smooth.__getitem__)
        last = statistics.fmean(held[-len(held) // 5 :])
        if (
            i < len(held) / 2
            and 0 <= end < 0.1 * untrained
            and last > max(0.4 * untrained, 1.08 * smooth[i])
            and last < 3 * untrained
        ):
            yield find(
                "overfitting", scores[i][0],
                f"The training loss has fallen from {untrained:.4g} to {end:.4g}, while the validation loss (evaluated from {stream}) stays at "
                f"{last:.4g} and was {smooth[i]:.4g} at step {scores[i][0]}: the training data is known by heart.",
                {"untrained": untrained, "train_now": end, "last": last, "lowest": smooth[i]}, confidence=0.85,
            )  # fmt: skip
            return


def _mirrored(scores: list[tuple[int, float]], points: list[tuple[int, float]]) -> bool:
    """Whether a number read while evaluating is the training loss with its sign turned: a likelihood."""
    beside = [(x, min(points, key=lambda point: abs(point[0] - s))[1]) for s, x in scores]
    return sum(abs(x + y) < 0.5 * abs(x - y) for x, y in beside) > 0.6 * len(beside)


def _as_right(h: History, step: int) -> bool:
    """Whether the accuracy is still what it was at `step`: the network has only grown surer of what it gets wrong."""
    then, since = [a for s, a, _ in h.rights if s <= step][-3:], [a for s, a, _ in h.rights if s > step][-3:]
    if not then or not since:
        return False
    before = statistics.fmean(then)
    error = math.sqrt(before * (1 - before) / max(1.0, h.rights[-1][2]))
    return statistics.fmean(since) > before - max(0.005, error)


def _is_of_few(h: History) -> bool:
    """Whether the held-out loss is that of so few samples that it says nothing of others: of classes, mostly those that are wrong.

    A rise that k samples carry is sqrt(k) standard errors of itself, paired by sample: two of them take four.
    """
    carry = [samples * (1 - right) for _, right, samples in h.rights[-3:]]
    if not carry and h.started is not None and h.started.valid_samples:
        carry = [float(h.started.valid_samples)]
    return bool(carry) and statistics.fmean(carry) < 4


def training_too_short(h: History) -> Iterator[Finding]:
    values = h.losses.values()
    if h.step < 30 or len(values) < 30 or h.adversarial() or min(values) <= 0:
        return
    part = max(5, len(values) // 5)
    before, last = statistics.fmean(values[-2 * part : -part]), statistics.fmean(values[-part:])
    noise = statistics.pstdev(values[-part:]) / math.sqrt(part)
    rates = list(h.rates.values())
    down = bool(rates) and rates[-1] < 0.3 * max(rates)
    for scores in h.evaluations.values():
        held = [x for _, x in scores]
        if len(held) >= 4 and min(held[-2:]) > 0.98 * min(held[:-2]):
            return  # held-out loss has stopped falling
    if last < 0.95 * before and before - last > 3 * noise and not down and last > 0.02 * values[0]:
        yield find(
            "training-too-short", h.step,
            f"Over the last fifth of {h.step} steps the loss still fell from {before:.4g} to {last:.4g}.",
            {"before": before, "last": last, "threshold": 0.05}, confidence=0.7,
        )  # fmt: skip


def _still_falling(h: History) -> bool:
    """Whether time alone may mend it."""
    return any(True for _ in training_too_short(h))


def validation_missing(h: History) -> Iterator[Finding]:
    started = h.started
    recorded = started is not None and started.valid_samples > 0
    if h.step >= 40 and not h.names("evaluation") and not h.evaluations and not h.evaluated_elsewhere and not recorded:
        yield find("validation-missing", h.step, f"In {h.step} steps nothing was evaluated on data that was not trained on.",
                   {"steps": float(h.step)}, confidence=0.8)  # fmt: skip


def underfitting(h: History) -> Iterator[Finding]:
    v = h.latest("yardstick")
    if v is None or h.rewarded() or _still_falling(h) or (h.pretrained() and h.step < SLOW):
        return
    x = v.values
    if "told" in x and h.fell() > 0.8:
        return  # classes are known by then, whatever the few steps say that were looked at: those after a change of task
    sure = (x["score"] - x["chance"]) / max(1e-9, 1 - x["chance"])  # by what is right
    reach = min(sure, x.get("told", sure))  # and by how sure it is of it, as a loss measures
    right = x.get("right", -math.inf)  # beyond chance, as `sure` is
    known = x["learned"] >= 0.6 * reach or right >= 0.9 * sure
    margin = max(0.1, 4 * x["error"])  # neither what it was taught nor what it was not comes near the classical model
    known = known and not (right < sure - margin and x.get("held_out", math.inf) < x["score"] - margin)
    if not known and reach > 0.3 and x["rows"] >= 60 and x["score"] - x["chance"] > 4 * x["error"]:
        yield find(
            "underfitting", h.step,
            f"The model explains {max(0.0, x['learned']):.0%} of what could be known of its own training targets, while "
            f"a classical model, cross-validated, explains "
            f"{reach:.0%}: the data can be learned, and this model does not.{_shrunk(h)}",
            {"learned": x["learned"], "classical": x["score"], "guessing": x["chance"], "rows": x["rows"]}, confidence=0.75,
        )  # fmt: skip


def _shrunk(h: History) -> str:
    """What weight decay has to do with it, where most weights are nearly gone."""
    left = h.shrunk()
    decay = max((v.values.get("weight_decay", 0.0) for v in h.all("optimizer")), default=0.0)
    return f" A weight decay of {decay:g} has left {left:.0%} of the length of its weights." if left < 0.5 else ""


def weights_wither(h: History) -> Iterator[Finding]:
    left = h.shrunk()
    if left < 0.25 and h.step >= 60 and h.fell() < 0.15 and not h.adversarial() and not h.rewarded():
        yield find(
            "underfitting", h.step, f"The loss has hardly fallen.{_shrunk(h)}", {"left": left, "threshold": 0.25}, confidence=0.8
        )  # fmt: skip


def worse_than_counting(h: History) -> Iterator[Finding]:
    v = h.latest("bigrams")
    if v is None or _still_falling(h) or h.pretrained():
        return
    alone, known, learned = v.values["alone"], v.values["known"], v.values["learned"]
    if known < 0.9 * alone and (alone - learned) < 0.6 * (alone - known):
        yield find(
            "underfitting", h.step,
            f"The loss ends at {learned:.3g}. Counting which target belongs to which token gives {known:.3g} on tokens that were not counted, and the "
            f"frequencies of the targets alone {alone:.3g}: the data can be learned, and this model does not.",
            {"loss": learned, "of_tokens": known, "of_frequencies": alone}, confidence=0.8,
        )  # fmt: skip


MORE, LESS = ("accuracy", "spearman", "mrr"), ("rmse", "mse", "mae")  # scores by which yardsticks are compared


def beaten_by_yardstick(h: History) -> Iterator[Finding]:
    """A recorded run that was tested beside classical models, and lost by more than its test samples leave to chance.

    Twice the standard error: two classifiers differ on no more samples than both get wrong (McNemar 1947), and the logarithm of an
    RMSE over n samples has a standard error of about 1 / sqrt(2 n).
    """
    mine = h.tested.get("model", {})
    others = {name: scores for name, scores in h.tested.items() if name != "model"}
    metric = next((m for m in (*MORE, *LESS) if m in mine and any(m in scores for scores in others.values())), None)
    if metric is None:
        return
    sign = 1 if metric in MORE else -1
    name, best = max(((n, s[metric]) for n, s in others.items() if metric in s), key=lambda pair: sign * pair[1])
    margin = 0.03 if metric in MORE else 0.1 * abs(best)
    if h.tested_on and metric == "accuracy":
        margin = max(margin, 2 * math.sqrt(max(0.0, 2 - best - mine[metric]) / h.tested_on))
    elif h.tested_on and metric in LESS:
        margin = max(margin, 2 * abs(best) / math.sqrt(h.tested_on))
    if sign * (best - mine[metric]) > margin:
        yield find(
            "beaten-by-baseline", h.step,
            f"On the test data {name} has {metric} {best:.4g}, and the network {mine[metric]:.4g}.",
            {"baseline": best, "network": mine[metric], "threshold": margin}, confidence=0.9,
        )  # fmt: skip


def beaten_by_baseline(h: History) -> Iterator[Finding]:
    v = h.latest("yardstick")
    if v is None or h.rewarded() or "held_out" not in v.values or not v.values["tabular"] or _still_falling(h):
        return
    x = v.values
    if x["score"] - x["held_out"] > max(0.04, 3 * x["error"]) and x["learned"] >= 0.3:
        yield find(
            "beaten-by-baseline", h.step,
            f"A classical model, cross-validated on {x['rows']:.0f} of the samples, scores {x['score']:.3f}; the "
            f"network scores {x['held_out']:.3f} on its validation set.",
            {"classical": x["score"], "network": x["held_out"], "error": x["error"]}, confidence=0.75,
        )  # fmt: skip
