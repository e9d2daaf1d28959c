"""One command, many processes: `wellfit train --gpus N` is `torchrun --standalone --nproc-per-node N -m wellfit train`.

torch's own launcher starts the processes, gives them their ranks, ends the others when one is lost, and starts all of them again
as often as it may. What it tells of a loss is put into a sentence here.
"""

import logging
import os
import signal
import sys
import uuid
from typing import Any

from wellfit.errors import HardwareError, RankError, RecipeError

OWN = {"--gpus": 1, "--restarts": 1}  # options of this launcher, and how many words each takes


def started(ways: int, restarts: int) -> None:
    """Runs this very command in `ways` processes, and leaves with their status.

    Raises HardwareError where the machine has too few GPUs, and RankError where a process was lost.
    """
    if ways < 1 or restarts < 0:
        raise RecipeError(f"`--gpus` is {ways} and `--restarts` {restarts}; they can be from 1 and from 0 upwards.")
    words = without(sys.argv[1:])
    _refuse(ways, words)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ways)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=ways, run_id=f"wellfit-{uuid.uuid4().hex[:12]}", rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=restarts, monitor_interval=0.1, start_method="spawn",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "wellfit", *words)
    except ChildFailedError as error:
        _told(error.failures, restarts)


def without(words: list[str]) -> list[str]:
    """The command's words without this launcher's own options."""
    kept, skipped = [], 0
    for word in words:
        if skipped:
            skipped -= 1
        elif word in OWN:
            skipped = OWN[word]
        elif not word.startswith(tuple(f"{option}=" for option in OWN)):
            kept.append(word)
    return kept


def _refuse(ways: int, words: list[str]) -> None:
    import torch

    if "RANK" in os.environ:
        raise RecipeError(
            "`--gpus` starts processes by itself, and torchrun has started this one already. Leave one of them out."
        )
    if "--cure" in words:
        raise RecipeError("`--cure` takes one process. Train first, then `wellfit cure RUN`.")
    count = torch.cuda.device_count()
    if ways > count and "hardware.device=cpu" not in words:
        raise HardwareError(
            f"`--gpus` is {ways}, and this machine has {count}. Ask for at most that many, or train that many processes on the CPU with "
            "`--set hardware.device=cpu`."
        )


def _told(failures: dict[int, Any], restarts: int) -> None:
    """Leaves as the ranks did. One that a signal ended has said nothing, so that is said here."""
    first = min(failures.values(), key=lambda failure: failure.timestamp)
    if first.exitcode >= 0:
        sys.exit(first.exitcode)
    name, rank = signal.Signals(-first.exitcode).name, next(r for r, f in failures.items() if f is first)
    again = f", {restarts} restart{'' if restarts == 1 else 's'} included" if restarts else ""
    why = " (the machine may have run out of memory)" if name == "SIGKILL" else ""
    raise RankError(
        f"Rank {rank} (process {first.pid}) was ended by {name}{why}{again}. What was saved is untouched: "
        "`wellfit resume RUN --gpus N` goes on with it, and `--restarts N` starts lost processes again by itself."
    )
