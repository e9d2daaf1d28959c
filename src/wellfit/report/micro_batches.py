"""A search for the largest micro-batch, in numbers and words. `trials/find_batch.py` tries and fills this in; nothing trains here.

>>> print(found)
>>> found.change
{'training.gradient_accumulation_steps': 4}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wellfit.report.memory import MARGIN, Way, needed, size
from wellfit.report.words import count

NOTEWORTHY = 0.97  # of the largest's time: below it another size is called faster


@dataclass(frozen=True)
class Tried:
    """One size: samples in a micro-batch, micro-batches of a step on each rank, bytes at the peak if known, and the verdict."""

    samples: int
    accumulation: int
    peak: int | None
    fits: bool


@dataclass(frozen=True)
class Timed:
    """A whole step in micro-batches of that size: seconds for each of its samples."""

    samples: int
    accumulation: int
    seconds: float


@dataclass(frozen=True)
class BatchSearch:
    """What fits, what follows from it, and how it was found. Sizes in samples and bytes; `str` is the table and the words."""

    name: str
    batch: int  # of a step, over all ranks
    ranks: int
    present: int  # samples in a micro-batch as the recipe has it
    on: str  # where it has to fit, in words
    room: int  # bytes that may be taken there, everything included
    tried: tuple[Tried, ...]  # rising
    timed: tuple[Timed, ...]
    largest: Tried | None  # of those that fit
    really: bool  # found by real steps on the device, not by the memory plan
    change: Mapping[str, Any]  # of the recipe; empty where it has it already, or nothing fits
    ways: tuple[Way, ...] = ()  # where nothing fits
    together: tuple[Way, ...] = ()
    exact: bool = True  # no batch norm, whose statistics are those of a micro-batch
    better: tuple[int, ...] = ()  # batches near this one that can be cut in more ways
    notes: tuple[str, ...] = ()

    @property
    def fastest(self) -> Timed | None:
        """The size with the least time a sample; None where none was timed."""
        return min(self.timed, key=lambda one: one.seconds, default=None)

    @property
    def share(self) -> int:
        """Samples of a batch on each rank."""
        return self.batch // self.ranks

    @property
    def says(self) -> list[str]:
        """What follows from it, a sentence or two each."""
        told = [self._verdict()]
        if self.largest is not None:
            told += self._setting()
        elif any(way.fits for way in self.ways):
            told.append("Any one of the ways that are marked makes it fit.")
        elif self.together and self.together[-1].fits:
            steps = "; then ".join(way.what for way in self.together)
            told.append(f"No single change makes it fit; together these do: {steps}.")
        elif self.ways:
            told.append(
                "None of the ways listed makes it fit, nor do all of them together; take a smaller model or more devices."
            )
        if self.better:
            told.append(
                f"The batch of {self.batch} can only be cut into micro-batches of {_listed(self._sizes())}. One of "
                f"{' or '.join(map(str, self.better))} could be halved as often as wanted; that is another batch, and so a little another training."
            )
        return [*told, *self._of_time(), *self.notes]

    def _verdict(self) -> str:
        how = (
            f"real steps there, with {MARGIN:.0%} of its free memory left for fragmentation"
            if self.really
            else "the memory plan, with its margin"
        )
        if self.largest is None:
            least = self.tried[0].samples
            return f"Not even micro-batches of {count(least, 'sample')} fit on {self.on} ({how})."
        each = f" on each of {self.ranks} ranks" if self.ranks > 1 else ""
        if self.largest.samples == self.share:
            return f"The whole batch, {count(self.share, 'sample')}{each}, fits on {self.on} at once ({how})."
        return (
            f"The largest micro-batch that fits on {self.on} has {count(self.largest.samples, 'sample')}{each} ({how})."
        )

    def _setting(self) -> list[str]:
        assert self.largest is not None
        cut = f"{self.largest.samples} x {self.largest.accumulation}"
        cut += f" x {self.ranks} ranks" if self.ranks > 1 else ""
        if not self.change:
            return [f"That is how the recipe has it: {cut} = {self.batch}."]
        set_to = ", ".join(f"`{path}={value}`" for path, value in self.change.items())
        gradient = "the same gradient but for rounding"
        if not self.exact:
            gradient = "nearly the same gradient: batch norm takes its statistics from each micro-batch"
        return [f"With {set_to} a step has the same batch, {cut} = {self.batch}, and {gradient}."]

    def _of_time(self) -> list[str]:
        fastest = self.fastest
        if fastest is None or self.largest is None:
            return []
        own = next((one for one in self.timed if one.samples == self.largest.samples), None)
        if own is None:
            return []
        if fastest.seconds < NOTEWORTHY * own.seconds:
            return [
                f"Micro-batches of {fastest.samples} are faster: {_time(fastest.seconds)} a sample, where those of {own.samples} take "
                f"{_time(own.seconds)}; `training.gradient_accumulation_steps={fastest.accumulation}`."
            ]
        return [f"It is also as fast as any smaller one that was timed: {_time(own.seconds)} a sample."]

    def _sizes(self) -> list[int]:
        return [n for n in range(1, self.share + 1) if self.share % n == 0]

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the head first."""
        seconds = {one.samples: one.seconds for one in self.timed}
        rows: list[tuple[str, ...]] = [("micro-batch", "a step", "peak", "fits", "time a sample")]
        places = {one.samples: Tried(one.samples, one.accumulation, None, True) for one in self.timed}
        places |= {one.samples: one for one in self.tried}
        for samples, one in sorted(places.items()):
            peak = size(one.peak) if one.peak is not None else ""
            spent = _time(seconds[samples]) if samples in seconds else ""
            rows.append((str(samples), f"x {one.accumulation}", peak, "yes" if one.fits else "no", spent))
        return [row if any(r[4] for r in rows[1:]) else row[:4] for row in rows]

    def ways_told(self) -> list[tuple[str, str, str]]:
        """Rows: change, what is then needed, cost."""
        rows = [("to make it fit", "needs", "costs")]
        return rows + [(("* " if way.fits else "  ") + way.what, size(needed(way.peak)), way.cost) for way in self.ways]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name, "batch": self.batch, "ranks": self.ranks, "present": self.present, "on": self.on, "room_bytes": self.room,
            "measured": self.really, "margin": MARGIN,
            "tried": [{"samples": t.samples, "accumulation": t.accumulation, "peak_bytes": t.peak, "fits": t.fits} for t in self.tried],
            "timed": [{"samples": t.samples, "accumulation": t.accumulation, "seconds_per_sample": t.seconds} for t in self.timed],
            "largest": self.largest.samples if self.largest else None, "change": dict(self.change), "better_batches": list(self.better),
            "ways": [{"what": way.what, "needed_bytes": needed(way.peak), "cost": way.cost, "fits": way.fits} for way in self.ways],
            "notes": list(self.notes), "says": self.says,
        }  # fmt: skip

    def __str__(self) -> str:
        tables = [_laid_out(self.table(), "right")]
        if self.ways:
            tables.append(_laid_out(self.ways_told(), "left"))
        return "\n\n".join([*tables, "\n".join(self.says)])

    def _repr_html_(self) -> str:
        from wellfit.report.notebook import html

        return html(self)


def _laid_out(rows: list[Any], side: str) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == "right" else cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


def _listed(numbers: list[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} or {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
