"""The pre-flight: what can be known before any training, found out on copies of the model.

Each check passes, fails with its evidence, or says why it does not apply. What the doctor's rules can see is left to
them: a few steps are rehearsed under the probe, the whole data goes through the sample counters, and the findings are
sorted into checks. Three experiments come on top: can the model learn one batch by heart, does it need its inputs for
that, and do samples (and later positions) stay out of each other's outputs?

    >>> found = preflight(Subject(model, batch, loss))
    >>> found.failed
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.data.batches import untouched_randomness
from wellfit.doctor import autopsy, measure, words
from wellfit.doctor.copies import copied
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import Finding, find
from wellfit.doctor.graph import Graph, saved
from wellfit.doctor.probe import Probe
from wellfit.doctor.samples import Samples
from wellfit.doctor.trace import RATE, Loss, Trace, trace
from wellfit.doctor.words import said
from wellfit.errors import ModelError
from wellfit.events import Stepped, Vitals

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
REHEARSED = 5  # steps under the probe
READ = 50_000  # samples of a data set that are read
FEW = 32  # samples that are to be learned by heart
TRIED = 300  # steps for that, at each of two learning rates
RATES = (3e-3, 3e-4)
MOST = 0.5  # of the parameters: where fewer learn, beside frozen ones, they may be too few for that
PATIENCE = 30.0  # seconds for learning by heart

# What the rules can find, by the check that it belongs to. In the order in which they are told.
SORTED: dict[str, tuple[str, ...]] = {
    "inputs": ("inputs-not-finite", "inputs-degenerate", "inputs-not-normalized", "empty-sequences", "padding-dominates"),
    "targets": ("labels-out-of-range", "labels-single-class", "class-imbalance", "targets-all-ignored"),
    "duplicates": ("duplicate-samples",),
    "leakage": ("train-validation-leakage",),
    "loss and head": (
        "loss-broadcasts-shapes", "head-loss-mismatch", "softmax-before-cross-entropy", "sigmoid-before-bce-with-logits",
        "loss-increasing", "dropout-harmful",
    ),
    "initial loss": ("initial-loss-off", "loss-not-finite", "activation-not-finite", "gradient-not-finite", "out-of-memory"),
    "gradient reach": ("parameters-without-gradient", "vanishing-gradients", "exploding-gradients"),
    "units": (
        "poor-initialization", "dead-units", "saturated-units", "missing-nonlinearity", "batch-statistics-unreliable",
    ),
    "optimizer": ("parameters-not-in-optimizer", "optimizer-holds-stale-parameters", "weights-not-changing"),
    "one batch": ("loss-not-decreasing",),
    "samples apart": ("samples-mixed-in-batch",),
    "no look ahead": ("future-leak",),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What is examined. `loss(model, batch)` is the mean over a batch; `train` and `valid` yield batches as `batch` is."""

    model: nn.Module
    batch: Any
    loss: Loss
    optimizer: Any = None
    train: Callable[[], Iterable[Any]] | None = None
    valid: Callable[[], Iterable[Any]] | None = None
    weighted: bool = False  # the loss weighs rare classes more, in a way that its graph does not show


@dataclass(frozen=True)
class Check:
    """One thing that was examined."""

    name: str
    outcome: str  # "passed", "failed" or "not applicable"
    says: str
    findings: tuple[Finding, ...] = ()
    error: Exception | None = None  # that broke it off

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        found = {"findings": [f.as_dict() for f in self.findings]} if self.findings else {}
        return {"check": self.name, "outcome": self.outcome, "says": self.says} | found


@dataclass(frozen=True)
class Checkup:
    """All checks, and the shape of every layer where the model could be run."""

    checks: tuple[Check, ...]
    trace: Trace | None = None

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == FAILED]

    @property
    def findings(self) -> list[Finding]:
        """What was found, in the order of the checks."""
        return [finding for check in self.checks for finding in check.findings]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        shapes = {"layers": self.trace.as_dict()["layers"]} if self.trace is not None else {}
        return {"checks": [check.as_dict() for check in self.checks]} | shapes

    def __str__(self) -> str:
        return words.checked(self.checks)


