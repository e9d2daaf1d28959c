"""The loop: what is done in which order. These are observed, not guessed, and known after two steps."""

import math
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History


def gradients_not_cleared(h: History) -> Iterator[Finding]:
    kept = [v for v in h.all("loop", "step") if v.values["kept"] > 0]
    if kept:
        first = kept[0]
        yield find(
            "gradients-not-cleared", first.step,
            f"The gradients of step {first.step - 1} were still there when those of step {first.step} were added: nothing cleared "
            f"them in between. {first.words['parameter']} and {first.values['kept'] - 1:.0f} others are concerned.",
            {"parameters": first.values["kept"], "parameter": first.words["parameter"]}, place=first.words["place"],
        )  # fmt: skip
        return
    foreign = [v for v in h.all("loop", "step") if v.values.get("foreign", 0) > 0]
    if len(foreign) >= 2:
        first = foreign[0]
        yield find(
            "gradients-not-cleared", first.step,
            f"The backward pass at {first.words['foreign_place']}, after which another optimizer stepped, left gradients in {first.words['parameter']} "
            f"and {first.values['foreign'] - 1:.0f} others, and those of {first.words['place']} were added to them: clear them before that pass.",
            {"parameters": first.values["foreign"], "parameter": first.words["parameter"]}, place=first.words["place"],
        )  # fmt: skip


def gradients_emptied(h: History) -> Iterator[Finding]:
    emptied = [v for v in h.all("loop", "step") if v.values["emptied"] > 0]
    if len(emptied) >= 2:
        yield find(
            "weights-not-changing", emptied[0].step,
            "The backward pass made gradients, and when the optimizer stepped they were gone: they are cleared between `backward` "
            "and `step`.",
            {"steps": float(len(emptied))}, place=emptied[0].words["place"],
        )  # fmt: skip


def accumulation_not_divided(h: History) -> Iterator[Finding]:
    several = [v for v in h.all("loop", "step") if v.values["backwards"] >= 2]
    raw = [v for v in several if not v.values["divided"]]
    if len(raw) >= 2 and len(raw) == len(several):
        n = raw[0].values["backwards"]
        yield find(
            "accumulation-miscounted", raw[0].step,
            f"{n:.0f} backward passes are added up for one step, each of a mean loss that is not divided by {n:.0f}: the gradient, "
            f"and with it the step, is {n:.0f} times what the learning rate was chosen for.",
            {"backward_passes": n}, confidence=0.95, place=raw[0].words["place"],
        )  # fmt: skip


def gradients_thrown_away(h: History) -> Iterator[Finding]:
    last = h.latest("loop", "step")
    for v in h.all("discarded"):
        if v.values["steps"] < 1 or v.values["times"] < 2 or last is None or v.name != last.words["place"]:
            continue
        yield find(
            "accumulation-miscounted", v.step,
            f"Gradients from {v.name} were cleared {v.values['times']:.0f} times without a step in between: those batches teach "
            "nothing. Either gradients are cleared for every micro-batch, or the last ones of an epoch never get their step.",
            {"thrown_away": v.values["times"], "steps": v.values["steps"]}, confidence=0.95, place=v.name,
        )  # fmt: skip
        return


def windows_carried_over(h: History) -> Iterator[Finding]:
    v = h.latest("windows", "accumulation")
    if v is None:
        return
    usual, larger, steps = v.values["usual"], v.values["larger"], v.values["steps"]
    if usual >= 2 and 2 <= larger <= 0.4 * steps and v.values["kinds"] <= 4:
        yield find(
            "accumulation-miscounted", v.step,
            f"Most steps add up {usual:.0f} batches, but {larger:.0f} of {steps:.0f} added up to {v.values['most']:.0f}: what was left "
            "at the end of an epoch is carried into the next one's first step.",
            {"usual": usual, "most": v.values["most"], "larger_windows": larger}, confidence=0.9,
        )  # fmt: skip


def never_stepped(h: History) -> Iterator[Finding]:
    for v in h.all("discarded"):
        others, times = v.values["all_steps"] > 0, v.values["times"]
        cleared = v.name != "never stepped"
        if v.values["steps"] == 0 and not h.step and times >= (8 if others else 3) and (cleared or not others):
            yield find(
                "weights-not-changing", 1,
                f"Gradients were computed {times:.0f} times for the optimizer made at {v.words.get('made', '?')}, and its `step()` was never called.",
                {"backward_passes": v.values["times"], "steps": 0.0}, place=v.words.get("place", ""),
            )  # fmt: skip
            return


