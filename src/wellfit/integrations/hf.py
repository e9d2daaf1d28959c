"""The doctor as a callback of Hugging Face's Trainer.

>>> doctor = DoctorCallback()
>>> Trainer(model, arguments, train_dataset=data, callbacks=[doctor]).train()
>>> [finding.id for finding in doctor.findings]
"""

from typing import Any

from transformers import TrainerCallback

from wellfit.doctor.beside import Beside
from wellfit.doctor.finding import Finding


class DoctorCallback(TrainerCallback):
    """Watches from the beginning of `train()` to its end; what was found is in `findings`, and told on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.findings: list[Finding] = []
        self._doctor: Beside | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control
        self._doctor = Beside(kwargs.get("model"), kwargs.get("optimizer"), quiet=self.quiet)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control, kwargs
        if self._doctor is not None:
            self.findings, self._doctor = self._doctor.close(), None
