"""A memory plan, in numbers and words. `memory.py` fills this in; nothing is traced here.

GB are 10^9 bytes, as in the data sheets of GPUs. What must be free is the peak, a tenth of it for fragmentation (an allocator
cannot use every gap between what it has given out), and what a process holds on a GPU before its first tensor.

    >>> print(plan)
    >>> plan.needed <= plan.gpu.bytes
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wellfit.plan.hardware import GPUS, Gpu
from wellfit.plan.trace import PARTS

MARGIN = 0.1  # of the peak
CONTEXT = 600_000_000  # bytes: CUDA's context and the libraries' kernels; half to three quarters of a GB on recent GPUs


@dataclass(frozen=True)
class Measured:
    """What a run took, and what that number is."""

    bytes: int
    what: str
    comparable: bool


@dataclass(frozen=True)
class Way:
    """One thing changed to make it fit: what, the new peak in bytes on each device, and what it costs, in words."""

    what: str
    peak: int
    cost: str
    fits: bool


@dataclass(frozen=True)
class MemoryPlan:
    """What a training, or a model that serves, holds at its peak, on each of `devices`. Sizes in bytes."""

    name: str
    serves: bool
    settings: Mapping[str, Any]
    parameters: int
    trainable: int
    parts: Mapping[str, int]
    phase: str
    devices: int = 1
    notes: tuple[str, ...] = ()
    gpu: Gpu | None = None
    ways: tuple[Way, ...] = field(default=())
    together: tuple[Way, ...] = ()  # taken one after the other, where no single one does
    measured: Measured | None = None

    @property
    def peak(self) -> int:
        """What is allocated at once at most."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """What a GPU must have: the peak with its margin, and the context."""
        return needed(self.peak)

    @property
    def fitting(self) -> list[Gpu]:
        """The GPUs of the table on which it fits, the smallest first."""
        return sorted((gpu for gpu in GPUS if self.needed <= gpu.bytes), key=lambda gpu: gpu.memory_gb)

    @property
    def fits(self) -> bool | None:
        """Whether it fits on the GPU that was named; None without one."""
        return None if self.gpu is None else self.needed <= self.gpu.bytes

    def table(self) -> list[tuple[str, str]]:
        """Parts and their sizes, then the sums."""
        names = {**PARTS, "gathered": "fetched from other devices"}
        rows = [(names[part], size(self.parts[part])) for part in names if self.parts.get(part)]
        rows.append((f"peak, {self.phase}", size(self.peak)))
        rows.append((f"with {MARGIN:.0%} for fragmentation and {size(CONTEXT)} of CUDA's own", size(self.needed)))
        return rows

    def of_a_run(self) -> dict[str, Any]:
        """Plain data for a run's folder and its report: of one that no GPU trained, without what a GPU would need beside the tensors."""
        rows, said = self.table(), self.says
        if self.measured is not None and not self.measured.comparable:
            rows, said = rows[:-1], [self._beside(self.measured), *self.notes]
        return self.as_dict() | {"table": [list(row) for row in rows], "says": said}

    def _beside(self, measured: Measured) -> str:
        told = f"Predicted {size(self.peak)}; measured {size(measured.bytes)}, {measured.what}."
        if measured.comparable and measured.bytes:
            told += f" The prediction is {abs(self.peak / measured.bytes - 1):.0%} {'above' if self.peak > measured.bytes else 'below'}."
        return told

    @property
    def says(self) -> list[str]:
        """What follows, a sentence or two each."""
        each = f" on each of {self.devices} devices" if self.devices > 1 else ""
        said = []
        if self.gpu is not None:
            verb = "fits" if self.fits else "does not fit"
            said.append(f"It {verb} on the {self.gpu.name}, which has {self.gpu.memory_gb} GB{each}.")
        if self.measured is not None:
            said.append(self._beside(self.measured))
        fitting = self.fitting
        if fitting:
            rest = ", ".join(gpu.name for gpu in fitting)
            said.append(f"It fits on{each.replace(' on', '', 1)}: {rest}." if each else f"It fits on: {rest}.")
        else:
            largest = max(GPUS, key=lambda gpu: gpu.memory_gb)
            said.append(
                f"It fits on no GPU of the table; the largest, the {largest.name}, has {largest.memory_gb} GB{each}."
            )
        if self.gpu is not None and self.fits is False:
            if any(way.fits for way in self.ways):
                said.append("Any one of the ways that are marked makes it fit.")
            elif self.together and self.together[-1].fits:
                steps = "; then ".join(way.what for way in self.together)
                said.append(
                    f"No single change makes it fit; together these do: {steps}: {size(needed(self.together[-1].peak))}."
                )
            else:
                said.append(
                    "None of the ways below, nor all of them together, makes it fit; take a smaller model or more devices."
                )
        return [*said, *self.notes]

    def ways_told(self) -> list[tuple[str, str, str, str]]:
        """Rows: change, what is then needed, what that saves, cost."""
        rows = [("to make it fit", "needs", "saves", "costs")]
        for way in self.ways:
            mark = "* " if way.fits else "  "
            rows.append((mark + way.what, size(needed(way.peak)), size(self.needed - needed(way.peak)), way.cost))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name, "serves": self.serves, "settings": dict(self.settings), "parameters": self.parameters,
            "trainable": self.trainable, "parts": dict(self.parts), "peak_bytes": self.peak, "peak_phase": self.phase,
            "margin": MARGIN, "context_bytes": CONTEXT, "needed_bytes": self.needed, "devices": self.devices,
            "gpu": self.gpu.name if self.gpu else None, "fits": self.fits, "fits_on": [gpu.name for gpu in self.fitting],
            "ways": [_plain(way) for way in self.ways], "together": [_plain(way) for way in self.together],
            "measured_bytes": self.measured.bytes if self.measured else None, "measured_what": self.measured.what if self.measured else None,
            "notes": list(self.notes), "says": self.says,
        }  # fmt: skip

    def __str__(self) -> str:
        learns = "" if self.serves or self.trainable == self.parameters else f", {large(self.trainable)} of them learn"
        head = f"{self.name}: {large(self.parameters)} parameters{learns}"
        rows = self.table()
        width = max(len(name) for name, _ in rows)
        lines = [head, "", *(f"  {name:<{width}}  {told:>8}" for name, told in rows)]
        if self.ways:
            told = self.ways_told()
            widths = [max(len(row[i]) for row in told) for i in range(4)]
            lines += [
                "",
                *("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in told),
            ]
        return "\n".join([*lines, "", *self.says])

    def _repr_html_(self) -> str:
        from wellfit.report.notebook import html

        return html(self)


def needed(peak: int) -> int:
    """What a GPU must have for such a peak."""
    return round(peak * (1 + MARGIN)) + CONTEXT


def size(amount: float) -> str:
    """Bytes in GB, MB or kB, to three digits."""
    sign, amount = ("-" if amount < 0 else ""), abs(amount)
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= 0.9995 * scale:
            value = amount / scale
            return f"{sign}{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    return f"{sign}{amount:.0f} B"


def large(amount: int) -> str:
    """A number of parameters: 8.03 billion, 1.2 million, 1,234."""
    for name, scale in (("billion", 10**9), ("million", 10**6)):
        if amount >= scale:
            return f"{amount / scale:.3g} {name}"
    return f"{amount:,}"


def _plain(way: Way) -> dict[str, Any]:
    return {
        "what": way.what,
        "peak_bytes": way.peak,
        "needed_bytes": needed(way.peak),
        "cost": way.cost,
        "fits": way.fits,
    }
