"""Numbers that leave their range: NaN and infinity, spikes, gradients that grow or die."""

import math
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History
from wellfit.events import Vitals

SOON = 32  # steps within which the first looks at layers have come


def not_finite(h: History) -> Iterator[Finding]:
    for v in h.all("not-finite"):
        where, why, batch, place = (v.words.get(k, "") for k in ("where", "why", "batch", "place"))
        step = int(v.values["step"])
        evidence: dict[str, float | str] = {k: t for k, t in (("where", where), ("why", why), ("batch", batch)) if t}
        because = f", because of {why}" if why else ""
        if v.name == "inputs":
            yield find(
                "inputs-not-finite",
                step,
                f"{where[:1].upper()}{where[1:]} is not finite: {why}.",
                evidence,
                place=place,
            )
        elif v.name == "ignored":
            yield find(
                "targets-all-ignored",
                step,
                f"In step {step} nothing is left to learn from: {why}.",
                evidence,
                place=place,
            )
        elif v.name == "activation":
            yield find(
                "activation-not-finite",
                step,
                f"The output of {where} is not finite in step {step}, though its input is{because}.",
                evidence,
                place=place,
            )
        elif v.name == "gradient":
            yield find(
                "gradient-not-finite",
                step,
                f"The gradient of {where} is not finite in step {step}, while the loss is{because}.",
                evidence,
                place=place,
            )
        elif v.name == "weights":
            yield from _spoiled(h, step, where, evidence, place)
        else:
            yield find(
                "loss-not-finite",
                step,
                f"The loss is {v.values.get('loss', math.nan):g} in step {step}{because}.",
                evidence,
                place=place,
            )


def _spoiled(h: History, step: int, where: str, evidence: dict[str, float | str], place: str) -> Iterator[Finding]:
    """Weights were not finite before the step: either they ran away, or one gradient was NaN while all was well."""
    losses = [x for x in h.losses.recent(12) if math.isfinite(x)]
    start = statistics.median(h.losses.values()[:3] or [math.nan])
    ran_away = any(abs(x) > 1e3 * max(abs(start), 1e-3) for x in losses[-4:])
    if not ran_away:
        yield find(
            "gradient-not-finite", max(1, step - 1),
            f"Step {step - 1} made {where} NaN or infinite although its loss was finite: its gradient was not finite.", evidence, place=place,
        )  # fmt: skip
    yield find(
        "loss-not-finite",
        step,
        f"The loss is not finite in step {step}, because weights ({where}) are not any more.",
        evidence,
        place=place,
    )


