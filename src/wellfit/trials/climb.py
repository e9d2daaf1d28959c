"""The search among rates that short trainings decide, apart from how they are trained.

Rates lie a factor of three apart. One seed climbs from where the range test points, until a rate lies between two worse ones; then
all seeds measure these three, and go on if the mean of them points elsewhere. The verdict is the vertex of a parabola through
the three, in the logarithms, brought to the length of a whole training; or it is the reason why there is none. Where a rate
beside the best one broke there is no parabola, and the verdict is half a step away from what broke.

    >>> trials = Trials(1e-3, seeds=(0, 1, 2), measure=lambda rate, seed: loss, falls=lambda rate, seeds: True)
    >>> trials.search()
    >>> judged(trials, short=100, steps=800).rate
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from wellfit.report.paired import interval
from wellfit.report.rates import Rate, rounded
from wellfit.report.words import count, number

WIDE = 10.0  # times the lower end of the band: where it is wider, the rate hardly matters
FACTOR = 3.0  # between neighbouring rates
MOST = 12  # rates that are tried
OUTWARD = 7  # of them, while nothing is learnt at any
LARGEST = 100.0  # what `optimizer.learning_rate` may be
FALLS = 0.4  # the best rate goes with the length of a training to the minus this (docs/lab-notes.md)
FALLS_OF_SIGNS = 0.8  # of Lion, whose steps all have one size, so that weights get only as far as rate x steps
NOTICED = 0.05  # a loss that is lower by less than this share is as good


class Trials:
    """Short trainings: `measure(rate, seed)` is the final loss, infinite if it broke; `falls(rate, seeds)` whether they learnt at all."""

    def __init__(
        self,
        begin: float,
        seeds: Sequence[int],
        measure: Callable[[float, int], float],
        falls: Callable[[float, Sequence[int]], bool],
    ):
        self.begin, self.seeds, self._measure, self._falls = begin, tuple(seeds), measure, falls
        self.losses: dict[int, dict[int, float]] = {}  # place -> seed -> final loss; the rate is begin x 3 ** place

    def rate(self, place: float) -> float:
        return self.begin * float(FACTOR**place)

    def search(self) -> None:
        """First with one seed, then with all."""
        first = self.seeds[:1]
        self.at(0, first)
        while not self.learns(self.best(first), first):  # outward, until something is learnt
            top, bottom = max(self.losses), min(self.losses)
            way = top + 1 if math.isfinite(self.mean(top, first)) and top <= -bottom else bottom - 1
            if len(self.losses) == OUTWARD or not self.room(way):
                self.at(self.best(first), self.seeds)
                return
            self.at(way, first)
        for seeds in (first, self.seeds):
            best = self.best(first)
            self.at(best, seeds)
            while True:
                best = self.best(seeds)
                missing = [
                    place for place in (best - 1, best + 1) if not self.measured(place, seeds) and self.room(place)
                ]
                if not missing:
                    break
                self.at(missing[0], seeds)

        for (
            seed
        ) in self.seeds:  # one for which this is noticeably worse than another rate says where its own best one is
            while self.loses(seed, best):
                own = self.best((seed,))
                missing = [
                    place for place in (own - 1, own + 1) if not self.measured(place, (seed,)) and self.room(place)
                ]
                if not missing:
                    break
                self.at(missing[0], (seed,))

    def at(self, place: int, seeds: Sequence[int]) -> None:
        row = self.losses.setdefault(place, {})
        for seed in seeds:
            if seed not in row:
                row[seed] = self._measure(self.rate(place), seed)

    def measured(self, place: int, seeds: Sequence[int]) -> bool:
        return all(seed in self.losses.get(place, {}) for seed in seeds)

    def room(self, place: int) -> bool:
        """Whether this rate may be tried."""
        return self.rate(place) <= LARGEST and (place in self.losses or len(self.losses) < MOST)

    def mean(self, place: int, seeds: Sequence[int]) -> float:
        return fmean(self.losses[place][seed] for seed in seeds)

    def best(self, seeds: Sequence[int]) -> int:
        """The place of the lowest mean of these seeds; the lowest rate of equal ones."""
        return min(
            (place for place in sorted(self.losses) if self.measured(place, seeds)), key=lambda p: self.mean(p, seeds)
        )

    def learns(self, place: int, seeds: Sequence[int]) -> bool:
        finite = all(math.isfinite(self.losses[place][seed]) for seed in seeds)
        return finite and self._falls(self.rate(place), seeds)

    def loses(self, seed: int, chosen: int) -> bool:
        """Whether a seed's own best rate is noticeably better for it than the chosen one."""
        own = self.losses[self.best((seed,))][seed]
        return not self.losses[chosen][seed] - own <= NOTICED * abs(own)

    def points(self) -> tuple[Rate, ...]:
        return tuple(Rate(self.rate(place), dict(self.losses[place])) for place in sorted(self.losses))


@dataclass(frozen=True)
class Verdict:
    """A rate, or None; why; and the band around it that the seeds leave, with 90 % confidence."""

    rate: float | None
    reason: str
    interval: tuple[float, float] | None


