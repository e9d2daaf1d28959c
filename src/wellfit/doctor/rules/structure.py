"""Units and structure: layers that cannot learn, and models that see what they should not."""

import math
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History


def dead_units(h: History) -> Iterator[Finding]:
    if h.shrunk() < 0.25:
        return  # the units are not dead by themselves: `underfitting` tells why
    for name in h.names("activation"):
        looks = [
            v
            for v in h.all("activation", name)
            if "dead" in v.values and v.values["samples"] >= 16 and v.values["units"] >= 4
        ]
        some = bool(looks) and looks[-1].values["dead"] < 0.9
        recent = looks[-8:] if some else looks[-4:]
        if len(recent) < 4 or (some and (len(recent) < 8 or not h.ended)):
            continue  # some come back by themselves, and the others may well be enough
        threshold = 0.9 if h.rewarded() else 0.5  # the states that a policy comes by resemble each other
        if min(v.values["dead"] for v in recent) > threshold and recent[-1].values["followed"]:
            onset, share, units = (
                next(v for v in looks if v.values["dead"] > 0.5),
                recent[-1].values["dead"],
                recent[-1].values["units"],
            )
            spare = max(v.values["dead"] for v in recent) < 0.9 and (1 - share) * units >= 8 and h.fell() > 0.3
            learns = " The others learn all the same; the layer is smaller than it looks." if spare else ""
            yield find(
                "dead-units", onset.step,
                f"{share:.0%} of the {units:.0f} units of the {name} are zero for every sample, look after look.{learns}",
                {"share": share, "units": units, "threshold": 0.5, "layer": name}, confidence=0.9, severity="advice" if spare else "",
            )  # fmt: skip
            return


def saturated_units(h: History) -> Iterator[Finding]:
    if h.adversarial():
        return
    for name in h.names("activation"):
        looks = [
            v
            for v in h.all("activation", name)
            if "saturated" in v.values and v.values["samples"] >= 16 and v.values["units"] >= 4
        ]
        recent = looks[-4:]
        if len(recent) >= 4 and min(v.values["saturated"] for v in recent) > 0.5 and recent[-1].values["followed"]:
            onset = next(v for v in looks if v.values["saturated"] > 0.5)
            yield find(
                "saturated-units", onset.step,
                f"{recent[-1].values['saturated']:.0%} of the units of the {name} sit at its flat ends for nine of ten samples.",
                {"share": recent[-1].values["saturated"], "threshold": 0.5, "layer": name}, confidence=0.9,
            )  # fmt: skip
            return


def poor_initialization(h: History) -> Iterator[Finding]:
    first = sorted((v for v in h.all("layer") if "gain" in v.values), key=lambda v: v.values["order"])
    if not first:
        return
    hidden = [v for v in first[:-1] if v.words["kind"] == "weight"]
    second = {v.name: v for v in h.all("layer") if v.step == 2}
    alike = [v for v in hidden if v.values["alike"] and v.values["units"] > 1 and second.get(v.name) is not None
             and second[v.name].values.get("alike_gradient")]  # fmt: skip
    if alike:
        how = "all zero" if alike[0].values["zero"] else "all alike"
        yield find(
            "poor-initialization", 1,
            f"The units of {alike[0].name} start {how} and get equal gradients, so they stay one and the same unit.",
            {"layers": float(len(alike)), "layer": alike[0].name},
        )  # fmt: skip
        return
    constant = [
        v
        for v in first
        if v.values["alike"]
        and v.values["constant"]
        and not v.values["zero"]
        and v.values["units"] > 1
        and second.get(v.name) is not None
        and second[v.name].values.get("rows_agree", 0.0) > 0.5
    ]
    if len(constant) >= 2:
        yield find(
            "poor-initialization", 1,
            f"All numbers of {constant[0].name} start the same, and so do those of {len(constant) - 1} more: their units are one and the same unit, "
            "but for what chance does to them.",
            {"layers": float(len(constant)), "layer": constant[0].name}, confidence=0.9,
        )  # fmt: skip
        return
    gains = [(v, v.values["gain"]) for v in first if v.words["kind"] == "weight" and v.values["dims"] > 1]
    large, small = [v for v, g in gains if g > 5], [v for v, g in gains[:-1] if 0 < g < 0.05]
    early = [v for v in h.all("activation") if v.step <= 1]
    losses = [v.values for v in h.all("loss") if v.step <= 1]
    if large and (len(large) >= 2 or large[0].values["gain"] > 15):
        wide = max([v.values["std"] for v in early], default=0.0)
        flat = max(
            [max(x.get("saturated", 0.0), x.get("flat_values", 0.0) - 0.2) for v in early for x in [v.values]],
            default=0.0,
        )
        far = max([x.get("given_std", 0.0) for x in losses], default=0.0)
        if wide > 8 or flat > 0.5 or far > 8:
            yield find(
                "poor-initialization", 1,
                f"The weights of {large[0].name} start far too large: std x sqrt(fan-in) is {large[0].values['gain']:.3g} where about 1 keeps the scale of a "
                f"signal. Signals leave the layers with a spread of {max(wide, far):.3g}.",
                {"gain": large[0].values["gain"], "threshold": 5.0, "layers": float(len(large))}, confidence=0.9,
            )  # fmt: skip
    elif len(small) >= 2:
        narrow = min([v.values["std"] for v in early if v.values["std"] > 0], default=math.inf)
        stuck = max([x.get("given_std", math.inf) for x in losses], default=math.inf)
        if narrow < 0.02 or stuck < 1e-3:
            yield find(
                "poor-initialization", 1,
                f"The weights of {small[0].name} and {len(small) - 1} more layers start far too small (std x sqrt(fan-in) = {small[0].values['gain']:.2g}): "
                f"signals shrink to {min(narrow, stuck):.1e}.",
                {"gain": small[0].values["gain"], "threshold": 0.05, "layers": float(len(small))}, confidence=0.9,
            )  # fmt: skip