def loss_spike(h: History) -> Iterator[Finding]:
    points = [(s, x) for s, x in h.losses.points() if math.isfinite(x)][-400:]
    population = h.latest("population")
    few = (
        population is not None and population.values["seen"] < 4 * population.values["batches"]
    )  # of single samples some are always far out
    if len(points) < 40 or h.adversarial() or few:
        return
    floor = min(0.0, min(x for _, x in points))  # a loss of either sign is measured from its lowest
    values = [x - floor for _, x in points]
    level = statistics.median(h.losses.values()[:8]) - floor  # far below it, a spike does no harm
    hits = []
    last = int(population.values.get("pass_batches", 0)) if population is not None else 0
    for i in range(8, len(values) - 3):
        if last and points[i][0] % last == 0:
            continue  # the last batch of a pass may hold a few samples only, and its loss be anything
        around = sorted(values[max(0, i - 20) : i + 21])
        usual, middle = around[int(0.8 * len(around))], around[len(around) // 2]
        scatter = statistics.median(abs(x - middle) for x in around)
        alone = max(values[i - 1], values[i + 1], values[i + 2]) < 0.35 * values[i]
        if values[i] > max(6 * usual, 0.3 * level) > 0 and values[i] > middle + 12 * scatter and alone:
            hits.append((i, values[i] / usual))
    once = bool(hits) and hits[0][1] > 9 and values[hits[0][0]] > 0.5 * level  # what does no harm may happen once
    if hits and len(hits) <= 0.12 * len(values) and (len(hits) >= 2 or once):
        i, times = hits[0]
        yield find(
            "loss-spike", points[i][0],
            f"The loss of step {points[i][0]} was {points[i][1]:.3g}, {times:.0f} times what four of five steps around it stay below, and came back at once"
            + (f"; {len(hits)} steps did that." if len(hits) > 1 else ".") + " A sample or batch is far outside the others.",
            {"loss": points[i][1], "times": times, "spikes": float(len(hits)), "threshold": 6.0}, confidence=0.85,
        )  # fmt: skip


def _looks(h: History) -> dict[int, list[Vitals]]:
    """Layer measurements by step, each from the first layer to the last."""
    steps: dict[int, list[Vitals]] = {}
    for v in h.all("layer"):
        steps.setdefault(v.step, []).append(v)
    return {s: sorted(found, key=lambda v: v.values["order"]) for s, found in sorted(steps.items())}


def vanishing_gradients(h: History) -> Iterator[Finding]:
    hits = []
    for step, layers in _looks(h).items():
        weights = [
            v
            for v in layers
            if v.words["kind"] == "weight" and v.values["weight_norm"] > 1e-6 and math.isfinite(v.values["grad_norm"])
        ]
        if len(weights) < 3:
            continue
        first = max(weights[: max(2, len(weights) // 4)], key=lambda v: v.values["grad_norm"] / v.values["weight_norm"])
        last = max(weights[-2:], key=lambda v: v.values["grad_norm"])
        a, b = (
            first.values["grad_norm"] / first.values["weight_norm"],
            last.values["grad_norm"] / last.values["weight_norm"],
        )
        hits.append(
            (step, first, last, a, b) if a < 1e-3 * b and first.values["grad_norm"] < 1e-4 and b > 1e-5 else None
        )
    recent = hits[-4:]
    if len(recent) >= 3 and all(recent):
        step, first, last, a, b = next(hit for hit in hits if hit)
        yield find(
            "vanishing-gradients", step,
            f"The gradient of {first.name} is {first.values['grad_norm']:.1e}, that of {last.name} {last.values['grad_norm']:.1e}: {b / max(a, 1e-30):.0e} "
            "times less, relative to the weights, reaches the first layers.",
            {"first": first.values["grad_norm"], "last": last.values["grad_norm"], "ratio": a / b, "threshold": 1e-3}, confidence=0.9,
        )  # fmt: skip


def exploding_through_layers(h: History) -> Iterator[Finding]:
    looks = _looks(h)
    if not looks:
        return
    step, layers = next(iter(looks.items()))
    weights = [
        v
        for v in layers
        if v.words["kind"] == "weight" and v.values["weight_norm"] > 1e-6 and math.isfinite(v.values["grad_norm"])
    ]
    if step > 1 or len(weights) < 3 or h.adversarial():
        return
    first, last = weights[0], weights[-1]
    total = math.sqrt(sum(v.values["grad_norm"] ** 2 for v in weights))
    ratio = first.values["grad_norm"] / max(last.values["grad_norm"], 1e-12)
    if total > 300 and ratio > 30:
        yield find(
            "exploding-gradients", step,
            f"In the first step already, the gradient grows from {last.values['grad_norm']:.3g} at {last.name} to "
            f"{first.values['grad_norm']:.3g} at {first.name}.",
            {"first": first.values["grad_norm"], "last": last.values["grad_norm"], "ratio": ratio, "threshold": 30.0}, confidence=0.85,
        )  # fmt: skip


def signals_explode(h: History) -> Iterator[Finding]:
    updates = [v.values["ratio"] for v in h.all("layer") if v.step <= 1 and v.words["kind"] == "weight"]
    leapt = bool(updates) and statistics.median(updates) > 1  # the second step is then one of other weights
    early = [v for v in h.all("activation") if v.step <= (1 if leapt else 2)]
    inputs = [
        v.values["std"]
        for v in h.all("input")
        if v.step <= 2 and not v.values["whole"] and math.isfinite(v.values["std"])
    ]
    gains = [v.values["gain"] for v in h.all("layer") if "gain" in v.values and v.words["kind"] == "weight"]
    if not early or not gains or max(inputs, default=1.0) > 50 or statistics.median(gains) > 5:
        return
    widest = max(early, key=lambda v: v.values["std"])
    if widest.values["std"] > 1e3:
        gradient = next((v.values["gradient"] for v in h.all("update", "all")), math.nan)
        yield find(
            "exploding-gradients", 1,
            f"Signals grow through the model to a spread of {widest.values['std']:.3g} ({widest.name}), and the "
            f"gradient with them: its norm is {gradient:.3g} in the "
            "first step.",
            {"spread": widest.values["std"], "norm": gradient, "threshold": 1e3}, confidence=0.85,
        )  # fmt: skip


def exploding_over_steps(h: History) -> Iterator[Finding]:
    points = h.norms.points()
    if len(points) < 5 or h.adversarial():
        return
    early = statistics.median([n for _, n in points[:5]])
    hit = next(((s, n) for s, n in points[3:] if n > 100 * max(early, 1e-3) and n > 50), None)
    first = [
        v.values["ratio"]
        for v in h.all("layer")
        if v.step <= 3 and v.words["kind"] == "weight" and v.values["weight_norm"] > 1e-3
    ]
    if not first and not h.ended and h.step < SOON:  # losses are told before the looks that say why they rose
        return
    large = bool(first) and statistics.median(first) > 0.05  # then the learning rate is what made them grow
    if hit is None or large or h.fell() > 0.3 or not _losses_went_up(h):
        return
    yield find(
        "exploding-gradients", hit[0],
        f"The gradient norm, {early:.3g} in the first steps, is {hit[1]:.3g} in step {hit[0]}, and the loss has left its range.",
        {"early": early, "norm": hit[1], "threshold": 100.0}, confidence=0.7,
    )  # fmt: skip


def _losses_went_up(h: History) -> bool:
    """Whether the loss has left its range, and not for one step only."""
    values, broken = h.losses.values(), any(not math.isfinite(x) for x in h.losses.recent(2))
    late = max(values[-4:], default=0.0) if broken else statistics.median_high(values[-4:] or [0.0])
    return len(values) >= 4 and late > 2 * statistics.median(values[: max(3, len(values) // 4)])


def vanishing_through_time(h: History) -> Iterator[Finding]:
    seen = h.all("through-time")
    low = [v for v in seen if v.values["first"] < 1e-5 * v.values["last"]]
    if len(low) >= 3 and len(low) >= 0.7 * len(seen):
        v = low[0]
        yield find(
            "vanishing-gradients", v.step,
            f"Over {v.values['steps']:.0f} time steps the gradient falls from {v.values['last']:.1e} to {v.values['first']:.1e}: the beginning of a "
            "sequence teaches nothing.",
            {"first": v.values["first"], "last": v.values["last"], "time_steps": v.values["steps"], "threshold": 1e-5}, confidence=0.85,
        )  # fmt: skip


def exploding_through_time(h: History) -> Iterator[Finding]:
    for v in h.all("through-time"):
        if v.values["first"] > 1e3 * v.values["last"] > 0 and v.values["first"] > 100:
            yield find(
                "exploding-gradients", v.step,
                f"Over {v.values['steps']:.0f} time steps the gradient grows from {v.values['last']:.1e} to {v.values['first']:.1e}.",
                {"first": v.values["first"], "last": v.values["last"], "threshold": 1e3}, confidence=0.9,
            )  # fmt: skip
            return


def loss_scale_collapse(h: History) -> Iterator[Finding]:
    seen = h.all("scaler", "scaler")
    skipped = [v for v in seen if v.values["skipped"]]
    row, longest = 0, 0
    for v in seen:
        row = row + 1 if v.values["skipped"] else 0
        longest = max(longest, row)
    if seen and (longest >= 6 or (len(seen) >= 20 and len(skipped) > 0.5 * len(seen)) or seen[-1].values["scale"] < 1):
        yield find(
            "loss-scale-collapse", (skipped or seen)[0].step + 1,
            f"{len(skipped)} of the last {len(seen)} updates were skipped ({longest} in a row); the loss scale fell to {seen[-1].values['scale']:g}.",
            {"skipped": float(len(skipped)), "in_a_row": float(longest), "scale": seen[-1].values["scale"]},
        )  # fmt: skip


def crashed(h: History) -> Iterator[Finding]:
    for v in h.all("crash"):
        evidence: dict[str, float | str] = {"error": v.words["error"]}
        place = v.words["place"]
        if v.name == "out-of-memory":
            yield find(
                "out-of-memory",
                v.step + 1,
                f"Memory ran out in step {v.step + 1}: {v.words['error']}",
                evidence,
                place=place,
            )
        elif v.name == "one-sample":
            yield find(
                "batch-statistics-unreliable",
                v.step + 1,
                f"Batch norm was given a single sample in step {v.step + 1}, of which it can take no variance.",
                evidence,
                severity="error",
                place=place,
            )
        elif v.name == "detached":
            yield find(
                "parameters-without-gradient",
                v.step + 1,
                "The loss depends on no parameter: all are frozen, or the outputs are detached on their way to it.",
                evidence,
                severity="error",
                place=place,
            )
        elif v.name == "range":
            yield find(
                "head-loss-mismatch",
                v.step + 1,
                f"The loss was given values outside of what it takes: {v.words['error']}",
                evidence,
                place=place,
            )