def weights_not_changing(h: History) -> Iterator[Finding]:
    updates = h.all("update", "all")
    back = [u for u in updates if u.values.get("returned") and u.values["moved"] > 0 and u.step > 1]
    if len(back) >= 2 and len(back) >= 0.8 * (len(updates) - 1):
        yield find(
            "weights-not-changing", back[0].step,
            f"Each update changes the weights, and before the next one they are what they were in the first step again ({len(back)} looks): something "
            "puts them back.",
            {"looks": float(len(back))},
        )  # fmt: skip
        return
    if (
        len(updates) < 2
        or any(u.values["moved"] > 0 or not math.isfinite(u.values["length"]) for u in updates)
        or updates[0].step > 4
    ):
        return
    first = updates[0]
    if first.values["rate"] == 0:
        why = "The learning rate is 0"
    elif first.values["gradient"] == 0:
        why = "All gradients are 0"
    else:
        why = f"The updates are below what the weights' type can hold (learning rate {first.values['rate']:g})"
    yield find(
        "weights-not-changing", first.step, f"{updates[-1].step} steps were taken and no weight changed. {why}.",
        {"learning_rate": first.values["rate"], "gradient_norm": first.values["gradient"], "parameters": first.values["parameters"]},
    )  # fmt: skip


def stale_parameters(h: History) -> Iterator[Finding]:
    v = h.latest("structure", "parameters")
    if v is None or v.values["by_hand"]:
        return
    stale = v.values["stale"]
    if stale:
        yield find(
            "optimizer-holds-stale-parameters", v.step,
            f"The optimizer (made at {v.words['place']}) holds {stale:.0f} parameters that no model uses any more ({v.words['stale']})"
            + (f", while {v.words['unheld']} of the model that runs are held by none" if v.words["unheld"] else "")
            + ": model or layer were made anew after the optimizer.",
            {"stale": stale, "not_held": v.values["unheld"]}, place=v.words["place"],
        )  # fmt: skip


def parameters_not_in_optimizer(h: History) -> Iterator[Finding]:
    found = [
        v
        for v in h.all("structure", "parameters")
        if v.values["unheld"] and not v.values["by_hand"] and not v.values["stale"]
    ]
    if len(found) >= 2:
        v = found[0]
        head = v.words.get("unheld_head", "")
        last = f" Among them is the last layer, which gives the loss its outputs ({head})." if head else ""
        evidence: dict[str, float | str] = {
            "parameters": v.values["unheld"], "elements": v.values["unheld_numel"], "which": v.words["unheld"],
        }  # fmt: skip
        yield find(
            "parameters-not-in-optimizer", v.step,
            f"{v.values['unheld']:.0f} parameters get a gradient and no optimizer holds them: {v.words['unheld']}. They stay as "
            f"they are.{last}",
            evidence | ({"last_layer": head} if head else {}), place=v.words["place"],
        )  # fmt: skip


def parameters_without_gradient(h: History) -> Iterator[Finding]:
    v = h.latest("structure", "parameters")
    if v is None or not v.values["without"] or v.values["stale"] or v.values["by_hand"]:
        return
    unused = v.values["idle"] == v.values["without"]
    if unused and v.step < 5 and not h.ended:
        return  # experts and layers that are not drawn at every step
    small = v.values.get("without_share", 1.0) < 0.02
    why = "their layers are not used in the forward pass" if unused else "they are detached from the loss on the way"
    yield find(
        "parameters-without-gradient", 1,
        f"{v.values['without']:.0f} of {v.values['held']:.0f} parameters in the optimizer get no gradient, as {why}: {v.words['without']}.",
        {"parameters": v.values["without"], "which": v.words["without"]}, place=v.words["place"],
        severity="advice" if unused and small else "",
    )  # fmt: skip


def training_in_eval_mode(h: History) -> Iterator[Finding]:
    modes = [v for name in h.names("mode") for v in h.all("mode", name)]
    if len(modes) >= 2:
        v = modes[0]
        yield find(
            "training-in-eval-mode", v.step + 1,
            f"{v.name} is trained in evaluation mode: its {v.words['parts']} do nothing (dropout) or stand still (batch norm).",
            {"switches": v.values["switches"], "parts": v.words["parts"]}, place=v.words["place"],
        )  # fmt: skip


def evaluation_in_train_mode(h: History) -> Iterator[Finding]:
    for name in h.names("evaluation"):
        spans = h.all("evaluation", name)
        v = spans[-1]
        if (
            v.values["mixing"] < 0.5
            or not v.values["trained"]
            or (v.values["feeds"] and h.adversarial())
            or v.values["trained_on"] >= v.values["calls"]
        ):
            continue
        if v.values["calls"] >= 3 and v.values["repeated"] >= 0.6 * (v.values["calls"] - 1):
            continue  # the same input again and again: MC dropout
        often = len(spans) >= 8 and spans[-1].values["steps"] - spans[-8].values["steps"] <= 14
        if often and not v.values["scored"]:
            continue  # part of each training step: pseudo-labels, targets
        yield find(
            "evaluation-in-train-mode", v.step,
            f"{v.values['samples']:.0f} samples were evaluated (from {v.words['place']}) with the model in training mode: {v.words['parts']} "
            "were active, so the scores are not the model's own.",
            {"samples": v.values["samples"], "parts": v.words["parts"]}, confidence=0.95, place=v.words["place"],
        )  # fmt: skip
        return