def missing_nonlinearity(h: History) -> Iterator[Finding]:
    embeddings = {v.name.removesuffix(".weight") for v in h.all("layer") if v.words["kind"] == "embedding"}
    for name in h.names("linear-pair"):
        if name in embeddings:
            continue  # a narrow state is compared with the embeddings of all tokens: tied weights
        seen = h.all("linear-pair", name)
        v = seen[-1]
        x = v.values
        if len(seen) < 2 or v.words["same_kind"] != "True" or x["between"] < min(x["in"], x["out"]):
            continue
        if (x["convolution"] and x["kernel"] == 1) or v.words.get("into") in (
            "Bmm",
            "ScaledDotProductFlashAttentionForCpu",
            "Glu",  # a gate, whose half is no mere linear layer
        ):
            continue
        yield find(
            "missing-nonlinearity", seen[0].step,
            f"{name} reads what {v.words['after']} made with no activation between them: the two can do no more than one linear layer.",
            {"after": v.words["after"], "layer": name, "width": x["between"]}, confidence=0.95,
        )  # fmt: skip
        return


def batch_statistics_unreliable(h: History) -> Iterator[Finding]:
    for name in h.names("batch-norm"):
        seen = h.all("batch-norm", name)
        sizes = [v.values["samples"] for v in seen]
        if len(seen) >= 3 and statistics.median(sizes) <= 4:
            yield find(
                "batch-statistics-unreliable", 1,
                f"The {seen[0].values['layers']:.0f} batch norm layers of {name} take mean and variance from {statistics.median(sizes):.0f} samples.",
                {"samples": statistics.median(sizes), "threshold": 4.0}, confidence=0.9, place=seen[0].words["place"],
            )  # fmt: skip
            return


def samples_mixed_in_batch(h: History) -> Iterator[Finding]:
    for v in h.all("independence"):
        if v.values["mixing"]:
            yield find(
                "samples-mixed-in-batch", 1,
                f"Another first sample changes what {v.name} says of the others (by {v.values['moved']:.1%} of the largest output), in evaluation mode, "
                "on a copy.",
                {"moved": v.values["moved"], "samples": v.values["samples"]}, place=v.words["place"],
            )  # fmt: skip
            return


def future_leak(h: History) -> Iterator[Finding]:
    for v in h.all("ahead"):
        if v.values["shifted"] and v.values["moved"] > 1e-4:
            yield find(
                "future-leak", 1,
                f"The targets are the inputs moved by one, and changing later tokens changes what {v.name} says before them (by {v.values['moved']:.1%}): "
                "it sees what it is to predict.",
                {"moved": v.values["moved"]}, place=v.words["place"],
            )  # fmt: skip
            return
        few = v.values["used"] < 0.5  # some positions are to be filled in, and stand there unmasked
        if v.values["same"] and (v.values["moved"] <= 1e-4 or few):
            yield find(
                "future-leak", 1,
                "The targets are the inputs themselves, position by position, and not moved by one: the model only has to copy.",
                {"moved": v.values["moved"]}, place=v.words["place"], confidence=0.9,
            )  # fmt: skip
            return


def target_among_inputs(h: History) -> Iterator[Finding]:
    seen = h.all("peek")
    if len(seen) >= 2:
        v = seen[0]
        yield find(
            "future-leak", 1,
            f"In every sample, number {v.values['column']:.0f} of the inputs of {v.name} is the target itself.",
            {"column": v.values["column"], "samples": v.values["samples"]}, confidence=0.95,
        )  # fmt: skip


def dropout_on_samples(h: History) -> Iterator[Finding]:
    seen = h.all("game", "dropout")
    if len(seen) >= 2:
        yield find(
            "dropout-harmful", 1, f"Dropout acts on what {seen[0].words['samples']} makes: {seen[0].values['p']:.0%} of each sample is set to zero at random.",
            {"p": seen[0].values["p"]}, confidence=0.9,
        )  # fmt: skip


def dropout_on_output(h: History) -> Iterator[Finding]:
    seen = [v for v in h.all("loss") if v.words["head"] == "Dropout"]
    if len(seen) >= 2:
        yield find(
            "dropout-harmful", seen[0].step, "Dropout acts on the output that the loss is given: outputs are set to zero at random.",
            {"loss": seen[0].words["function"]}, place=seen[0].words["place"],
        )  # fmt: skip


def dropout_too_strong(h: History) -> Iterator[Finding]:
    seen = [v for v in h.all("dropout") if v.values["p"] >= 0.88]
    if len(seen) >= 2:
        yield find(
            "dropout-harmful", 1, f"A dropout sets {seen[0].values['p']:.0%} of what passes {seen[0].name} to zero.",
            {"p": seen[0].values["p"], "threshold": 0.9}, confidence=0.9,
        )  # fmt: skip
