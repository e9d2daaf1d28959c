"""The few errors a user can meet.

Every one says what was received, what is allowed and what to do, in one paragraph. The command line prints that
paragraph and leaves with the class's `status`, without a traceback; a library caller catches `WellfitError` and
finds the same text in `str(error)`. Our own mistakes are assertions and are never dressed up as one of these.

    >>> raise RecipeError("`epochs` is 0; it must be at least 1.")
"""


class WellfitError(Exception):
    """Anything that a user can mend. `status` is the exit status of the command line; `told`, whether another rank says it."""

    status = 2
    told = False


class RecipeError(WellfitError, ValueError):
    """A recipe that cannot be: an unknown key, a value out of range, choices that contradict each other."""


class DataError(WellfitError, ValueError):
    """Data that cannot be read or does not fit the task."""


class ModelError(WellfitError, ValueError):
    """A model, or its output, that does not fit the data or the loss."""


class CheckpointError(WellfitError, RuntimeError):
    """A checkpoint that is damaged, missing, or belongs to something else."""


class RunError(WellfitError, RuntimeError):
    """A run folder that cannot be made, written, read or continued."""


class HardwareError(WellfitError, RuntimeError):
    """A device, precision or compiler that was asked for and is not there."""


class RankError(WellfitError, RuntimeError):
    """Ranks that did not meet, lost each other, or do not train the same. Not mended by the same call: status 1."""

    status = 1


class OutOfMemory(WellfitError, MemoryError):
    """Memory ran out, of the accelerator or of the machine."""


class MissingExtra(WellfitError, ImportError):
    """A feature that needs a package outside the core."""

    def __init__(self, package: str, extra: str, what: str):
        super().__init__(
            f"{what} needs the package `{package}`, which is not installed here. "
            f"Install it with `pip install 'wellfit[{extra}]'`."
        )


class ScriptError(WellfitError, ValueError):
    """A program that was to be watched is not there."""


class TrackerError(WellfitError, RuntimeError):
    """A tracker that cannot be reached, or does not take what it is told. It never ends a training: status 1."""

    status = 1
