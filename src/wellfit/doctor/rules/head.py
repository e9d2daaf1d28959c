"""Loss and head: what the loss is given, and what it is made for. Read from the operations in the graph."""

import math
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History
from wellfit.events import Vitals

SOFT = ("Softmax", "SafeSoftmax")
RANGES = {"Sigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softmax": (0.0, 1.0), "SafeSoftmax": (0.0, 1.0), "Relu": (0.0, math.inf),
          "Softplus": (0.0, math.inf), "Threshold": (0.0, math.inf)}  # fmt: skip


def _losses(h: History) -> Iterator[Vitals]:
    for name in h.names("loss"):
        yield from h.all("loss", name)


def softmax_before_cross_entropy(h: History) -> Iterator[Finding]:
    for v in _losses(h):
        if v.words["function"] == "cross_entropy" and v.words["head"] in (*SOFT, "Sigmoid"):
            classes = v.values.get("classes", 2.0)
            floor = math.log(1 + (classes - 1) / math.e)
            yield find(
                "softmax-before-cross-entropy", v.step,
                f"`cross_entropy` applies a softmax itself and is given probabilities, the output of a {v.words['head'].lower()}. "
                f"With {classes:.0f} classes its loss cannot fall below {floor:.3f}.",
                {"classes": classes, "lowest_loss": floor}, place=v.words["place"],
            )  # fmt: skip
            return


def sigmoid_before_bce_with_logits(h: History) -> Iterator[Finding]:
    for v in _losses(h):
        if v.words["function"] == "binary_cross_entropy_with_logits" and v.words["head"] == "Sigmoid":
            yield find(
                "sigmoid-before-bce-with-logits", v.step,
                "`binary_cross_entropy_with_logits` is given the output of a sigmoid and applies another one: no prediction can be surer "
                "than 0.5 to 0.73.",
                {"lowest_loss_positive": 0.313, "lowest_loss_negative": 0.693}, place=v.words["place"],
            )  # fmt: skip
            return


def loss_broadcasts_shapes(h: History) -> Iterator[Finding]:
    for v in h.all("broadcast"):
        yield find(
            "loss-broadcasts-shapes", max(1, v.step),
            f"Prediction and target have different shapes ({v.words['shapes']}) and are blown up against each other ({v.name}): each "
            "prediction is compared with every target.",
            {"shapes": v.words["shapes"]}, place=v.words["place"],
        )  # fmt: skip
        return


def head_loss_mismatch(h: History) -> Iterator[Finding]:
    for v in _losses(h):
        says = _mismatch(v)
        if says:
            evidence: dict[str, float | str] = {
                k: v.values[k] for k in ("target_min", "target_max", "classes") if k in v.values
            }
            yield find("head-loss-mismatch", v.step, says, evidence | {"head": v.words["head"]}, place=v.words["place"])
            return


def _mismatch(v: Vitals) -> str:
    function, head, x = v.words["function"], v.words["head"], v.values
    if function == "nll_loss" and x.get("not_log_probabilities", 0) > 0.05:
        given = "probabilities (a softmax)" if head in SOFT else "plain outputs"
        return f"`nll_loss` expects log-probabilities and is given {given}; use `log_softmax`, or `cross_entropy` on plain outputs."
    if function == "cross_entropy":
        if x.get("classes") == 1:
            return (
                "`cross_entropy` is given a single unit: its loss is 0 whatever the unit says. For yes or no use "
                "one unit with `binary_cross_entropy_with_logits`, or two units."
            )
        if head in ("Tanh", "Relu", "Softplus") and x.get("given_size", 0) > 1:
            return f"`cross_entropy` expects unbounded outputs and is given those of a {head.lower()}, which holds every score in a narrow range."
    if function in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        if x.get("target_min", 0) < -1e-4 or x.get("target_max", 1) > 1 + 1e-4:
            return f"The binary loss expects targets between 0 and 1, and they go from {x['target_min']:g} to {x['target_max']:g}."
        if head in SOFT and function.endswith("logits"):
            return "`binary_cross_entropy_with_logits` is given the output of a softmax."
        if head in ("Relu", "Tanh") and function.endswith("logits"):
            return (
                f"`binary_cross_entropy_with_logits` expects unbounded outputs and is given those of a {head.lower()}."
            )
    if function in ("mse_loss", "smooth_l1_loss", "huber_loss", "l1_loss") and head in RANGES:
        low, high = RANGES[head]
        spread = max(x.get("target_std", 0.0), 1e-12)
        if x.get("head_std", 1.0) == 0 and head in SOFT and abs(x.get("head_mean", 0) - 1) < 1e-6:
            return "A softmax over a single unit is always 1, whatever the model computes."
        if x.get("target_max", low) > high + 0.25 * spread or x.get("target_min", high) < low - 0.25 * spread:
            top = "any size" if math.isinf(high) else f"{high:g}"
            return (
                f"The last operation, a {head.lower()}, gives {low:g} to {top}, and the targets go from "
                f"{x['target_min']:g} to {x['target_max']:g}: it cannot reach them."
            )
    return ""


