"""The doctor as a callback of Keras 3 on the torch backend.

    >>> doctor = DoctorCallback()
    >>> model.fit(x, y, callbacks=[doctor])
    >>> [finding.id for finding in doctor.findings]

On another backend there is nothing of torch to watch; that is said, and the training goes on.
"""

import sys
from typing import Any

import keras

from wellfit.doctor.beside import Beside
from wellfit.doctor.finding import Finding


class DoctorCallback(keras.callbacks.Callback):
    """Watches from the beginning of `fit()` to its end; `findings` holds what was found."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__()
        self.quiet = quiet
        self.findings: list[Finding] = []
        self._doctor: Beside | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        if keras.backend.backend() != "torch":
            print(
                f"wellfit: Keras runs on {keras.backend.backend()}, and the doctor sees torch alone.", file=sys.stderr
            )
            return
        self._doctor = Beside(self.model, quiet=self.quiet)

    def on_train_end(self, logs: Any = None) -> None:
        del logs
        if self._doctor is not None:
            self.findings, self._doctor = self._doctor.close(), None
