"""Data: what the model and the loss are fed, batch by batch and over the whole set."""

import math
from collections.abc import Iterator

from wellfit.doctor.finding import Finding, find
from wellfit.doctor.history import SLOW, History

SELF_NORMALIZING = (
    "NativeBatchNorm",
    "NativeLayerNorm",
    "NativeGroupNorm",
    "CudnnBatchNorm",
    "Embedding",
    "FusedRmsNorm",
    "RmsNorm",
)


def inputs_not_finite(h: History) -> Iterator[Finding]:
    for v in h.all("input"):
        if v.values.get("non_finite", 0) > 0:
            yield find(
                "inputs-not-finite", max(1, v.step), f"{v.values['non_finite']:.2%} of what {v.name} reads is NaN or infinite.",
                {"share": v.values["non_finite"], "layer": v.name}, place=v.words["place"],
            )  # fmt: skip
            return


def inputs_not_normalized(h: History) -> Iterator[Finding]:
    for name in h.names("input"):
        seen = [
            v for v in h.all("input", name) if v.words["operation"] not in SELF_NORMALIZING and not v.values["whole"]
        ]
        if len(seen) < 2 or "hh" in name:
            continue
        x = seen[-1].values
        says = ""
        if x["std"] > 20 or abs(x["mean"]) > 20:
            says = (
                f"The inputs of {name} have a mean of {x['mean']:.3g} and a spread of {x['std']:.3g} (from "
                f"{x['min']:.3g} to {x['max']:.3g}); about 0 and 1 are expected."
            )
        elif (
            x.get("features", 0) >= 2
            and x.get("largest_scale", 0) > 5
            and x["largest_scale"] > 100 * x["smallest_scale"]
        ):
            says = f"The features that {name} reads have spreads from {x['smallest_scale']:.3g} to {x['largest_scale']:.3g}."
        elif 0 < max(abs(x["min"]), abs(x["max"])) < 2e-3 and x["std"] > 0:
            says = f"The inputs of {name} lie between {x['min']:.2g} and {x['max']:.2g}: far too small to matter beside the biases."
        if says and not math.isnan(x["std"]):
            keep = {k: x[k] for k in ("mean", "std", "min", "max", "largest_scale", "smallest_scale") if k in x}
            yield find(
                "inputs-not-normalized", 1, says, keep | {"layer": name}, confidence=0.9, place=seen[0].words["place"]
            )
            return


def inputs_degenerate(h: History) -> Iterator[Finding]:
    by_step: dict[int, list[tuple[str, dict[str, float]]]] = {}
    for v in h.all("input"):
        ones = v.values["min"] == v.values["max"] == 1.0  # a column of ones, the seed of an inner gradient
        if not v.values["whole"] and "hh" not in v.name and v.values["samples"] >= 4 and not ones:
            by_step.setdefault(v.step, []).append((v.name, dict(v.values)))
    hits = []
    for step, seen in sorted(by_step.items()):
        empty = [x["max"] == x["min"] or (x.get("constant_samples", 0) > 0.5 and x["dims"] > 2)
                 or (x.get("constant_samples", 0) > 0.5 and x.get("features", 0) >= 8)
                 or (x.get("features", 0) >= 4 and x.get("constant_features", 0) >= 0.9 * x["features"]) for _, x in seen]  # fmt: skip
        hits.append((step, seen[0]) if all(empty) else None)
    if len(hits) >= 3 and sum(hit is not None for hit in hits) >= 0.6 * len(hits):
        step, (name, x) = next(hit for hit in hits if hit)
        yield find(
            "inputs-degenerate", step,
            f"What {name} reads is constant ({x.get('constant_samples', 1.0):.0%} of the samples have a single value, from {x['min']:.3g} to {x['max']:.3g}).",
            {"constant_samples": x.get("constant_samples", 1.0), "min": x["min"], "max": x["max"]}, confidence=0.9,
        )  # fmt: skip


def tokens_degenerate(h: History) -> Iterator[Finding]:
    for name in h.names("tokens"):
        seen = h.all("tokens", name)
        if len(seen) >= 3 and all(v.values["empty"] == v.values["samples"] for v in seen):
            yield find("inputs-degenerate", max(1, seen[0].step), f"All token ids that {name} reads are one and the same, in {len(seen)} batches.",
                       {"batches": float(len(seen))}, confidence=0.9, place=seen[0].words["place"])  # fmt: skip
            return


def targets_all_ignored(h: History) -> Iterator[Finding]:
    for v in h.all("loss"):
        if v.values.get("ignored", 0) >= 1.0:
            yield find("targets-all-ignored", v.step, f"In step {v.step} every target is masked out: there is nothing to learn from.",
                       {"ignored": 1.0}, place=v.words["place"])  # fmt: skip
            return


