"""The learning rate: too high, too low, gone too early, there too suddenly. Judged by what it does to weights and loss."""

import math
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import SLOW, History

SUMMED = 10.0  # of rate / (1 - momentum): ten times what the usual 0.1 and 0.9 come to
SCRATCH = 5e-4  # a rate of Adam from which on it is one for training from scratch
DECOUPLED = ("AdamW", "SGD", "Adafactor")  # their weight decay shrinks weights by rate x decay a step


def _ratios(h: History) -> list[tuple[int, float]]:
    """By looked-at step, the median of |update| / |weight| over the weight matrices, without what weight decay takes."""
    decay = max((v.values.get("weight_decay", 0.0) for v in h.all("optimizer") if v.name in DECOUPLED), default=0.0)
    rates = dict(h.rates.points()) if decay else {}
    steps: dict[int, list[float]] = {}
    from_zero = {v.name for v in h.all("layer") if v.values.get("zero")}  # any step of theirs is large beside nothing
    for v in h.all("layer"):
        x = v.values
        if v.name in from_zero:
            continue
        if (
            v.words["kind"] in ("weight", "adapter")
            and x["weight_norm"] > 1e-3 * math.sqrt(x["numel"])
            and math.isfinite(x["ratio"])
        ):
            steps.setdefault(v.step, []).append(max(0.0, x["ratio"] - decay * rates.get(v.step, 0.0)))
    return [(step, statistics.median(found)) for step, found in sorted(steps.items())]


def _smooth(values: list[float], count: int) -> float:
    return statistics.fmean(values[-count:]) if count > 0 else statistics.fmean(values[: -count or None])


