"""Fine-tuning: what was meant to train and does not, what was meant to stay and moves, and what a text model is given.

Nothing is said of a model that knew nothing before, as far as can be told: a frozen last layer is then a choice.
"""

import math
import statistics
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import History

DRIFT = 0.1  # standard deviations that a frozen statistic may move
MOST = 0.5  # of all tokens being one id


def head_not_trained(h: History) -> Iterator[Finding]:
    for name in h.names("head"):
        seen = h.all("head", name)
        v = seen[-1]
        if len(seen) < 2 or v.values["known"] < 0.5 or not v.values["others"] or h.adversarial():
            continue
        yield find(
            "head-not-trained", seen[0].step,
            f"{v.words['layer']}, which gives the loss its {v.values['classes']:.0f} outputs, is frozen (`requires_grad` is False) and its weights are as they "
            f"were drawn, while {v.values['known']:.0%} of the model was trained before: what is learned must pass through a random layer.",
            {"layer": v.words["layer"], "known_share": v.values["known"], "trained_parameters": v.values["others"]}, confidence=0.95,
        )  # fmt: skip
        return


def frozen_head_crashed(h: History) -> Iterator[Finding]:
    for v in h.all("crash", "detached"):
        if v.words.get("new"):
            yield find(
                "head-not-trained", v.step + 1,
                f"All of the model is frozen, its new layers too ({v.words['new']}), so there is nothing to train.",
                {"layers": v.words["new"], "error": v.words["error"]}, severity="error", place=v.words["place"],
            )  # fmt: skip
        if v.words.get("adapters"):
            yield find(
                "adapter-without-effect", v.step + 1, f"Nothing of the model can be trained, as {v.words['adapters']}.",
                {"why": v.words["adapters"], "error": v.words["error"]}, severity="error", place=v.words["place"],
            )  # fmt: skip


def frozen_weights_changed(h: History) -> Iterator[Finding]:
    seen = h.all("frozen", "moved")
    if len(seen) < 2:
        return
    v = seen[0]
    how = (
        "the gradients that lie there are zeros, and momentum or weight decay moves them all the same"
        if v.values["zero"] else "the gradient of an earlier step still lies there and is used again and again"
    )  # fmt: skip
    yield find(
        "frozen-weights-changed", v.step,
        f"{v.values['parameters']:.0f} frozen parameters ({v.words['which']}) are changed by each step of the optimizer: {how}. They were frozen after they "
        "had had a gradient, and the optimizer holds them still.",
        {"parameters": v.values["parameters"], "which": v.words["which"], "steps_seen": float(len(seen))},
    )  # fmt: skip


def frozen_in_name_only(h: History) -> Iterator[Finding]:
    seen = h.all("misspelt", "attribute")
    if seen:
        v = seen[0]
        yield find(
            "frozen-weights-changed", v.step,
            f"{v.words['which']} was set to False, which torch does not read: {v.values['parameters']:.0f} parameters that were to be frozen are trained.",
            {"parameters": v.values["parameters"], "which": v.words["which"]}, confidence=0.95,
        )  # fmt: skip


def adapter_without_effect(h: History) -> Iterator[Finding]:
    if h.names("scaler"):
        return  # whose first steps may be left out
    seen = [v for v in h.all("adapter", "low rank") if not math.isnan(v.values["rate"]) and v.values["rate"] > 0]
    still = [v for v in seen if v.values["zero"] == v.values["matrices"]]
    if len(still) < 4 or still[-1].step < 4 or len(still) < len(seen):
        return
    v = still[-1]
    why = v.words["why"]
    if not why and v.values["frozen"] == v.values["matrices"]:
        why = "they are frozen"
    elif not why and v.values["without"] == v.values["matrices"]:
        why = "no gradient reaches them"
    yield find(
        "adapter-without-effect", still[0].step,
        f"After {v.step} steps all {v.values['matrices']:.0f} output matrices of the adapters are still zero ({v.words['which']})"
        + (f", as {why}" if why else "") + ": the model says what it said without them.",
        {"matrices": v.values["matrices"], "steps": float(v.step), "why": why or "not known"}, confidence=0.95,
    )  # fmt: skip