def loss_masked_away(h: History) -> Iterator[Finding]:
    seen = h.all("masked")
    if seen:
        v = seen[0]
        yield find("targets-all-ignored", v.step, f"In step {v.step} nothing is left of the loss: {v.words['how']}.",
                   {"how": v.words["how"]}, place=v.words["place"], confidence=0.95)  # fmt: skip


def crashed_on_data(h: History) -> Iterator[Finding]:
    for v in h.all("crash"):
        if v.name == "labels":
            known = "least" in v.words
            ids = (
                f"Class ids go from {v.words['least']} to {v.words['most']}, and the head has {v.words['classes']} units (0 to {int(v.words['classes']) - 1})."
                if known
                else "A class id has no unit in the head."
            )
            yield find(
                "labels-out-of-range",
                v.step + 1,
                ids,
                {k: t for k, t in v.words.items() if k != "place"},
                place=v.words["place"],
            )
        elif v.name == "empty":
            yield find(
                "empty-sequences",
                v.step + 1,
                "A sequence of length zero was to be packed.",
                {"error": v.words["error"]},
                place=v.words["place"],
            )


def labels_single_class(h: History) -> Iterator[Finding]:
    for v in h.all("labels"):
        x = v.values
        if x["present"] == 1 and x["classes"] >= 2 and x["samples"] >= 64 and (x["final"] or x["batches"] >= 200):
            only = next(k for k in x if k.startswith("class "))
            yield find("labels-single-class", 1, f"All {x['samples']:.0f} labels seen are {only}, while the head has {x['classes']:.0f} classes.",
                       {"samples": x["samples"], "classes": x["classes"]}, confidence=0.95)  # fmt: skip
            return


def dense_labels_single_class(h: History) -> Iterator[Finding]:
    v = h.latest("dense-labels")
    if v is not None and v.values["present"] == 1 and v.values["final"] and v.values["labels"] >= 4096:
        yield find("labels-single-class", 1, f"All {v.values['labels']:.0f} labels (one for each pixel or token) are one and the same.",
                   {"labels": v.values["labels"]}, confidence=0.95)  # fmt: skip


def class_imbalance(h: History) -> Iterator[Finding]:
    for v in h.all("labels"):
        x = v.values
        if not (x["final"] or x["samples"] >= 4000) or x["weighted"] or x["present"] < 2 or x["classes"] > 50:
            continue
        fair = 1 / x["present"]
        if x["rarest"] < 0.1 * fair and x["samples"] * fair >= 20:
            rare = min((k for k in x if k.startswith("class ")), key=lambda k: x[k])
            yield find(
                "class-imbalance", 1,
                f"{rare.capitalize()} has {x['rarest']:.2%} of the labels, less than a tenth of its fair share ({fair:.0%}), and the loss has no weights.",
                {"rarest": x["rarest"], "fair_share": fair, "class": rare}, confidence=0.85,
            )  # fmt: skip
            return


def rare_tags(h: History) -> Iterator[Finding]:
    for v in h.all("tags"):
        x = v.values
        if not x["final"] or x["samples"] < 200:
            continue
        if x["constant"] == x["tags"] and x["rarest"] != x["largest"]:
            continue  # each column stands for a candidate: the true one, and sampled ones that are not
        if x["constant"] == x["tags"]:
            yield find("labels-single-class", 1, f"Each of the {x['tags']:.0f} labels has the same value in all {x['samples']:.0f} samples.",
                       {"samples": x["samples"], "labels": x["tags"]}, confidence=0.95)  # fmt: skip
        elif x["rarest"] < 0.012 and not x["weighted"] and x["tags"] <= 50:
            yield find("class-imbalance", 1, f"Label {x['rarest_tag']:.0f} is given to {x['rarest']:.2%} of the samples, and the loss has no weights.",
                       {"share": x["rarest"], "label": x["rarest_tag"], "threshold": 0.012}, confidence=0.8)  # fmt: skip


def data_not_shuffled(h: History) -> Iterator[Finding]:
    if h.adversarial():
        return
    for v in h.all("labels"):
        x = v.values
        pure = x["purity"] > 0.9 and x["largest"] < 0.75
        one_class = x["alternates"] > 0.5 and x["largest"] ** x["batch"] < 0.1  # what mixing would give
        if x["present"] >= 2 and x["batches"] >= 6 and x["batch"] >= 4 and (pure or one_class):
            yield find(
                "data-not-shuffled", 1,
                f"In a batch {x['purity']:.0%} of the labels are one class, over all batches at most {x['largest']:.0%}: samples come sorted by class.",
                {"purity": x["purity"], "largest_share": x["largest"], "batches": x["batches"]}, confidence=0.9,
            )  # fmt: skip
            return