def wrong_targets(h: History) -> Iterator[Finding]:
    for v in h.all("given"):
        yield find(
            "head-loss-mismatch",
            max(1, v.step),
            v.words["says"],
            dict(v.values),
            place=v.words["place"],
            confidence=0.95,
        )
        return


def symbols_beyond_head(h: History) -> Iterator[Finding]:
    for v in h.all("beyond"):
        yield find(
            "labels-out-of-range",
            max(1, v.step),
            v.words["says"],
            dict(v.values),
            place=v.words["place"],
            confidence=0.95,
        )
        return


def initial_loss_off(h: History) -> Iterator[Finding]:
    if any(v.values.get("frozen_behind", 0.0) > 0.3 for v in h.all("structure")):
        return  # a network that was trained before knows something, if of other data
    for v in _losses(h):
        if v.step > 1 or v.values["sign"] < 0 or "mean_loss" not in v.values:
            continue
        x, loss = v.values, v.values["mean_loss"]
        classes = x.get("classes", 0)
        if v.words["function"] == "cross_entropy" and classes >= 2:
            expected = math.log(classes)
            if loss > 2 * expected and loss > expected + 1.5:
                yield find(
                    "initial-loss-off", 1,
                    f"The first loss is {loss:.3g}; a model that knows nothing of {classes:.0f} classes has {expected:.3g}. The outputs start "
                    f"too large (their spread is {x.get('given_std', math.nan):.3g}).",
                    {"loss": loss, "expected": expected}, confidence=0.9, place=v.words["place"],
                )  # fmt: skip
                return
        if v.words["function"] == "mse_loss" and x.get("target_size", 0) >= 8:
            variance = x["target_std"] ** 2
            far = x["target_mean"] ** 2 > 15 * variance or x.get("given_std", 0) ** 2 > 15 * variance
            unscaled = loss > 3 * variance and max(abs(x["target_mean"]), x["target_std"]) > 20
            if variance > 1e-10 and ((loss > 25 * variance and far) or unscaled):
                yield find(
                    "initial-loss-off", 1,
                    f"The first squared error is {loss:.3g}, and guessing the mean of the targets would give {variance:.3g}. The targets lie "
                    f"around {x['target_mean']:.3g} (spread {x['target_std']:.3g}), the outputs around {x.get('given_mean', math.nan):.3g}.",
                    {"loss": loss, "variance": variance, "target_mean": x["target_mean"]}, confidence=0.85, place=v.words["place"],
                )  # fmt: skip
                return


def loss_negated(h: History) -> Iterator[Finding]:
    roots = h.all("root", "loss")
    negated = [v for v in roots if v.values["negated"]]
    if len(negated) >= 2 and len(negated) == len(roots) and not _through_rival(h):
        v = negated[0]
        functions = (
            ", ".join(sorted({f"`{loss.words['function']}`" for loss in _losses(h)})) or "a negative log-likelihood"
        )
        yield find(
            "loss-increasing", v.step, f"What is minimised is the negative of {functions}, so that loss is driven up.",
            {"operation": v.words["operation"]}, place=v.words["place"],
        )  # fmt: skip


def _through_rival(h: History) -> bool:
    """Whether it is a game, and the loss goes through the other player's network: that one's loss may well be driven up."""
    return h.adversarial() and any(v.values.get("crosses", 0) for v in h.all("structure"))


