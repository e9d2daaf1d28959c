"""The doctor as a callback of Lightning's Trainer.

>>> doctor = DoctorCallback()
>>> lightning.Trainer(callbacks=[doctor]).fit(module, loader)
>>> [finding.id for finding in doctor.findings]
"""

from typing import Any

from lightning.pytorch.callbacks import Callback

from wellfit.doctor.beside import Beside
from wellfit.doctor.finding import Finding


class DoctorCallback(Callback):
    """Watches from the beginning of `fit()` to its end, also where it ends with an error; `findings` holds what was found."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__()
        self.quiet = quiet
        self.findings: list[Finding] = []
        self._doctor: Beside | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        optimizers = list(trainer.optimizers)
        self._doctor = Beside(pl_module, optimizers[0] if optimizers else None, quiet=self.quiet)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        del trainer, pl_module
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        del trainer, pl_module
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        if self._doctor is not None:
            self.findings, self._doctor = self._doctor.close(error), None