def targets_not_shuffled(h: History) -> Iterator[Finding]:
    for v in h.all("targets"):
        x = v.values
        if x["batches"] < 8 or x["different_means"] <= 4 or h.adversarial() or x["variance"] <= 0:
            continue
        narrow, ordered = x["within"] < 0.3 * x["variance"], x["follows"] > 0.6
        if narrow or ordered:
            how = (
                f"Targets vary much less within a batch (variance {x['within']:.3g}) than over all batches ({x['variance']:.3g})" if narrow
                else f"Within a batch each target resembles the one before it (correlation {x['follows']:.2f})"
            )  # fmt: skip
            yield find(
                "data-not-shuffled", 1, f"{how}: samples come sorted, by target or by time.",
                {"within": x["within"], "variance": x["variance"], "correlation": x["follows"], "threshold": 0.6}, confidence=0.8,
            )  # fmt: skip
            return


def duplicate_samples(h: History) -> Iterator[Finding]:
    for v in h.all("stored"):
        share = 1 - v.values["distinct"] / v.values["samples"]
        if share > (0.5 if v.values["whole"] else 0.1):
            yield find(
                "duplicate-samples", 1, f"Of the {v.values['samples']:.0f} samples that {v.name} keeps only {v.values['distinct']:.0f} are different.",
                {"samples": v.values["samples"], "distinct": v.values["distinct"], "threshold": 0.1}, confidence=0.95,
            )  # fmt: skip
            return
    latest = h.latest("population")
    if latest is None or h.rewarded():
        return  # nothing, or states of an environment, which come again
    v = latest
    if v.values.get("possible", 1e12) < 4 * v.values["distinct"]:
        return  # inputs of few possible values repeat by nature
    if v.values.get("levels", 9) <= 2 and v.values["distinct"] <= 2 * v.values["width"]:
        return  # one-hot states, of which there are as many as places
    if v.values["replacement"] or v.values["width"] < (8 if v.values["whole"] else 6):
        return
    x = v.values
    batch = x["seen"] / max(1.0, x["batches"])
    if batch >= 2 * x["distinct"] >= 16 and not x["whole"]:
        yield find(
            "duplicate-samples", 1, f"A batch holds {batch:.0f} samples, and in all batches only {x['distinct']:.0f} are different.",
            {"batch": batch, "distinct": x["distinct"]}, confidence=0.95,
        )  # fmt: skip
        return
    if x["whole"] and x["inner_repeats"] > 0.5 * x["seen"] and x["batches"] >= 8:
        yield find(
            "duplicate-samples", 1, f"Of {x['seen']:.0f} sequences {x['inner_repeats']:.0f} stand in their batch more than once.",
            {"seen": x["seen"], "repeats": x["inner_repeats"]}, confidence=0.9,
        )  # fmt: skip
        return
    if x["pass_seen"]:
        share = 1 - x["pass_distinct"] / x["pass_seen"]
        if share > (0.5 if x["whole"] else 0.1) and x["pass_seen"] - x["pass_distinct"] >= 10:
            yield find(
                "duplicate-samples", 1,
                f"In the first pass over the data {x['pass_seen']:.0f} samples were used, and only {x['pass_distinct']:.0f} of them are different.",
                {"seen": x["pass_seen"], "distinct": x["pass_distinct"], "share": share, "threshold": 0.1}, confidence=0.95,
            )  # fmt: skip
        return
    if x.get("levels", 9) <= 2:
        return  # states of a small world, which an agent comes by again and again
    # No end of a pass is known. Drawing at random repeats samples too, but with counts that scatter as those of chance do.
    early = x["before_repeat"] < 0.6 * x["distinct"] and x["new_after"] > 0.3 and x["after"] >= 32
    regular = x["dispersion"] < 0.5 or x["dispersion"] > 2
    if early and regular and x["seen"] > 3 * x["distinct"] and x["distinct"] >= 8 and not x["whole"]:
        yield find(
            "duplicate-samples", 1,
            f"Inputs repeat within a pass over the data: the first repetition came after {x['before_repeat']:.0f} "
            f"different samples of {x['distinct']:.0f}; the most "
            f"frequent one was used {x['most']:.0f} times in {x['seen']:.0f}.",
            {"distinct": x["distinct"], "seen": x["seen"], "most": x["most"], "before_repeat": x["before_repeat"]}, confidence=0.8,
        )  # fmt: skip