def preflight(subject: Subject) -> Checkup:
    """All checks. Raises ModelError where the model cannot be copied; whatever else goes wrong is a failed check."""
    copied(subject.model, subject.optimizer)
    with untouched_randomness():
        shapes, told = _shapes(subject)
        rehearsal = _Rehearsal(subject, shapes.error)
        checks = [_data(subject, rehearsal, name) for name in ("inputs", "targets", "duplicates", "leakage")]
        if told is None:
            why = "the model cannot be run on this batch"
            rest = ("loss and head", "initial loss", "gradient reach", "units", "optimizer", "one batch", "inputs matter",
                    "samples apart", "no look ahead")  # fmt: skip
            return Checkup((*checks, shapes, *(rehearsal.check(name, "", why) for name in rest)))
        learned, matter = _by_heart(subject)
        checks += [
            shapes,
            rehearsal.check(
                "loss and head", f"Nothing speaks against `{rehearsal.function or 'this loss'}` on this output."
            ),
            _initial(rehearsal),
            _reach(subject, rehearsal),
            rehearsal.check("units", "Weights start at a sound scale, and no layer is mostly dead or saturated."),
            _held(subject, rehearsal),
            learned,
            matter,
            _apart(rehearsal),
            _ahead(rehearsal),
        ]
    return Checkup(tuple(checks), told)


# ---- what the rules see