def learning_rate_too_high(h: History) -> Iterator[Finding]:
    if len(h.losses) < 4:
        return
    if h.adversarial():
        yield from _violent(h)
        return
    points = h.losses.points()
    finite = [(s, x) for s, x in points if math.isfinite(x)]
    ratios = _ratios(h)
    if not finite or not ratios:
        return
    if any(v.name == "LBFGS" for v in h.all("optimizer")):
        ratios = [(s, min(r, 0.05)) for s, r in ratios]  # its line search takes steps of any size
    values = [x for _, x in finite]
    if min(values) <= 0:  # a loss of either sign, of which a rise says little
        yield from _violent(h)
    start = min(values[: max(1, min(3, len(values) // 3))])
    early = max((r for s, r in ratios if s <= 6), default=ratios[0][1])
    typical = statistics.median(r for _, r in ratios)
    evidence: dict[str, float | str] = {
        "update_to_weight": typical,
        "at_first": early,
        "threshold": 0.1,
        "first_loss": start,
        "last_loss": values[-1],
    }
    rate = max(
        (x for _, x in h.rates.points() if math.isfinite(x)), default=math.nan
    )  # a schedule may have lowered it since
    rates = f" at a learning rate of {rate:.3g}" if math.isfinite(rate) else ""
    away = [s for s, x in finite if x > 4 * abs(start) + 1e-9]
    recent = values[-3:]
    broken = any(not math.isfinite(x) for _, x in points[-2:])
    if broken and early > 0.3 and len(finite) < 12:
        yield find(
            "learning-rate-too-high", 1,
            f"The first updates changed the weights by {_lengths(early)}{rates}, and after {len(finite)} steps the loss was not finite any more.",
            evidence, confidence=0.85,
        )  # fmt: skip
        return
    if start > 0 and away and early > 0.003 and (min(recent) > 2 * start or (broken and max(values[-4:]) > 4 * start)):
        growth = f"from {start:.3g} to {max(values[-8:]):.3g}"
        yield find(
            "learning-rate-too-high", away[0], f"The loss ran away, {growth}{rates}: the first updates changed the weights by {_lengths(early)}.",
            evidence, confidence=0.85,
        )  # fmt: skip
        return
    window = max(4, len(values) // 8)
    if len(values) < 24:
        return
    last, best = (
        statistics.median(values[-window:]),
        min(statistics.median(values[i : i + window]) for i in range(0, len(values) - window + 1, window)),
    )
    if start > 0 and last > 0.9 * start and (typical > 0.1 or early > 0.3):
        yield find(
            "learning-rate-too-high", ratios[0][0],
            f"Each update changes the weights by {typical:.1%} of their length ({early:.1%} in the first steps; 10 % is a lot){rates}, and the loss, "
            f"{start:.3g} at first, is {last:.3g}.",
            evidence, confidence=0.85,
        )  # fmt: skip
    elif start > 0 and best > 0 and last > 3 * best and last > 0.5 * start and typical > 0.03 and h.step >= 40:
        yield find(
            "learning-rate-too-high", finite[-1][0],
            f"The loss had been down to {best:.3g} and is back at {last:.3g}; each update changes the weights by {typical:.1%} of their length{rates}.",
            evidence, confidence=0.7,
        )  # fmt: skip


def _lengths(share: float) -> str:
    return f"{share:.1%} of their length" if share < 2 else f"{share:,.0f} times their length"


def _violent(h: History) -> Iterator[Finding]:
    """In a game no loss need fall; updates as large as the weights themselves are too large all the same."""
    ratios = _ratios(h)
    first, later = [r for s, r in ratios if s <= 3], [r for s, r in ratios if s > 3]
    size = statistics.median(later) if len(later) >= 3 else 0.0
    if size > 0.25 or (size > 0.01 and len(first) >= 2 and statistics.fmean(first) > 0.5):
        size = max(size, *first) if size <= 0.25 else size
        yield find(
            "learning-rate-too-high", 1, f"Each update changes the weights by {size:.0%} of their length (10 % is a lot).",
            {"update_to_weight": size, "threshold": 0.25}, confidence=0.8,
        )  # fmt: skip


def momentum_longer_than_the_run(h: History) -> Iterator[Finding]:
    """Momentum under which the first gradients still weigh when the run ends, and steps that add up to far more than is usual."""
    v = h.latest("optimizer")
    if v is None or v.name != "SGD" or h.step < 100 or h.adversarial() or h.rewarded():
        return
    momentum, rate = v.values.get("momentum", 0.0), max((x for _, x in h.rates.points()), default=0.0)
    if not 0.9 < momentum < 1 or v.values.get("dampening"):
        return
    reach = 1 / (1 - momentum)
    if reach > h.step / 2 and rate * reach > SUMMED:
        yield find(
            "learning-rate-too-high", 1,
            f"With a momentum of {momentum:g} every gradient goes on into some {reach:,.0f} steps, and the run has {h.step:,}: its steps add up to "
            f"{reach:,.0f} times the learning rate of {rate:.3g}, and first errors are never forgotten. A momentum of 0.9 is usual.",
            {"momentum": momentum, "reach": reach, "learning_rate": rate, "threshold": SUMMED}, confidence=0.8,
        )  # fmt: skip


def learning_rate_of_scratch(h: History) -> Iterator[Finding]:
    """A rate for training from scratch, given to weights that were loaded, which it destroyed before it could use them."""
    v = h.latest("tuning", "weights")
    if v is None or h.step < 40 or h.adversarial() or h.rewarded():
        return
    x = v.values
    whole = h.pretrained() and x["tuned"] >= 0.5
    far = x["distance"] > (0.3 if h.names("batch-norm") else 0.05)  # batch norms make up for the length of weights
    if not whole or not x["adaptive"] or x["resumed"] or x["peak"] < SCRATCH or not far:
        return
    values = h.losses.values()
    if len(values) < 32 or min(values) <= 0:
        return
    window = max(8, len(values) // 5)
    start, last = statistics.median(values[:3]), statistics.median(values[-window:])
    early = statistics.median(values[4:16])
    classes = max((x.values.get("classes", 0.0) for x in h.all("loss") if x.step <= 1), default=0.0)
    chance = math.log(classes) if classes >= 2 else math.inf
    best = min(statistics.median(values[i : i + window]) for i in range(0, len(values) - window + 1, window // 2))
    nothing = h.knew_before() is False and min(best, last) > 0.95 * chance  # a new head has learned nothing from them
    lost = early > 1.5 * start and min(best, last) > 1.3 * start  # from the first steps on, and for good
    if nothing or lost:
        now = f"no better than guessing ({chance:.3g})" if nothing else f"where it began at {start:.3g}"
        yield find(
            "learning-rate-too-high", 1,
            f"The loaded weights are trained at a rate of {x['peak']:.3g}, which is one for training from scratch: in {v.step} steps it moved them by "
            f"{x['distance']:.0%} of their length, and the loss is {last:.3g}, {now}. What they knew is lost; 1e-5 to 5e-5 is usual.",
            {"learning_rate": x["peak"], "moved": x["distance"], "first_loss": start, "last_loss": last, "threshold": SCRATCH},
            confidence=0.8, severity="warning",
        )  # fmt: skip


def learning_rate_too_low(h: History) -> Iterator[Finding]:
    ratios = _ratios(h)
    if h.step < 20 or len(ratios) < 3 or h.adversarial() or h.pretrained():
        return  # loaded weights are to move little
    typical = statistics.median(r for _, r in ratios)
    path = statistics.fmean(r for _, r in ratios) * h.step
    fell = h.fell()
    if h.knew_before():
        return  # fine-tuning
    if path <= 0 or typical == 0:
        return
    rates = h.rates.values() or [math.nan]
    if path < 0.06 and -0.05 < fell < 0.3:
        yield find(
            "learning-rate-too-low", 1,
            f"One update changes the weights by {typical:.1e} of their length (a learning rate of {max(rates):.3g}); "
            f"all {h.step} steps together by {path:.1%}. "
            + (f"The loss fell by {fell:.1%}." if fell >= 5e-4 else "The loss did not fall."),
            {"update_to_weight": typical, "path": path, "threshold": 0.06, "fell": fell, "learning_rate": max(rates)}, confidence=0.85,
        )  # fmt: skip


def learning_rate_decayed_too_early(h: History) -> Iterator[Finding]:
    rates = [(s, r) for s, r in h.rates.points() if math.isfinite(r)]
    if len(rates) < 30 or h.adversarial():
        return
    peak = max(r for _, r in rates)
    if peak <= 0:
        return
    low, share = None, 0.0
    for share, least in ((0.02, 0.4), (0.05, 0.6)):
        low = next((s for i, (s, _) in enumerate(rates) if all(r < share * peak for _, r in rates[i:])), None)
        if low is not None and low >= 2 and (h.step - low) / h.step >= least:
            break
    else:
        return
    assert low is not None
    points = [(s, x) for s, x in h.losses.points() if math.isfinite(x)]
    before, after = [x for s, x in points if s <= low], [x for s, x in points if s > low]
    if len(before) < 2 or len(after) < 10:
        return
    third = max(1, len(before) // 4)
    at_first, at_low = statistics.fmean(before[:third]), statistics.fmean(before[-third:])
    tail = statistics.fmean(after[-max(5, len(after) // 4) :])
    if at_first > 0 and tail < 0.05 * at_first:
        return  # nothing was left to learn
    yield find(
        "learning-rate-decayed-too-early", low,
        f"From step {low} of {h.step} on the learning rate was below {share:.0%} of its peak ({peak:.3g}). Until then the loss fell from {at_first:.3g} to "
        f"{at_low:.3g}, afterwards it stood at {tail:.3g}.",
        {"peak": peak, "steps_after": float(h.step - low), "loss_at": at_low, "loss_after": tail, "threshold": share}, confidence=0.9,
    )  # fmt: skip


def cosine_past_its_end(h: History) -> Iterator[Finding]:
    v = h.latest("schedule", "CosineAnnealingLR")
    if v is not None and v.values["t_max"] > 0 and v.values["calls"] > 1.5 * v.values["t_max"] + 2:
        yield find(
            "learning-rate-decayed-too-early", int(v.values["t_max"]),
            f"The cosine schedule (made at {v.words['place']}) was set up for {v.values['t_max']:.0f} calls of `step()` "
            f"and has had {v.values['calls']:.0f}: the rate "
            "went to its minimum and swings up and down since. It is called more often than planned, per batch and not per epoch perhaps.",
            {"planned": v.values["t_max"], "calls": v.values["calls"]}, confidence=0.9, place=v.words["place"],
        )  # fmt: skip


def warmup_missing(h: History) -> Iterator[Finding]:
    points = [(s, x) for s, x in h.losses.points() if math.isfinite(x)]
    rates = dict(h.rates.points())
    population = h.latest("population")
    few = population is not None and population.values["seen"] < 4 * population.values["batches"]
    if len(points) < 30 or h.adversarial() or h.rewarded() or few or min(x for _, x in points) <= 0:
        return
    tuning = h.latest("tuning", "weights")
    if tuning is not None and tuning.values["known"] >= 0.5 and h.knew_before():
        return  # training goes on: the moments begin anew, and a loss near zero rises easily
    first = max(points[0][1], statistics.median(x for _, x in points[:3]))
    reach = max(20, min(64, h.step // 6))
    early = [(s, x) for s, x in points[1:] if s <= reach]
    if first <= 0 or len(early) < 6:
        return
    middle = [(early[i + 1][0], statistics.median(x for _, x in early[i : i + 3])) for i in range(len(early) - 2)]
    step, top = max(middle, key=lambda pair: pair[1])
    above = sum(x > 1.3 * first for _, x in early)
    last = statistics.fmean([x for _, x in points[-max(5, len(points) // 10) :]])
    started = rates.get(points[0][0], 0.0)
    full = all(rates.get(s, started) >= 0.7 * started for s, _ in early[:6]) and started >= 0.5 * max(rates.values())
    if top > 1.8 * first and above >= 4 and last < 0.9 * first and full:
        yield find(
            "warmup-missing", early[0][0],
            f"The loss rose from {first:.3g} to {top:.3g} (step {step}) in the first steps at the full learning rate of {started:.3g}, and took until later to "
            f"recover ({last:.3g} at the end).",
            {"first": first, "top": top, "last": last, "threshold": 1.8}, confidence=0.8,
        )  # fmt: skip


def loss_not_decreasing(h: History) -> Iterator[Finding]:
    values = h.losses.values()
    if h.step < 60 or len(values) < 40 or h.adversarial() or h.rewarded() or min(values) <= 0:
        return
    window = max(8, len(values) // 6)
    first, last = statistics.fmean(values[:window]), statistics.fmean(values[-window:])
    best = min(
        statistics.fmean(values[i : i + window]) for i in range(0, len(values) - window + 1, max(1, window // 2))
    )
    noise = statistics.pstdev(values[-window:]) / math.sqrt(window)
    late = [
        v.values
        for v in h.all("loss")
        if v.step > 0.7 * h.step
        and v.values.get("target_entropy", 0) > 0.1
        and v.values["rows"] >= 8 * v.values["classes"]
    ]
    frequencies = bool(late) and statistics.fmean(x["mean_loss"] / max(x["target_entropy"], 1e-9) for x in late) > 0.98
    if frequencies and len(late) >= 2 and late[0]["classes"] > 2:
        yield find(
            "loss-not-decreasing", 1,
            f"After {h.step} steps the loss, {last:.4g}, is what knowing nothing but the frequencies of the targets gives "
            f"({statistics.fmean(x['target_entropy'] for x in late):.4g}): the inputs are not used. Ruled out: missing gradients, weights that stand still, "
            "a wrong loss for the head. To decide: train on one batch alone; if that works, the targets do not follow from the inputs.",
            {"loss": last, "of_frequencies": statistics.fmean(x["target_entropy"] for x in late), "steps": float(h.step)}, confidence=0.6,
        )  # fmt: skip
        return
    if last < 0.97 * values[0] or best < 0.96 * first or (last < first - 4 * noise and last < 0.985 * first):
        return
    if h.knew_before() or (h.pretrained() and h.step < SLOW):
        return  # it was low to begin with, or is to learn slowly
    ratios = _ratios(h)
    size = (
        f", weights change by {statistics.median(r for _, r in ratios):.1e} of their length per step" if ratios else ""
    )
    yield find(
        "loss-not-decreasing", 1,
        f"The loss is {last:.4g} after {h.step} steps and was {first:.4g}. Ruled out: gradients that are missing or not "
        f"cleared, weights that stand still{size}, "
        "inputs off scale, a wrong loss for the head. To decide: train on one batch alone.",
        {"first": first, "last": last, "steps": float(h.step), "threshold": 0.03}, confidence=0.6,
    )  # fmt: skip
