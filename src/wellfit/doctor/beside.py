"""The doctor beside somebody's own loop.

>>> with wellfit.watch(model, optimizer) as doctor:
...     train(model, optimizer)
>>> [finding.id for finding in doctor.findings()]
"""

from __future__ import annotations

import sys
from types import TracebackType

from torch import nn
from torch.optim import Optimizer

from wellfit.doctor import words
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import Finding
from wellfit.doctor.watch import Watch


class Beside:
    """Watches all training in this process from its making until `close`, or the end of its `with` block."""

    def __init__(
        self, model: nn.Module | None = None, optimizer: Optimizer | None = None, *, quiet: bool = False
    ) -> None:
        self.quiet = quiet
        self.doctor = Doctor(None if quiet else lambda finding: print(words.line(finding), file=sys.stderr, flush=True))
        self._watch: Watch | None = Watch(self.doctor)
        self._watch.__enter__()
        self._watch.register(model, optimizer)

    def findings(self) -> list[Finding]:
        """What was found so far, causes first."""
        return self.doctor.findings()

    def close(self, error: BaseException | None = None) -> list[Finding]:
        """Ends the watching: torch is as it was before. Returns all findings."""
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.__exit__(type(error) if error is not None else None, error, None)
            self.doctor.end()
            for failure in self.doctor.failures:
                print(f"wellfit: the doctor itself failed and left. {failure}", file=sys.stderr)
            if not self.quiet:
                print(f"wellfit doctor: {words.listed(self.findings())}", file=sys.stderr, flush=True)
        return self.findings()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self.close(error)


def watch(model: nn.Module | None = None, optimizer: Optimizer | None = None, *, quiet: bool = False) -> Beside:
    """Watches the training that this process does from here on, in any loop, and tells on standard error what is wrong.

    `model` and `optimizer`: those that exist already; what is made later is noticed by itself. `quiet`: tell nothing,
    only collect. Use it in a `with` statement, or call `close()` at the end. Weights come out bit for bit the same.
    """
    return Beside(model, optimizer, quiet=quiet)
