"""Where a step of training goes, in numbers and words. `trials/profile.py` measures and fills this in; nothing is timed here.

Times are in seconds and of one optimizer step, unless a name says otherwise. A factor is how many times as many samples pass in a second
with a change as without it, in rounds of which each measured both, one right after the other.

    >>> print(profile)
    >>> profile.levers[0].command, profile.levers[0].factor
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median, quantiles
from typing import Any

from wellfit.report.memory import large
from wellfit.report.words import count, duration, number

SURE = 0.99  # of the interval that must lie on one side of 1: several changes are tried, and each could be lucky
LEAST = 1.02  # a smaller gain is not worth a sentence
MUCH = 0.3  # of a step: waiting for data is then what to mend first
LITTLE = 0.05
PARTS = {
    "data": "waiting for data",
    "forward": "forward pass and loss",
    "backward": "backward pass",
    "gradient": "forward and backward, compiled",
    "update": "clipping, optimizer, clearing",
    "rest": "everything else",
}


@dataclass(frozen=True)
class Operator:
    """What torch calls an operator: time within it and not within others that it calls, and where most of it was spent."""

    name: str
    calls: float  # a step
    seconds: float
    share: float  # of the step, both under the profiler
    where: str  # a layer, or a part of the step


@dataclass(frozen=True)
class Layer:
    """A module of the network, without the modules in it."""

    name: str
    kind: str
    forward: float
    backward: float
    share: float  # of the step, both under the profiler

    @property
    def seconds(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True)
class Lever:
    """A change, and what it was measured to bring. `factors`: one a round."""

    change: str  # as it is written: hardware.compile=true
    kind: str  # how it is made: "recipe", "code", "environment"
    what: str
    bits: str  # what becomes of the numbers
    factors: tuple[float, ...] = ()
    differs: float | None = None  # largest relative difference of a loss of the same step; None: not compared
    begins: float = 0.0  # seconds that it takes longer until it runs at its pace
    failed: str = ""  # why there is no number

    @property
    def factor(self) -> float:
        return median(self.factors) if self.factors else math.nan

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 99 % interval of the geometric mean by Student's t; None for less than three rounds."""
        return surely(self.factors)

    @property
    def verdict(self) -> str:
        """ "faster", "slower", "nothing" that could be told from noise, or "failed"."""
        if self.failed or self.interval is None:
            return "failed"
        low, high = self.interval
        if low > 1 and self.factor >= LEAST:
            return "faster"
        return "slower" if high < 1 and self.factor <= 1 / LEAST else "nothing"

    @property
    def group(self) -> str:
        """Of changes that exclude each other."""
        return self.change.partition("=")[0]

    def pays_after(self, seconds: float) -> float:
        """Steps, of so many seconds each without it, after which what it takes to begin is earned back."""
        gain = seconds * (1 - 1 / self.factor)
        return 0.0 if self.begins < 1 else self.begins / gain if gain > 0 else math.inf

    @property
    def command(self) -> str:
        """How it is said to the command line, or written in a program."""
        return f"--set {self.change}" if self.kind == "recipe" else self.change

    @property
    def measured(self) -> str:
        """`1.31 times as fast (1.28 to 1.35)`."""
        return f"{_factor(self.factor)} times as fast ({_factor(min(self.factors))} to {_factor(max(self.factors))})"

    @property
    def numbers(self) -> str:
        """What becomes of the numbers, as promised and as seen."""
        if self.differs is None:
            return self.bits
        seen = (
            "the same losses, bit for bit"
            if self.differs == 0
            else f"losses differ by up to {self.differs:.1g} of their size"
        )
        return f"{self.bits}; here {seen}" if self.bits else seen


def surely(factors: Sequence[float]) -> tuple[float, float] | None:
    """The interval in which the geometric mean of such factors lies with 99 % (Student 1908); None for less than three."""
    if len(factors) < 3:
        return None
    from scipy.stats import t  # scikit-learn brings it

    logs = [math.log(factor) for factor in factors]
    mean = math.fsum(logs) / len(logs)
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in logs) / (len(logs) - 1) / len(logs))
    half = float(t.ppf((1 + SURE) / 2, len(logs) - 1)) * spread
    return math.exp(mean - half), math.exp(mean + half)