class _Rehearsal:
    """A few steps on a copy under the probe, and the whole data through the counters; the findings, by check."""

    def __init__(self, subject: Subject, broken: Exception | None):
        self.doctor = Doctor()
        self.function = ""  # of the loss, where the graph shows it
        self.classes = 0
        self.first = math.nan
        self.error = ""
        self.silent: set[str] = set()  # parameters that no gradient reached in any step
        self.samples = self.held = 0
        self.compared = True  # the samples with each other
        self.whole = True  # all of the data was read
        self.weighted = subject.weighted
        if broken is None:
            self._steps(subject)
        else:
            self._failed(broken)
        self._data(subject)
        self.doctor.examine("")
        self.told = {about: self.doctor.history("").all(about) for about in ("independence", "ahead")}
        self.found = {finding.id: finding for top in self.doctor.findings() for finding in (top, *_below(top))}

    def check(self, name: str, passed: str, inapplicable: str = "") -> Check:
        """The check of this name: failed where the rules found something of its kind."""
        mine = tuple(self.found[i] for i in SORTED.get(name, ()) if i in self.found)
        if mine:
            return Check(name, FAILED, " ".join(finding.says for finding in mine), mine)
        return Check(name, NOT_APPLICABLE, inapplicable) if inapplicable else Check(name, PASSED, passed)

    def _steps(self, subject: Subject) -> None:
        model, optimizer = copied(subject.model, subject.optimizer)
        own = optimizer if optimizer is not None else _adam(model, RATE)
        model.train()
        probe = Probe(model, own)
        batches = [subject.batch]
        if subject.train is not None:
            batches += [batch for batch in itertools.islice(subject.train(), REHEARSED) if _finite(batch)]
        reached: set[int] = set()
        trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        for step in range(1, REHEARSED + 1):
            probe.training.next_look = step
            batch = batches[(step - 1) % len(batches)]
            own.zero_grad(set_to_none=True)
            model.zero_grad(set_to_none=True)
            try:
                loss = subject.loss(model, batch)
                if step == 1:
                    self._read(loss)
                probe.loss(loss, batch)
                loss.backward()  # type: ignore[no-untyped-call]
            except Exception as error:
                self._failed(error)
                break
            if step == 1:
                self.first = float(loss.detach())
            if not math.isfinite(float(loss.detach())):
                self._broken(model, loss, batch)
                break
            reached |= {id(p) for p in model.parameters() if p.grad is not None and _any(p.grad)}
            probe.before()
            own.step()
            probe.after()
            for vitals in probe.vitals:
                self.doctor.see(vitals)
            probe.vitals.clear()
            self.doctor.see(Stepped(step, float(loss.detach()), math.nan, own.param_groups[0]["lr"]))
        self.silent = {name for key, name in trained.items() if key not in reached}

    def _read(self, loss: Tensor) -> None:
        """Which loss it is, and how many classes its head has."""
        for one in Graph(loss, {}).losses[:1]:
            given = one.told("self")
            self.function = "cross_entropy" if one.function == "nll_loss" else one.function
            self.weighted = self.weighted or isinstance(saved(one.node, "weight"), Tensor)
            if one.function == "nll_loss" and isinstance(given, Tensor) and given.ndim > 1:
                self.classes = given.shape[1]

    def _failed(self, error: Exception) -> None:
        self.error = said(error)
        told = autopsy.crash(error)
        if told is not None:
            self.doctor.see(Vitals(0, "crash", told.pop("what"), {}, told))

    def _broken(self, model: nn.Module, loss: Tensor, batch: Any) -> None:
        """A loss that is not finite."""
        inputs, target = parted(batch)
        names = {id(p): name for name, p in model.named_parameters()}
        told = autopsy.not_finite(
            inputs,
            target,
            list(model.parameters()),
            model,
            Graph(loss, names),
            lambda p: names.get(id(p), "a parameter"),
        )
        self.doctor.see(Vitals(0, "not-finite", told["what"], {"step": 0.0, "loss": float(loss.detach())},
                               {"where": told.get("where", ""), "why": told.get("why", ""), "batch": "the first batch", "place": ""}))  # fmt: skip

    def _data(self, subject: Subject) -> None:
        samples = Samples()
        function = self.function or "mse_loss"

        def emit(_: Any, about: str, name: str, values: dict[str, float], words: dict[str, str] | None = None) -> None:
            self.doctor.see(Vitals(0, about, name, values, words or {}))

        for batch in subject.train() if subject.train is not None else [subject.batch]:
            inputs, target = parted(batch)
            if not inputs or not inputs[0].ndim:
                break
            self._finite(emit, [*inputs, *([target] if target is not None else [])], self.samples)
            self.compared = not isinstance(batch, tuple | list) or isinstance(batch[0], Tensor)
            if self.compared:
                samples.batch(inputs[:1], None)
            if target is not None:
                self._labels(emit, target, self.samples)
                given = target.new_empty((len(target), self.classes or 2)) if target.ndim else target
                samples.labels(function, given, target, self.weighted)
            samples.step()
            self.samples += _rows(batch, inputs)
            if self.samples >= READ:
                self.whole = False
                break
        if subject.train is not None:
            samples.passed = (samples.seen, len(samples.counts))
        for batch in subject.valid() if subject.valid is not None else ():
            inputs, _ = parted(batch)
            if not inputs or self.held >= READ:
                break
            if self.compared:
                samples.evaluated("the validation data", inputs[0])
            self.held += _rows(batch, inputs)
        samples.tell(emit, final=True)

    def _finite(self, emit: Callable[..., None], parts: Sequence[Tensor], before: int) -> None:
        """NaN or infinity anywhere, with the number of the first sample that has it."""
        if self.doctor.history("").names("not-finite"):
            return
        for part in parts:
            if not part.is_floating_point() or not part.ndim or bool(torch.isfinite(part).all()):
                continue
            bad = ~torch.isfinite(part).reshape(len(part), -1).all(dim=1)
            where = f"sample {before + int(bad.nonzero()[0])}"
            emit(None, "not-finite", "inputs", {"step": 0.0, "loss": math.nan},
                 {"where": where, "why": "it holds NaN or infinity", "batch": "", "place": ""})  # fmt: skip
            return

    def _labels(self, emit: Callable[..., None], target: Tensor, before: int) -> None:
        if not self.classes or target.is_floating_point() or self.doctor.history("").names("crash"):
            return
        wrong = ((target < 0) & (target != -100)) | (target >= self.classes)
        if bool(wrong.any()):
            words = {"least": str(int(target.min())), "most": str(int(target.max())), "classes": str(self.classes), "place": "",
                     "error": f"first at sample {before + int(wrong.reshape(len(target), -1).any(dim=1).nonzero()[0])}"}  # fmt: skip
            emit(None, "crash", "labels", {}, words)