def train_validation_leakage(h: History) -> Iterator[Finding]:
    streams = [v for v in h.all("overlap") if v.values["width"] >= (8 if v.values["whole_numbers"] else 4)]
    population = h.latest("population")
    if (
        population is not None
        and population.values["whole"]
        and population.values["before_repeat"] < 0.3 * population.values["distinct"]
    ):
        return  # inputs of few possible values repeat by nature
    for v in streams:
        x = v.values
        steps = max(1.0, float(h.step))
        if x["calls"] > 0.5 * steps and steps > 20:
            continue  # part of each training step
        leaks = x["partly"] > 0.3 and x["share"] > 0.03
        if x["whole"] > 0.9 and x["covers"] < 0.8:  # a part of the training set, and nothing else, is called validation
            leaks = not any(  # batches of the same samples look clean where training ones are augmented
                other is not v and other.values["clean"] > 0 and other.values["samples"] != x["samples"]
                for other in streams
            )
        if leaks and x["share"] * x["samples"] >= 5:
            yield find(
                "train-validation-leakage", v.step,
                f"Of {x['samples']:.0f} samples evaluated from {v.words['place']} {x['share']:.0%} were trained on.",
                {"share": x["share"], "samples": x["samples"]}, confidence=0.95, place=v.words["place"],
            )  # fmt: skip
            return


def trained_on_all(h: History) -> Iterator[Finding]:
    for name in h.names("evaluation"):
        seen = h.all("evaluation", name)
        if len(seen) >= 3 and all(v.values.get("within", 0) >= v.values["calls"] > 0 for v in seen[:3]):
            yield find(
                "train-validation-leakage", seen[0].step,
                f"The loss is taken of all samples of the batch, and what is evaluated from {seen[0].words['place']} is a part of the same batch.",
                {"evaluations": float(len(seen))}, confidence=0.85, place=seen[0].words["place"],
            )  # fmt: skip
            return


def empty_sequences(h: History) -> Iterator[Finding]:
    seen = h.all("tokens")
    if all(v.values["empty"] == v.values["samples"] for v in seen):
        return  # not some of them, but all: `inputs_degenerate`
    for v in seen:
        x = v.values
        if x["empty"] > 0 and x["known"]:
            yield find(
                "empty-sequences", max(1, v.step), f"{x['empty']:.0f} of {x['samples']:.0f} inputs of a batch hold nothing but padding.",
                {"empty": x["empty"], "samples": x["samples"]}, confidence=0.95, place=v.words["place"],
            )  # fmt: skip
            return


def padding_dominates(h: History) -> Iterator[Finding]:
    seen = [v.values for v in h.all("tokens") if v.values["known"] and v.values["empty"] < v.values["samples"]]
    if len(seen) >= 3 and sum(x["padding"] for x in seen) / len(seen) > 0.6:
        share = sum(x["padding"] for x in seen) / len(seen)
        yield find("padding-dominates", 1, f"{share:.0%} of the token positions of {len(seen)} batches are padding.",
                   {"share": share, "threshold": 0.6, "length": seen[-1]["length"]}, confidence=0.9)  # fmt: skip


def workers_repeat_randomness(h: History) -> Iterator[Finding]:
    for v in h.all("workers"):
        if v.values["random"] and v.values["alike"]:
            yield find(
                "workers-repeat-randomness", max(1, v.step),
                f"The samples of {v.name} are random, and two of the {v.values['workers']:.0f} workers made the very same one: they start from the same seed.",
                {"workers": v.values["workers"]}, confidence=0.95,
            )  # fmt: skip
            return


def labels_unrelated_to_inputs(h: History) -> Iterator[Finding]:
    v = h.latest("yardstick")
    if v is None or h.rewarded() or v.values["rows"] < 120 or (h.pretrained() and h.step < SLOW):
        return
    x = v.values
    margin = max(0.03, 2.5 * x["error"])
    if x["score"] > x["chance"] + margin or x.get("told", 0.0) > 0.05:
        return  # of rare classes much can be known though none is ever the likeliest
    held = x.get("held_out", math.nan)
    guessing = held <= x["chance"] + max(0.1, margin) if not math.isnan(held) else x["learned"] < 0.15
    if guessing:
        yield find(
            "labels-unrelated-to-inputs", 1,
            f"Neither the model nor a classical one (cross-validated on {x['rows']:.0f} samples: {x['score']:.2f}, guessing gives {x['chance']:.2f}) finds "
            "anything in the inputs that tells the targets.",
            {"classical": x["score"], "guessing": x["chance"], "rows": x["rows"]}, confidence=0.8,
        )  # fmt: skip


def tokens_say_nothing(h: History) -> Iterator[Finding]:
    v = h.latest("bigrams")
    if v is None or h.rewarded():
        return
    alone, known = v.values["alone"], v.values["known"]
    learned = v.values["learned"]
    if alone > 0.3 and known > 0.985 * alone and learned > 0.97 * alone:
        yield find(
            "labels-unrelated-to-inputs", 1,
            f"The token at a target's place tells nothing of it (counted on {v.values['tokens']:.0f} tokens: {known:.3f} nats where frequencies alone give "
            f"{alone:.3f}), and the model, at {learned:.3f}, has found nothing more in the whole sequence.",
            {"of_frequencies": alone, "of_tokens": known, "loss": learned}, confidence=0.8,
        )  # fmt: skip