def frozen_statistics_drifting(h: History) -> Iterator[Finding]:
    if h.adversarial():
        return
    for v in h.all("statistics", "frozen batch norms"):
        x = v.values
        if v.step >= 4 and x["moved"] > DRIFT and x["known"] >= 0.5 and x["experience"] >= 0.5:
            yield find(
                "frozen-statistics-drifting", 1,
                f"{x['layers']:.0f} frozen batch norms are in training mode: by step {v.step} their running means had moved by {x['moved']:.2f} standard "
                f"deviations (at most {x['most']:.2f}, {v.words['worst']}), so the features of the frozen part change while the rest learns from them.",
                {"layers": x["layers"], "moved": x["moved"], "most": x["most"], "threshold": DRIFT}, confidence=0.9,
            )  # fmt: skip
            return


def labels_not_masked(h: History) -> Iterator[Finding]:
    for name in h.names("padding-targets"):
        seen = [v.values for v in h.all("padding-targets", name)]
        bad = [x for x in seen if x["counted"] >= 0.9 * x["padding"] and x["counted"] >= 1.5 * max(1.0, x["rows"])]
        share = sum(x["counted"] for x in bad) / max(1.0, sum(x["targets"] for x in bad))
        if len(bad) < 3 or len(bad) < len(seen) or share < 0.03:
            continue
        x, v = bad[0], h.all("padding-targets", name)[0]
        by = "the attention mask is 0" if x["masked"] else "the inputs are the padding id"
        yield find(
            "labels-not-masked", 1,
            f"{share:.0%} of the targets that the loss counts stand where {by} (mostly class {x['value']:.0f}): the model learns to say padding. Only "
            f"{x['ignored']:.0f} is left out of the loss.",
            {"share": share, "class": x["value"], "ignore_index": x["ignored"], "batches": float(len(bad)), "threshold": 0.03},
            confidence=0.95, place=v.words["place"],
        )  # fmt: skip
        return


def ids_beyond_embedding(h: History) -> Iterator[Finding]:
    for v in h.all("crash", "vocabulary"):
        w = v.words
        low = "below 0" if int(w["least"]) < 0 else f"up to {w['most']}"
        yield find(
            "vocabulary-mismatch", v.step + 1,
            f"Ids go {low}, and the embedding has {w['rows']} rows (0 to {int(w['rows']) - 1}): {w['beyond']} of {w['ids']} ids have none. Either the "
            "tokenizer is another model's, or it was given tokens that the model was not.",
            {k: w[k] for k in ("least", "most", "rows", "beyond", "ids")}, severity="error", place=w["place"],
        )  # fmt: skip


def unknown_tokens(h: History) -> Iterator[Finding]:
    if not h.pretrained():
        return
    for name in h.names("vocabulary"):
        seen = h.all("vocabulary", name)
        xs = [v.values for v in seen]
        ids = {x["id"] for x in xs}
        if len(xs) < 3 or len(ids) != 1 or sum(x["tokens"] for x in xs) < 300 or xs[0]["rows"] < 1000:
            continue
        share = statistics.fmean(x["share"] for x in xs)
        if share > MOST and all(x["share"] > 0.4 and x["kinds"] >= 3 for x in xs):
            yield find(
                "vocabulary-mismatch", 1,
                f"{share:.0%} of all tokens are one and the same, id {xs[0]['id']:.0f}, in a model that knows {xs[0]['rows']:.0f}: to this tokenizer most of "
                "the text is unknown, or it is not the one that the model was trained with.",
                {"share": share, "id": xs[0]["id"], "vocabulary": xs[0]["rows"], "threshold": MOST}, confidence=0.85, place=seen[0].words["place"],
            )  # fmt: skip
            return