@dataclass(frozen=True)
class Profile:
    """Where a step goes, what is slowest in it, and what makes it faster. `str` is the page."""

    name: str
    settings: Mapping[str, Any]  # device, threads, precision, batch_size, ...
    parameters: int
    whole: int  # steps of the whole training
    each: tuple[float, ...]  # seconds of each timed step, without the profiler
    phases: Mapping[str, float]  # part -> seconds a step, of the same steps
    samples_per_second: float
    profiled: float  # seconds a step with the profiler on
    operators: tuple[Operator, ...]  # the slowest first, all of them
    between: float  # share of the profiled step that is in no operator: Python, and what it calls besides
    layers: tuple[Layer, ...]  # the slowest first, all of them
    tokens_per_second: float | None = None
    flops: float | None = None  # operations of matrix products, convolutions and attention in a step
    attainable: float | None = None  # such operations a second in a large matrix product here
    busy: float | None = None  # share of the profiled time in which the accelerator had something to do
    copies: float | None = None  # seconds of copies to the accelerator
    ranks: int = 1
    talks: float | None = None  # seconds in which ranks exchange; they overlap with other parts
    levers: tuple[Lever, ...] = ()  # tried one by one
    together: Lever | None = None  # what gained, all at once, in rounds of its own
    loading: str = "memory"  # "workers", "here", "batches": how data comes
    workers: int = 0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of a step, the mean, without the profiler."""
        return math.fsum(self.phases.values())

    @property
    def shares(self) -> dict[str, float]:
        """Part -> share of a step. They sum to one."""
        whole = self.seconds
        return {name: seconds / whole for name, seconds in self.phases.items()}

    @property
    def kinds(self) -> dict[str, float]:
        """Class of module -> share of the profiled step of all its modules, the most first."""
        shares: dict[str, float] = {}
        for one in self.layers:
            shares[one.kind] = shares.get(one.kind, 0.0) + one.share
        return dict(sorted(shares.items(), key=lambda pair: -pair[1]))

    @property
    def gained(self) -> list[Lever]:
        """What makes a step measurably faster, and pays in this training, the most first."""
        faster = [one for one in self.levers if one.verdict == "faster" and one.pays_after(self.seconds) < self.whole]
        return sorted(faster, key=lambda one: -one.factor)

    @property
    def best(self) -> list[Lever]:
        """Of these the best of each kind (there is one number of loading processes), the most first."""
        return list({one.group: one for one in reversed(self.gained)}.values())[::-1]

    @property
    def held(self) -> list[Lever]:
        """Those, if they held when they were measured again together; else none."""
        return self.best if self.together is not None and self.together.verdict == "faster" else []

    # ---- tables

    def table(self) -> list[tuple[str, ...]]:
        """Rows: part, time, share; the head first and the sum last."""
        unit, scale = _unit(self.seconds)
        rows: list[tuple[str, ...]] = [("where a step goes", unit, "share")]
        names = PARTS if self.ranks == 1 else {**PARTS, "rest": "everything else, other ranks among it"}
        for part, told in names.items():
            if self.phases.get(part):
                rows.append((told, _digits(self.phases[part] * scale), f"{self.shares[part]:.0%}"))
        return [*rows, ("a step", _digits(self.seconds * scale), "100%")]

    def slowest_layers(self, most: int = 6) -> list[tuple[str, ...]]:
        """Rows: layer, kind, forward, backward, share of the step."""
        unit, scale = _unit(self.profiled)
        rows: list[tuple[str, ...]] = [("slowest layers", "kind", f"forward {unit}", f"backward {unit}", "share")]
        for one in [one for one in self.layers[:most] if one.share >= LITTLE / 5]:
            forward, backward = (_digits(seconds * scale) for seconds in (one.forward, one.backward))
            rows.append((one.name, one.kind, forward, backward, f"{one.share:.0%}"))
        return rows if len(rows) > 1 else []

    def slowest_operators(self, most: int = 6) -> list[tuple[str, ...]]:
        """Rows: operator, calls, time, share of the step, where."""
        unit, scale = _unit(self.profiled)
        rows: list[tuple[str, ...]] = [("slowest operators", "calls", unit, "share", "mostly in")]
        for one in [one for one in self.operators[:most] if one.share >= LITTLE / 5]:
            calls = f"{one.calls:,.0f}" if one.calls >= 100 else f"{one.calls:.3g}"
            rows.append((one.name, calls, _digits(one.seconds * scale), f"{one.share:.0%}", one.where))
        return rows if len(rows) > 1 else []

    def tried(self) -> list[tuple[str, ...]]:
        """Rows: change, factor, lowest to highest round, what becomes of the numbers; what gains most first."""
        order = {"faster": 0, "nothing": 1, "slower": 2, "failed": 3}
        rows: list[tuple[str, ...]] = [("changes, tried here", "times as fast", "rounds", "losses")]
        for one in sorted(self.levers, key=lambda one: (order[one.verdict], -one.factor if one.factors else 0)):
            if one.verdict == "failed":
                rows.append((one.change, "not measured", "", ""))
                continue
            told = {"nothing": "no gain", "slower": f"{_factor(one.factor)} (slower)"}
            spread = f"{_factor(min(one.factors))} to {_factor(max(one.factors))}"
            numbers = "" if one.differs is None else f"differ by {one.differs:.1g}" if one.differs else "the same bits"
            rows.append((one.change, told.get(one.verdict, _factor(one.factor)), spread, numbers))
        return rows if len(rows) > 1 else []

    # ---- words

    @property
    def says(self) -> list[str]:
        """What follows from it, a sentence or two each, what to do first at the beginning."""
        return [*self._pace(), *self._data(), *self._first(), *self._mends(), *self._device(), *self.notes]

    def _pace(self) -> list[str]:
        told = f"{number(_rounded(self.samples_per_second))} samples a second"
        if self.tokens_per_second is not None:
            told += f", {number(_rounded(self.tokens_per_second))} tokens that are learnt from"
        spread = ""
        if len(self.each) >= 4:
            low, _, high = quantiles(self.each, n=4)
            unit, scale = _unit(self.seconds)
            spread = f" Half of the {count(len(self.each), 'step')} took {_digits(low * scale)} to {_digits(high * scale)} {unit}."
        whole = f" The whole training has {count(self.whole, 'step')}: {duration(self.whole * self.seconds)} at this pace, evaluation not counted."
        return [f"{told}.{spread}{whole}"]

    def _first(self) -> list[str]:
        if not self.levers:
            return []
        gained, told = self.gained, []
        if not gained:
            none = "Of the changes that were tried, none gains measurably here."
            if len(self.levers) == 1:
                none = f"{self.levers[0].change} was tried, and gains nothing measurable here."
            return [none, *self._too_late(), *self._why_not()]
        best = gained[0]
        told.append(f"First: {best.command} ({best.what}): {best.measured}. {self._numbers(best)}{self._pays(best)}")
        if self.together is not None:
            told.append(self._together())
        return [*told, *self._too_late(), *self._why_not()]

    def _numbers(self, lever: Lever) -> str:
        text = lever.numbers or "The numbers stay the same"
        return f"{text[0].upper()}{text[1:]}."

    def _pays(self, lever: Lever) -> str:
        """What it takes to begin, where that is not nothing."""
        after = lever.pays_after(self.seconds)
        if not after:
            return ""
        return f" It begins {duration(lever.begins)} later, which {count(math.ceil(after), 'step')} earn back."

    def _too_late(self) -> list[str]:
        """What is faster, and takes so long to begin that this training has no use for it."""
        late = [one for one in self.levers if one.verdict == "faster" and one.pays_after(self.seconds) >= self.whole]
        return [
            f"With {one.command} a step is {one.measured}, but it begins {duration(one.begins)} later, which takes "
            f"{count(math.ceil(one.pays_after(self.seconds)), 'step')} to earn back, more than this training has. So it does not pay here."
            for one in late
        ]

    def _together(self) -> str:
        both = self.together
        assert both is not None
        named = f"All that gain, together ({both.change})" if len(self.best) > 1 else "Measured again"
        again = f"{named}, in rounds that chose nothing"
        if both.failed:
            return f"{again}: not measured, because {both.failed}."
        if both.verdict == "faster":
            return f"{again}: {both.measured}."
        return f"{again}, this did not hold: {both.measured}. So count on nothing."

    def _why_not(self) -> list[str]:
        return [f"{one.change} could not be tried: {one.failed}." for one in self.levers if one.failed]

    def _data(self) -> list[str]:
        share = self.shares.get("data", 0.0)
        if share < MUCH:
            return []
        most = 1 / max(1 - share, 1e-3)
        told = (
            f"Data is the bottleneck: {share:.0%} of a step passes waiting for it. If it were there in time, a step could be up to "
            f"{_factor(most)} times as fast; no other change comes near that."
        )
        return [told]

    def _mends(self) -> list[str]:
        """What else helps where data is the bottleneck."""
        if self.shares.get("data", 0.0) < MUCH:
            return []
        helped = [one for one in self.gained if "workers" in one.change]
        mends = {
            "here": ["load in the background (`data.workers`, or `DataLoader(num_workers=...)`)"] * (not helped),
            "workers": ["load with more processes"] * (not helped),
            "batches": ["load in the background where the batches are made"],
            "memory": ["turn off what `data.augment` does and is not needed"],
            "made": ["turn off what `data.augment` does and is not needed"],
        }[self.loading]
        mends += ["decode, resize and tokenize once, ahead of training, and keep the result"]
        mends += ["make the transform of a sample smaller"] * (self.loading in ("here", "workers", "batches"))
        return [f"What {'else ' if helped else ''}mends it: {'; '.join(mends)}."]

    def _device(self) -> list[str]:
        told, kinds = [], [(kind, share) for kind, share in self.kinds.items() if share >= LITTLE]
        if len(kinds) > 1:
            told.append(
                f"By kind of layer: {', '.join(f'{kind} {share:.0%}' for kind, share in kinds[:5])} of the step."
            )
        if self.flops:
            pace = self.flops / self.seconds
            line = f"A step takes {_flops(self.flops)} of matrix products and the like: {_flops(pace)} a second"
            if self.attainable:
                line += f", {min(1.0, pace / self.attainable):.0%} of what one large product reaches here ({_flops(self.attainable)} a second)"
            told.append(f"{line}.")
        if self.busy is not None:
            told.append(f"The accelerator had something to do in {self.busy:.0%} of the profiled time.")
        if self.copies:
            told.append(
                f"Copies to the accelerator take {_time(self.copies)} a step; they may overlap with other parts."
            )
        if self.talks is not None and self.ranks > 1:
            told.append(
                f"The {self.ranks} ranks exchange, and wait for each other, for {_time(self.talks)} a step; some of it overlaps with the backward pass."
            )
        if self.between > 0.4 and self.ranks == 1 and self.shares.get("data", 0.0) < MUCH and self.busy is None:
            told.append(
                f"{self.between:.0%} of a profiled step passes between operators, in Python: the network is small for what each call costs. "
                "Larger batches do more work a call."
            )
        slower = self.profiled / self.seconds
        longer = f"{_factor(slower)} times as long" if slower >= 1.05 else "hardly longer"
        unit, scale = _unit(self.seconds)
        told.append(
            f"Operators and layers are timed with torch's profiler on, with which a step takes {_digits(self.profiled * scale)} {unit}, "
            f"{longer}; everything else is timed without."
        )
        return told

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name, "settings": dict(self.settings), "parameters": self.parameters, "steps_of_training": self.whole,
            "steps_timed": len(self.each), "seconds_per_step": self.seconds, "each": list(self.each), "phases": dict(self.phases), "shares": self.shares,
            "samples_per_second": self.samples_per_second, "tokens_per_second": self.tokens_per_second,
            "profiled_seconds_per_step": self.profiled, "between_operators": self.between, "flops_per_step": self.flops,
            "attainable_flops_per_second": self.attainable, "accelerator_busy": self.busy, "copies_seconds": self.copies,
            "ranks": self.ranks, "exchange_seconds": self.talks, "loading": self.loading, "workers": self.workers,
            "operators": [{**vars(one)} for one in self.operators],
            "layers": [{**vars(one), "seconds": one.seconds} for one in self.layers],
            "levers": [_plain(one) for one in self.levers],
            "together": _plain(self.together) if self.together is not None else None,
            "notes": list(self.notes), "says": self.says,
        }  # fmt: skip

    def head(self) -> str:
        """What was timed, in one line."""
        told = [f"{self.name}: {large(self.parameters)} parameters"]
        told += [f"{value}" for value in self.settings.values()]
        return ", ".join(told)

    def tables(self) -> str:
        """All tables, under the head."""
        blocks = [self.head()]
        for rows, left in (
            (self.table(), 1), (self.slowest_layers(), 2), (self.slowest_operators(), 1), (self.tried(), 1)
        ):  # fmt: skip
            if rows:
                blocks.append(_laid_out(rows, left))
        return "\n\n".join(blocks)

    def __str__(self) -> str:
        return "\n".join([self.tables(), "", *self.says])


# ---- inside


def _laid_out(rows: Sequence[tuple[str, ...]], left: int) -> str:
    """The first `left` columns and those of words to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    words = [i < left or not any(row[i][:1].isdigit() for row in rows[1:]) for i in range(len(widths))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(row, widths, words, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _plain(lever: Lever) -> dict[str, Any]:
    factor = lever.factor
    return {
        "change": lever.change, "kind": lever.kind, "command": lever.command, "what": lever.what, "bits": lever.bits,
        "factors": list(lever.factors), "factor": factor if math.isfinite(factor) else None,
        "interval": list(lever.interval) if lever.interval else None, "verdict": lever.verdict,
        "losses_differ_by": lever.differs, "begins_seconds": lever.begins, "failed": lever.failed,
    }  # fmt: skip


def _unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds >= 10 else ("ms", 1e3)


def _time(seconds: float) -> str:
    unit, scale = _unit(seconds)
    return f"{_digits(seconds * scale)} {unit}"


def _digits(value: float) -> str:
    """Three digits at most, two behind the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _factor(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rounded(value: float) -> float:
    """To three digits."""
    return float(f"{value:.3g}")


def _flops(amount: float) -> str:
    for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("kFLOP", 1e3)):
        if amount >= scale:
            return f"{amount / scale:.3g} {unit}"
    return f"{amount:.3g} FLOP"