def players_agree(h: History) -> Iterator[Finding]:
    for v in h.all("game", "pull"):
        x = v.values
        down = min(x["own_least"], x["through_least"]) > 0.9
        if down or max(x["own_most"], x["through_most"]) < -0.9:
            yield find(
                "loss-increasing", 1,
                f"The step of {v.words['answers']} and the step of {v.words['samples']} both pull its answers to generated samples "
                f"{'down' if down else 'up'}: they do not play against each other. One of the losses has the wrong sign or the wrong labels.",
                {"pull_of_own_step": x["own_least"], "pull_of_other_step": x["through_least"]}, confidence=0.85,
            )  # fmt: skip
            return


def samples_out_of_reach(h: History) -> Iterator[Finding]:
    seen = h.all("game", "range")
    if len(seen) < 2 or not h.adversarial():
        return
    v = seen[-1]
    x, head = v.values, v.words["head"]
    low, high = RANGES.get(head, (-math.inf, math.inf))
    spread = max(x["real_std"], 1e-12)
    if x["real_max"] > high + 0.25 * spread or x["real_min"] < low - 0.25 * spread:
        yield find(
            "head-loss-mismatch", 1,
            f"The last operation of {v.words['samples']}, a {head.lower()}, gives {low:g} to {high:g}, and the real samples go from {x['real_min']:.3g} to "
            f"{x['real_max']:.3g}: it cannot make them.",
            {"real_min": x["real_min"], "real_max": x["real_max"], "head": head}, confidence=0.9,
        )  # fmt: skip


def one_loss_negated(h: History) -> Iterator[Finding]:
    if h.adversarial():
        return
    steps: dict[int, list[Vitals]] = {}
    for v in _losses(h):
        steps.setdefault(v.step, []).append(v)
    mixed = [found for found in steps.values() if len({v.values["sign"] for v in found if v.values["sign"]}) > 1]
    if len(mixed) >= 2 and len(mixed) == len(steps):
        against = next(v for v in mixed[0] if v.values["sign"] < 0)
        yield find(
            "loss-increasing", against.step,
            f"Of the {len(mixed[0])} losses that are added up, `{against.words['function']}` has a minus: it is driven up.",
            {"losses": float(len(mixed[0]))}, confidence=0.85, place=against.words["place"],
        )  # fmt: skip


def falls_without_bound(h: History) -> Iterator[Finding]:
    values = h.losses.values()
    if len(values) < 20 or h.adversarial():
        return
    first, last = values[0], values[-1]
    half = values[len(values) // 2]
    negated = [v for v in h.all("root", "loss") if v.words["operation"] == "Neg"]
    if negated and first < 0 and last < -100 * max(abs(first), 1.0) and last < half < first:
        yield find(
            "loss-increasing", negated[0].step,
            f"What is minimised is the negative of something, and it falls without bound, from {first:.3g} to {last:.3g}: the loss itself grows.",
            {"first": first, "last": last}, confidence=0.8, place=negated[0].words["place"],
        )  # fmt: skip


def loss_increasing(h: History) -> Iterator[Finding]:
    updates = h.all("update", "all")
    early = [u for u in updates if u.step <= 8][:6]
    along = [u.values["along_gradient"] for u in early]
    maximized = [v for v in h.all("optimizer") if v.values.get("maximize")]
    known = list(_losses(h))
    losses = h.losses.values()
    if (
        len(early) < 2
        or early[0].step > 4
        or h.adversarial()
        or not all(a >= 0.3 for a in along)
        or (maximized and not known)
        or any(v.name == "LBFGS" for v in h.all("optimizer"))  # its gradient is that after its last try
    ):
        return
    if not losses or min(losses) <= 0 or (len(losses) >= 3 and losses[-1] < losses[0]):
        return
    how = (
        "`maximize=True` is set"
        if maximized
        else "the update is added where it should be subtracted, or the learning rate is negative"
    )
    yield find(
        "loss-increasing", early[0].step,
        f"Each update goes along the gradient instead of against it (cosine {sum(along) / len(along):.2f}): {how}.",
        {"cosine": sum(along) / len(along), "first_loss": losses[0], "last_loss": losses[-1]},
    )  # fmt: skip
