"""`wellfit ...` as in a shell, from a process that has the libraries loaded already, which saves each command some seconds.

The process that runs a command is forked from one that has imported wellfit and done nothing with it. Whether a bare interpreter
gets as far is tested by the README, which starts each verb once from one, and by all ranks.
"""

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

LOADED = [
    "wellfit.api", "wellfit.cli", "wellfit.doctor.doctor", "wellfit.doctor.probe", "wellfit.doctor.watch", "wellfit.report",
    "wellfit.plan.trace", "wellfit.trials.treatment", "sklearn.ensemble", "sklearn.linear_model", "sklearn.model_selection",
    "matplotlib.pyplot", "torch.fx.experimental.symbolic_shapes",
]  # fmt: skip
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(LOADED)


class Started:
    """A command that was started in a folder, with one thread, and warnings as errors if `strict`. Its verbs are those of `subprocess.Popen`."""

    def __init__(self, *words: object, folder: Path | str | None = None, strict: bool = True):
        self.command, self._place = [str(word) for word in words], tempfile.mkdtemp()
        place, environment = self._place, dict(os.environ)
        for name in ("out", "err"):
            Path(place, name).touch()
        self._process = forks.Process(
            target=_turn, args=(self.command, str(folder or Path.cwd()), place, environment, strict)
        )  # fmt: skip
        self._process.start()
        self.pid: int = self._process.pid or 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self.returncode = self._process.exitcode
        return self.returncode

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 280) -> tuple[str, str]:
        """What it said, at its end. Raises TimeoutExpired, and ends it, where that does not come."""
        self._process.join(timeout)
        late = self._process.is_alive()
        if late:
            self.kill()
            self._process.join()
        self.poll()
        said = tuple(Path(self._place, name).read_text(encoding="utf-8") for name in ("out", "err"))
        self._process.close()
        shutil.rmtree(self._place)
        if late:
            raise subprocess.TimeoutExpired(self.command, timeout, *said)
        return said


def wellfit(
    *words: object, folder: Path | str | None = None, timeout: float = 280, strict: bool = True
) -> subprocess.CompletedProcess:
    """A command, to its end."""
    started = Started(*words, folder=folder, strict=strict)
    out, err = started.communicate(timeout)
    return subprocess.CompletedProcess(started.command, started.returncode, out, err)


def ranks(ways: int, what: Callable[..., object], *args: object) -> None:
    """`what(rank, *args)` in so many processes, all to their end."""
    processes = [forks.Process(target=what, args=(rank, *args)) for rank in range(ways)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ways


def _turn(command: list[str], folder: str, place: str, environment: dict[str, str], strict: bool) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(place, name), os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="1", **({"PYTHONWARNINGS": "error"} if strict else {}))
    os.chdir(folder)
    if strict:
        warnings.simplefilter("error")
    sys.argv = ["wellfit", *command]

    import torch

    from wellfit.cli import main

    torch.set_num_threads(1)
    main()