def _any(gradient: Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def _below(finding: Finding) -> list[Finding]:
    return [inner for symptom in finding.symptoms for inner in (symptom, *_below(symptom))]


# ---- the checks one by one


def _data(subject: Subject, rehearsal: _Rehearsal, name: str) -> Check:
    of = (
        f"{rehearsal.samples:,} samples"
        if subject.train is not None
        else f"the {rehearsal.samples} samples of this batch"
    )
    of += "" if rehearsal.whole else " (the rest was not read)"
    uneven = "" if rehearsal.compared else "the samples are no rows of one tensor, and only those are compared"
    if name == "duplicates":
        missing = "" if subject.train is not None else "only one batch was given, and no data set"
        missing = missing or uneven
        return rehearsal.check(name, f"{of.capitalize()}: next to none come twice.", missing)
    if name == "leakage":
        missing = (
            ""
            if subject.train is not None and subject.valid is not None
            else "there is no validation set to compare with"
        )
        missing = missing or uneven
        return rehearsal.check(name, f"None of {rehearsal.held:,} validation samples is a training sample.", missing)
    if name == "targets":
        known = (
            rehearsal.classes
            or rehearsal.doctor.history("").names("labels")
            or rehearsal.doctor.history("").names("tags")
        )
        counted = "Each class has a fair part of the labels, and a unit in the head." if known else "They are finite."
        return rehearsal.check(name, f"{of.capitalize()}. {counted}")
    return rehearsal.check(name, f"{of.capitalize()}: finite, not constant, and at a scale that suits a network.")


def _shapes(subject: Subject) -> tuple[Check, Trace | None]:
    try:
        told = trace(subject.model, subject.batch, subject.loss, subject.optimizer)
    except Exception as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        says = str(error) if isinstance(error, ModelError) else f"A step on this batch breaks off. {said(error)}"
        return Check("shapes", FAILED, says, error=cause), None
    ends = [layer.outputs for layer in told.layers if layer.outputs and layer.kind != "parameter"]
    given = " and ".join(_size(tuple(t.shape)) for t in measure.tensors(subject.batch)[:3])
    last = f" to {_size(ends[-1])}" if ends else ""
    count = f"{len(ends)} layers" if len(ends) != 1 else "one layer"
    return Check("shapes", PASSED, f"A batch of {given} runs through {count}{last}."), told


def _initial(rehearsal: _Rehearsal) -> Check:
    known = [v.values for v in rehearsal.doctor.history("").all("loss") if v.step <= 1]
    classes = rehearsal.classes
    if classes > 1:
        return rehearsal.check(
            "initial loss",
            f"{rehearsal.first:.4g}; knowing nothing of {classes} classes gives {math.log(classes):.4g}.",
        )
    spread = next((x["target_std"] for x in known if "target_std" in x), math.nan)
    if rehearsal.function == "mse_loss" and math.isfinite(spread):
        return rehearsal.check("initial loss", f"{rehearsal.first:.4g}; guessing the mean gives {spread**2:.4g}.")
    return rehearsal.check(
        "initial loss", "", f"the first loss is {rehearsal.first:.4g}; what it should be is not known for this loss"
    )


def _reach(subject: Subject, rehearsal: _Rehearsal) -> Check:
    check = rehearsal.check("gradient reach", "")
    silent = sorted(rehearsal.silent)
    if check.outcome == FAILED or rehearsal.error:
        return (
            check if not rehearsal.error else Check("gradient reach", FAILED, f"A step breaks off. {rehearsal.error}")
        )
    if silent:
        names = ", ".join(silent[:4]) + (f" and {len(silent) - 4} more" if len(silent) > 4 else "")
        says = f"In {REHEARSED} steps no gradient reached {names}."
        found = find("parameters-without-gradient", 0, says, {"parameters": float(len(silent)), "names": names})
        return Check("gradient reach", FAILED, says, (found,))
    frozen = sum(not p.requires_grad for p in subject.model.parameters())
    told = f" ({frozen} are frozen)" if frozen else ""
    count = sum(p.requires_grad for p in subject.model.parameters())
    return Check("gradient reach", PASSED, f"A gradient reaches each of the {count} trainable parameters{told}.")


def _held(subject: Subject, rehearsal: _Rehearsal) -> Check:
    if subject.optimizer is None:
        return Check("optimizer", NOT_APPLICABLE, "no optimizer was given")
    held = [id(p) for group in subject.optimizer.param_groups for p in group["params"]]
    own = {id(p): name for name, p in subject.model.named_parameters()}
    left = [name for name, p in subject.model.named_parameters() if p.requires_grad and id(p) not in set(held)]
    foreign, twice = sum(key not in own for key in held), len(held) - len(set(held))
    findings = []
    if left:
        names = ", ".join(left[:4]) + (f" and {len(left) - 4} more" if len(left) > 4 else "")
        findings.append(
            find(
                "parameters-not-in-optimizer",
                0,
                f"The optimizer does not hold {names}.",
                {"parameters": float(len(left))},
            )
        )
    if foreign:
        says = f"The optimizer holds {foreign} tensors that are no parameters of this model."
        findings.append(find("optimizer-holds-stale-parameters", 0, says, {"parameters": float(foreign)}))
    if findings:
        return Check("optimizer", FAILED, " ".join(f.says for f in findings), tuple(findings))
    if twice:
        return Check("optimizer", FAILED, f"The optimizer holds {twice} parameters more than once.")
    return rehearsal.check("optimizer", f"Holds all {len(held)} parameters of the model once, and moves them.")


def _by_heart(subject: Subject) -> tuple[Check, Check]:
    """Whether one batch can be learned by heart, and whether that needs the inputs."""
    few = _few(subject.batch)
    until = time.perf_counter() + PATIENCE
    try:
        best = _best(subject, few, until)
    except Exception as error:
        why = f"a few samples of the batch cannot be trained on alone: {said(error)}"
        return Check("one batch", NOT_APPLICABLE, why), Check("inputs matter", NOT_APPLICABLE, why)
    try:
        blind = _learn(subject, _zeroed(few), best.rate, until + PATIENCE, steps=best.steps)
        deaf = ""
    except Exception as error:
        blind, deaf = _Learned(best.rate), f"the model does not take inputs of zeros: {said(error)}"
    needed = blind.last - best.last > 0.02 * max(abs(blind.last), abs(best.first - best.last), 1e-12)
    learned = (
        best.known
        or best.first - best.last > 0.5 * abs(best.first)
        or (not deaf and blind.last - best.last > 0.5 * abs(blind.last))
    )
    count = _rows(few, measure.tensors(few)) if measure.tensors(few) else 0
    went = f"from {best.first:.4g} to {best.last:.4g} in {best.steps} steps on {count} samples"
    evidence: Mapping[str, float | str] = {
        "first": best.first,
        "last": best.last,
        "steps": float(best.steps),
        "blind": blind.last,
    }
    if learned:
        one = Check("one batch", PASSED, f"Can be learned by heart: the loss fell {went}.")
    elif best.ended:
        one = Check(
            "one batch", NOT_APPLICABLE, f"{PATIENCE:.0f} seconds were not enough to tell: the loss went {went}"
        )
    elif _learning(subject.model) < MOST:
        one = Check(
            "one batch",
            NOT_APPLICABLE,
            f"only {_learning(subject.model):.1%} of the parameters learn, which need not be enough to learn it by heart: the loss went {went}",
        )
    else:
        says = f"Even one small batch is not learned by heart: the loss went {went}, without dropout, at the better of two rates."
        one = Check("one batch", FAILED, says, (find("loss-not-decreasing", 0, says, evidence, severity="warning"),))
    if deaf:
        return one, Check("inputs matter", NOT_APPLICABLE, deaf)
    if not needed and not learned:
        return one, Check("inputs matter", NOT_APPLICABLE, "the batch is not learned, with or without its inputs")
    if not needed:
        says = (
            f"With all inputs set to zero the loss falls just as far ({blind.last:.4g}): the model does not use them."
        )
        return one, Check(
            "inputs matter", FAILED, says, (find("loss-not-decreasing", 0, says, evidence, severity="warning"),)
        )
    return one, Check("inputs matter", PASSED, f"With all inputs set to zero the loss stays at {blind.last:.4g}.")


def _learning(model: nn.Module) -> float:
    """The share of the parameters that learn."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, learns in sizes if learns) / max(1, sum(n for n, _ in sizes))


def _apart(rehearsal: _Rehearsal) -> Check:
    mixed = rehearsal.told["independence"]
    why = "" if mixed else "the batch has fewer than three samples, or its samples are not rows of inputs and outputs"
    return rehearsal.check("samples apart", "Another first sample changes nothing in the outputs of the others.", why)


def _ahead(rehearsal: _Rehearsal) -> Check:
    ahead = rehearsal.told["ahead"]
    why = "" if ahead else "the targets are not the inputs moved by one, so nothing needs to be hidden"
    return rehearsal.check("no look ahead", "Later positions change nothing in the outputs before them.", why)


# ---- learning by heart


@dataclass
class _Learned:
    rate: float
    first: float = math.nan
    last: float = math.inf
    steps: int = 0
    known: bool = False  # nearly nothing is left to learn
    ended: bool = field(default=False)  # by the clock


def _best(subject: Subject, batch: Any, until: float) -> _Learned:
    """The better of the learning rates; the first at which the batch is known by heart."""
    tried: list[_Learned] = []
    for rate in RATES:
        tried.append(_learn(subject, batch, rate, until))
        if tried[-1].known:
            return tried[-1]
    return min(tried, key=lambda one: one.last)


def _learn(subject: Subject, batch: Any, rate: float, until: float, steps: int = TRIED) -> _Learned:
    model, _ = copied(subject.model)
    model.train()
    _without_dropout(model)
    optimizer = _adam(model, rate)
    told = _Learned(rate)
    for _ in range(steps):
        loss = subject.loss(model, batch)
        value = float(loss.detach())
        told.first = value if told.steps == 0 else told.first
        told.last = min(told.last, value) if math.isfinite(value) else told.last
        told.steps += 1
        if told.steps % 20 == 0 and steps == TRIED and _is_known(loss):
            told.known = True
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if time.perf_counter() > until:
            told.ended = True
            break
    return told


def _is_known(loss: Tensor) -> bool:
    """Whether the outputs behind a loss are what the targets say, as far as the graph shows it."""
    losses = Graph(loss, {}).losses
    if len(losses) != 1:
        return False
    given, target = losses[0].told("self"), losses[0].told("target")
    if not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return False
    if losses[0].function == "nll_loss" and given.ndim > 1:
        used = target >= 0
        return bool(used.any()) and float((given.argmax(dim=1) == target)[used].float().mean()) > 0.98
    if given.shape == target.shape and losses[0].function == "mse_loss":
        return float((given - target).square().mean()) < 0.02 * float(target.double().var(unbiased=False))
    if given.shape == target.shape and losses[0].function.startswith("binary"):
        middle = 0.0 if losses[0].function.endswith("logits") else 0.5
        return float(((given > middle) == (target > 0.5)).float().mean()) > 0.98
    return False


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]


def _adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)


# ---- batches


def parted(batch: Any) -> tuple[list[Tensor], Tensor | None]:
    """Inputs and targets of a batch: (x, ..., y), a mapping with a key for the targets, or a tensor alone.

    Targets that are no tensor, such as boxes, are left out.
    """
    if isinstance(batch, Mapping):
        named = next(
            (k for k in ("labels", "label", "targets", "target", "y") if isinstance(batch.get(k), Tensor)), None
        )
        inputs = [v for k, v in batch.items() if isinstance(v, Tensor) and k != named]
        return inputs, batch[named] if named else None
    if isinstance(batch, tuple | list) and len(batch) == 2 and not isinstance(batch[1], Tensor):
        return measure.tensors(batch[0]), None  # pictures and what is in them
    given = measure.tensors(batch)
    return (given[:-1], given[-1]) if len(given) > 1 else (given, None)


def _rows(batch: Any, inputs: list[Tensor]) -> int:
    """How many samples are in a batch: rows of a tensor, or as many pictures as there are in a list."""
    listed = isinstance(batch, tuple | list) and isinstance(batch[0], tuple | list)
    return len(batch[0]) if listed else len(inputs[0])


def _finite(batch: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in measure.tensors(batch) if t.is_floating_point())


def _few(batch: Any) -> Any:
    """The first samples of a batch, where all its tensors have one row a sample."""
    given = measure.tensors(batch)
    rows = {len(t) for t in given if t.ndim}
    if len(rows) != 1 or not all(t.ndim for t in given) or rows.pop() <= FEW:
        return batch
    return _mapped(batch, lambda t: t[:FEW])


def _zeroed(batch: Any) -> Any:
    """The batch with its inputs set to zero and its targets as they are."""
    inputs, _ = parted(batch)
    keys = {id(t) for t in inputs}
    if isinstance(batch, Tensor):
        return torch.zeros_like(batch)
    return _mapped(batch, lambda t: torch.zeros_like(t) if id(t) in keys else t)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    return type(value)(_mapped(part, change) for part in value) if type(value) in (tuple, list) else value


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
