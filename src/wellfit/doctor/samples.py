"""What the samples themselves tell, over many batches: repeats, overlap with held-out data, labels and their order.

Kept are fingerprints (whole numbers), counts, and a few thousand small rows for the question whether labels can be
learned from the inputs at all; never a batch. It stops by itself once it has seen enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wellfit.doctor.measure import Fingerprints

ENOUGH = 20_000  # samples that are fingerprinted
BATCHES = 3000
COMBINED, LEVELLED = (
    16,
    64,
)  # numbers of a sample, and batches and values of each, that are looked at for how many samples can be
ROWS, COLUMNS = 2500, 512  # of the table that the classical yardstick reads
CLASSES = 200
TOKENS, PRIOR = 20_000, 20.0  # token pairs that are counted; weight of the frequencies beside the counts


class Samples:
    """The samples of one program."""

    def __init__(self) -> None:
        self.open = True
        self.of: Any = None  # the module whose batches are counted, where a program has several
        self.fingerprints = Fingerprints()
        self.counts: Counter[int] = Counter()
        self.seen = self.batches = self.batch_size = 0
        self.before_repeat: int | None = None
        self.new_after = self.after = 0  # new samples among those that follow the first repeat
        self.passed: tuple[int, int] | None = None  # samples and different ones among them, of the first pass
        self.pass_batches = 0
        self.replacement = False  # the loader draws with replacement
        self.inner_repeats = 0  # of samples within one batch
        self.width = 0
        self.values: list[set[float]] = []
        self.whole = self.flat = False
        self.held_out: dict[str, list[set[int]]] = {}  # place -> the samples of each call
        self.held_out_seen: Counter[str] = Counter()
        self.held_out_calls: Counter[str] = Counter()
        self.classes: Counter[int] = Counter()
        self.of_classes = 0
        self.purity: list[float] = []
        self.step_labels: list[Tensor] = []
        self.within: list[float] = []
        self.means: list[float] = []
        self.follows: list[float] = []
        self.weighted = False
        self.function = ""
        self.rows: list[Tensor] = []
        self.row = 0  # numbers in the first sample that is kept
        self.targets: list[Tensor] = []
        self.gathered = 0
        self.keys: list[int] = []
        self.tags: Tensor | None = None  # how often each of several labels at once is given
        self.tagged = 0
        self.dense: set[int] = set()
        self.dense_seen = 0
        self.pairs: Counter[tuple[int, int]] = Counter()  # (token, its target), of two halves of the batches
        self.pairs_held: Counter[tuple[int, int]] = Counter()
        self.ignored = -100  # the target that the loss leaves out
        self.smoothed = False  # by label smoothing

    def step(self) -> None:
        """Gradients are taken: the labels of all losses behind them belong together."""
        if self.step_labels:
            values, times = torch.unique(torch.cat(self.step_labels), return_counts=True)
            self.classes.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
            self.purity.append(float(times.max()) / float(times.sum()))
            self.step_labels = []

    def batch(self, inputs: list[Tensor], target: Tensor | None) -> None:
        """A batch that is trained on, and its targets where they are known."""
        if not inputs or not inputs[0].ndim or not len(inputs[0]) or inputs[0].device.type == "meta":
            return
        first = inputs[0]
        self.width = first[0].numel()
        if self.batches < LEVELLED:
            self._levels(first)
        self.whole = not first.is_floating_point()
        marks = self.fingerprints.of(first)
        self.batches += 1
        self.batch_size = len(marks)
        if len(set(marks)) < len(marks):
            self.inner_repeats += len(marks) - len(set(marks))
        for mark in marks:
            if self.before_repeat is not None and self.after < max(64, self.before_repeat):
                self.after += 1
                self.new_after += mark not in self.counts
            elif mark in self.counts and self.before_repeat is None:
                self.before_repeat = len(self.counts)
            self.counts[mark] += 1
        self.seen += len(marks)
        if target is not None and not _places(target):
            self._pair(first, target)
            self._tokens(first, target)
        again = (
            self.passed is not None and self.seen >= self.passed[0] + min(self.passed[0], 2000) and self.batches >= 64
        )
        if (
            again
            or self.seen > ENOUGH
            or self.batches > BATCHES
            or (self.batches > 96 and self.seen > 6 * len(self.counts))
        ):
            self.open = False

    def _levels(self, first: Tensor) -> None:
        """The different values of the first few numbers of a sample."""
        columns = first.detach().reshape(len(first), -1)[:, :COMBINED].cpu().t().tolist()
        if len(self.values) != len(columns):
            self.values = [set() for _ in columns]
        for values, column in zip(self.values, columns, strict=True):
            if len(values) < LEVELLED:
                values.update(column)

    def end_pass(self) -> None:
        """A pass over the training data ends."""
        if self.passed is None and self.seen >= 32 and self.open and not self.replacement:
            self.passed, self.pass_batches = (self.seen, len(self.counts)), self.batches

    def evaluated(self, place: str, first: Tensor) -> None:
        """A batch that is evaluated on."""
        self.held_out_calls[place] += 1
        if (
            not first.ndim
            or self.held_out_seen[place] > ENOUGH // 2
            or len(self.held_out) > 8
            or first.device.type == "meta"
        ):
            return
        marks = self.fingerprints.of(first)
        self.held_out.setdefault(place, []).append(set(marks))
        self.held_out_seen[place] += len(marks)

    def labels(self, function: str, given: Tensor, target: Tensor, weighted: bool, samples: int = 0) -> None:
        """The targets of a batch. `samples` is how many there are in it, where known: of more targets each is of a token."""
        count = len(target) if target.ndim else 0
        dense = target.ndim > 2 or 0 < 2 * samples <= target.numel()
        if count >= 2 and dense and function == "cross_entropy" and not target.is_floating_point():
            self._dense(target.detach().reshape(-1))
            return
        if count < 2 or target.ndim > 2:
            return
        flat = target.detach().reshape(count, -1)
        self.weighted = self.weighted or weighted
        self.function = function
        binary = function.startswith("binary")
        if flat.shape[1] > 1:
            if binary and flat.shape[1] <= CLASSES:
                self._tags(flat, count)
            return
        flat = flat[:, 0]
        of_classes = binary or function in ("cross_entropy", "nll_loss")
        if of_classes and (not flat.is_floating_point() or bool((flat == flat.round()).all())):
            self.of_classes = given.shape[1] if not binary and given.ndim > 1 else 2
            if self.of_classes <= CLASSES:
                self.step_labels.append(flat.long())
        elif flat.is_floating_point():
            self.means.append(float(flat.double().mean()))
            self.within.append(float(flat.double().var(unbiased=False)))
            self.follows.append(_follows(flat.double()) if count >= 8 else 0.0)

    def _dense(self, flat: Tensor) -> None:
        """A label for each pixel or token: only which ones there are, as a rare class is nothing unusual then."""
        self.dense.update(flat[:: flat.numel() // 4096 + 1].tolist())
        self.dense_seen += len(flat)

    def _tags(self, flat: Tensor, count: int) -> None:
        positive = (flat > 0.5).sum(dim=0).double().cpu()
        self.tags = positive if self.tags is None or len(self.tags) != len(positive) else self.tags + positive
        self.tagged += count

    def _pair(self, inputs: Tensor, target: Tensor) -> None:
        """Rows of inputs with their target, for the classical yardstick."""
        count = len(inputs)
        if (
            self.gathered >= ROWS
            or not target.ndim
            or len(target) != count
            or not first_use(inputs)
            or target.numel() % count
        ):
            return
        one = target.detach().reshape(count, -1)
        several = one.shape[1] > 1 and not self.tagged  # of several tags, the first stands for all
        if several and not one.is_floating_point():
            return
        made = table(one, one.shape[1]) if several else one[:, 0].clone().to("cpu")
        if self.targets and self.targets[0].shape[1:] != made.shape[1:]:
            return
        self.flat = inputs.ndim == 2 and inputs.shape[1] <= COLUMNS
        self.row = self.row or inputs[0].numel()
        self.rows.append(table(inputs, self.row))
        self.targets.append(made)
        self.keys += self.fingerprints.of(inputs)
        self.gathered += count

    def _tokens(self, inputs: Tensor, target: Tensor) -> None:
        """Tokens and the targets at their places, for the question whether a token says anything of its target."""
        if (
            inputs.is_floating_point()
            or target.is_floating_point()
            or inputs.ndim != 2
            or target.numel() != inputs.numel()
        ):
            return
        if bool(((target < 0) & (target != self.ignored)).any()) or self.smoothed:
            return  # masked places; or a loss that no counting is measured by
        held = self.batches % 2 == 0
        pairs = self.pairs_held if held else self.pairs
        if pairs.total() < TOKENS:
            both = zip(inputs.reshape(-1).tolist(), target.reshape(-1).tolist(), strict=True)
            pairs.update(pair for pair in both if pair[1] != self.ignored)

    def told_by_tokens(self) -> tuple[float, float] | None:
        """(nats a target costs by its frequency, nats it costs where the token at its place is known), on tokens held out.

        Counts with one added, as in a bigram model. None where there are too few.
        """
        if self.pairs.total() < 2000 or self.pairs_held.total() < 1000:
            return None
        tokens: Counter[int] = Counter()
        targets: Counter[int] = Counter()
        for (token, target), n in self.pairs.items():
            tokens[token] += n
            targets[target] += n
        kinds, total = len(targets) + 1, self.pairs.total()
        alone = known = 0.0
        for (token, target), n in self.pairs_held.items():
            frequency = (targets[target] + 1) / (total + kinds)
            alone -= n * math.log(frequency)
            known -= n * math.log((self.pairs[token, target] + PRIOR * frequency) / (tokens[token] + PRIOR))
        return alone / self.pairs_held.total(), known / self.pairs_held.total()

    def tell(self, emit: Callable[..., None], final: bool) -> None:
        """What is known by now."""
        if self.seen:
            times = torch.tensor(list(self.counts.values()), dtype=torch.float64)
            emit(None, "population", "training samples", {
                "seen": float(self.seen), "distinct": float(len(self.counts)), "width": float(self.width),
                "before_repeat": float(self.before_repeat if self.before_repeat is not None else len(self.counts)),
                "most": float(times.max()), "dispersion": float(times.var(unbiased=False) / times.mean()),
                "inner_repeats": float(self.inner_repeats), "batches": float(self.batches), "whole": float(self.whole),
                "levels": float(max(map(len, self.values), default=0)),
                "final": float(final), "after": float(self.after), "new_after": self.new_after / max(1, self.after),
                "replacement": float(self.replacement), "possible": float(min(10**12, math.prod(len(v) for v in self.values))),
                "pass_batches": float(self.pass_batches),
                "pass_seen": float(self.passed[0] if self.passed else 0), "pass_distinct": float(self.passed[1] if self.passed else 0),
            })  # fmt: skip
        if self.classes and self.of_classes <= CLASSES:
            total = self.classes.total()
            shares = {f"class {c}": n / total for c, n in sorted(self.classes.items())[:CLASSES]}
            emit(None, "labels", self.function, {
                "samples": float(total), "classes": float(self.of_classes), "present": float(len(self.classes)),
                "rarest": min(shares.values()), "largest": max(shares.values()), "weighted": float(self.weighted),
                "purity": sum(self.purity) / len(self.purity), "batches": float(len(self.purity)),
                "batch": total / len(self.purity), "expected": sum(s * s for s in shares.values()), "final": float(final),
                "alternates": self._alternates(), **shares,
            })  # fmt: skip
        elif self.tags is not None and self.tagged:
            rates = (self.tags / self.tagged).tolist()
            emit(None, "tags", self.function, {
                "samples": float(self.tagged), "tags": float(len(rates)), "rarest": min(rates), "largest": max(rates),
                "weighted": float(self.weighted), "final": float(final), "constant": float(sum(s in (0.0, 1.0) for s in rates)),
                "rarest_tag": float(rates.index(min(rates))),
            })  # fmt: skip
        if len(self.within) > 3:
            means = torch.tensor(self.means, dtype=torch.float64)
            within, between = sum(self.within) / len(self.within), float(means.var(unbiased=False))
            emit(None, "targets", self.function, {"within": within, "between": between, "batches": float(len(means)),
                 "follows": sum(self.follows) / len(self.follows), "different_means": float(len(set(self.means))),
                 "variance": within + between, "final": float(final)})  # fmt: skip
        if self.dense_seen:
            emit(
                None,
                "dense-labels",
                "targets",
                {"present": float(len(self.dense)), "labels": float(self.dense_seen), "final": float(final)},
            )
        if final:
            self._overlap(emit)

    def _alternates(self) -> float:
        """The share of batches that hold one class only."""
        return sum(p == 1.0 for p in self.purity) / len(self.purity)

    def _overlap(self, emit: Callable[..., None]) -> None:
        trained = set(self.counts)
        for place, calls in self.held_out.items():
            calls = [marks for marks in calls if marks]
            if sum(map(len, calls)) < 8 or not trained:
                continue
            shares = [len(marks & trained) / len(marks) for marks in calls]
            whole = [marks for marks, share in zip(calls, shares, strict=True) if share > 0.98]
            known = set().union(*whole) if whole else set()
            emit(None, "overlap", place, {
                "calls": float(self.held_out_calls[place]), "clean": sum(s < 0.02 for s in shares) / len(calls), "whole": len(whole) / len(calls),
                "partly": sum(0.02 <= s <= 0.98 for s in shares) / len(calls), "share": sum(shares) / len(shares),
                "covers": len(known & trained) / len(trained), "samples": float(len(set().union(*calls))), "width": float(self.width),
                "whole_numbers": float(self.whole),
            }, {"place": place})  # fmt: skip

    def gathered_table(self) -> tuple[Any, Any, int] | None:
        """(inputs as rows, targets [rows] or [rows, columns], classes; 0 for numbers) of distinct training samples, or None where too few are known."""
        if self.gathered < 60:
            return None
        seen: set[int] = set()
        keep = []
        for i, mark in enumerate(self.keys):
            if mark not in seen:
                seen.add(mark)
                keep.append(i)
        if len(keep) < 60:
            return None
        x, y = torch.cat(self.rows)[keep].numpy(), torch.cat(self.targets)[keep].numpy()
        return x, y, self.of_classes or (2 if self.tagged else 0)


def _places(target: Tensor) -> bool:
    """Whether the targets of a batch are its places, each once: which of the others belongs to a sample, no class of it."""
    count = len(target) if target.ndim == 1 else 0
    if (
        count < 4
        or target.is_floating_point()
        or target.is_complex()
        or int(target.max()) >= count
        or int(target.min()) < 0
    ):
        return False
    return len(torch.unique(target)) == count


def _follows(values: Tensor) -> float:
    """The correlation of each number with the one before it."""
    centered = values - values.mean()
    total = float(centered.square().sum())
    return float((centered[1:] * centered[:-1]).sum()) / total if total > 0 else 0.0


def first_use(inputs: Tensor) -> bool:
    """Whether a table can be made of these inputs."""
    return inputs.ndim >= 2 and not inputs.is_complex()


def table(inputs: Tensor, width: int) -> Tensor:
    """Each sample as a row of at most 512 numbers: values as they are, or the counts of token ids.

    Samples of more or fewer than `width` numbers, padded sequences of another batch, are cut or filled up with zeros.
    """
    flat = inputs.detach().reshape(len(inputs), -1).cpu()
    if flat.is_floating_point():
        if flat.shape[1] != width:
            flat = torch.nn.functional.pad(flat, (0, max(0, width - flat.shape[1])))[:, :width]
        step = (width - 1) // COLUMNS + 1
        return flat[:, ::step].to(torch.float32)
    counts = torch.zeros(len(flat), COLUMNS)
    counts.scatter_add_(1, flat.long().remainder(COLUMNS).clamp(min=0), torch.ones_like(flat, dtype=torch.float32))
    return counts