def judged(trials: Trials, short: int, steps: int, scored: str = "training", falls: float = FALLS) -> Verdict:
    """What follows for a whole training of `steps` from short ones of `short`, whose `scored` loss was measured.

    `falls`: the best rate is proportional to the length of a training to the minus this.
    """
    seeds = trials.seeds
    if all(not math.isfinite(loss) for row in trials.losses.values() for loss in row.values()):
        lowest, highest = (rounded(trials.rate(end(trials.losses))) for end in (min, max))
        return Verdict(
            None,
            f"At every rate from {lowest} to {highest} the loss or the gradient was not a finite number. `wellfit check` looks for the cause.",
            None,
        )
    best = trials.best(seeds)
    if not trials.learns(best, seeds):
        lowest, highest = (rounded(trials.rate(end(trials.losses))) for end in (min, max))
        return Verdict(
            None,
            f"No rate from {lowest} to {highest} lowers the training loss within {short:,} steps by more than its noise, so there is nothing to "
            "choose by. `wellfit check` says whether this can learn at all; a larger `share` gives it more steps.",
            None,
        )
    for side, word in ((best - 1, "lower"), (best + 1, "higher")):
        if not trials.measured(side, seeds):
            return Verdict(
                None,
                f"The loss still falls at {rounded(trials.rate(best))}, and no {word} rate was left to try ({count(len(trials.losses), 'rate')} were).",
                None,
            )
    shift = (short / steps) ** falls
    places = [_vertex(trials, (seed,))[0] for seed in seeds]
    middle, _ = _vertex(trials, seeds)
    apart = (max(places) - min(places)) * math.log10(FACTOR)
    if apart > 1 and any(trials.loses(seed, best) for seed in seeds):
        told = ", ".join(rounded(trials.rate(place)) for place in places)
        return Verdict(
            None,
            f"The seeds contradict each other by more than a decade: their best rates are {told}. More seeds, or a larger `share`, may agree.",
            None,
        )
    rate = trials.rate(middle) * shift
    broken = [side for side in (-1, 1) if not math.isfinite(trials.mean(best + side, seeds))]
    around = "; ".join(
        f"at {rounded(trials.rate(best + side))} "
        + ("a loss or gradient is not finite" if side in broken else f"it is {number(trials.mean(best + side, seeds))}")
        for side in (-1, 1)
    )
    reason = (
        f"Of short trainings ({short:,} steps, {count(len(seeds), 'seed')}) those at {rounded(trials.rate(best))} end with the lowest {scored} loss, "
        f"{number(trials.mean(best, seeds))}; {around}. "
    )
    match broken:
        case []:
            reason += f"A parabola through them is lowest at {rounded(trials.rate(middle))}"
        case [side]:
            reason += (
                f"{'Three times' if side > 0 else 'A third of'} that rate breaks, so there is no parabola to go by, and half a step of "
                f"the search {'below' if side > 0 else 'above'} it is taken, {rounded(trials.rate(middle))}"
            )
        case _:
            reason += "A third of that rate and three times that rate break, so it is taken itself"
    if shift < 1:
        reason += (
            f"; for {steps / short:.3g} times as many steps the rate is multiplied by {rounded(shift)}: {rounded(rate)}"
        )
    suggestion = float(rounded(rate))
    low, high = (trials.rate(place) * shift for place in _band(trials))
    if high > WIDE * low:
        reason += (
            f". The seeds leave a band from {rounded(low)} to {rounded(high)}: the loss hardly depends on the rate there, so any of them does "
            "about as well, and if little is learnt the rate is not to blame"
        )
    return Verdict(suggestion, f"{reason}.", (min(low, suggestion), max(high, suggestion)))


def _band(trials: Trials) -> tuple[float, float]:
    """The 90 % interval of the seeds' own best places, laid around that of their mean loss, which is what is suggested.

    Seeds whose place is at its bound, for want of a finite loss beside it, agree without having been asked; so it is half
    a step to either side then, at least.
    """
    middle, certain = _vertex(trials, trials.seeds)
    own = [_vertex(trials, (seed,)) for seed in trials.seeds]
    found = interval([place for place, _ in own], 0 if certain and all(bent for _, bent in own) else 0.5)
    assert found is not None
    half = (found[1] - found[0]) / 2
    return middle - half, middle + half


def _vertex(trials: Trials, seeds: Sequence[int]) -> tuple[float, bool]:
    """The place at which a parabola through the lowest mean and its neighbours is lowest, at most half a step away; and
    whether there is one. If not, a neighbour was not measured or broke, and the place is half a step away from what broke.

    Through logarithms of the losses where all are positive, since they may lie orders of magnitude apart.
    """
    known = [place for place in sorted(trials.losses) if trials.measured(place, seeds)]
    means = {place: trials.mean(place, seeds) for place in known}
    best = min(known, key=means.__getitem__)
    if min(means.values()) > 0:
        means = {place: math.log(mean) if math.isfinite(mean) else mean for place, mean in means.items()}
    below, above = (means.get(best + side, means[best]) for side in (-1, 1))
    if math.isinf(below) or math.isinf(above):
        return best + 0.5 * (math.isinf(below) - math.isinf(above)), False
    bend = below - 2 * means[best] + above
    if bend <= 0:
        return best, False
    return best + 0.5 * (below - above) / bend, best - 1 in means and best + 1 in means
