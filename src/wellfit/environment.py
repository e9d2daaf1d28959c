"""Where a run took place: versions, hardware, command and code version, kept with the run so that it can be repeated.

Nothing is looked up over a network and nothing leaves the machine.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from wellfit import __version__
from wellfit.addresses import masked
from wellfit.errors import HardwareError

PACKAGES = ("torch", "numpy", "pydantic", "safetensors", "scikit-learn")


def environment() -> dict[str, Any]:
    """Plain data, ready for JSON. Byte counts in bytes, times in seconds since the epoch."""
    return {
        "wellfit": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory_bytes(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "command": masked(shlex.join(sys.argv)),
        "folder": os.getcwd(),
        "code": _commit(),
        "started": time.time(),
    }


def fingerprint_of_code(model: object) -> str:
    """Of the program that runs, of wellfit, and of the file that defines the model: what several ranks must have the same of."""
    files = [Path(sys.argv[0])] if sys.argv and sys.argv[0].endswith(".py") else []
    files += sorted(Path(__file__).parent.rglob("*.py"))
    for kind in type(model).__mro__:
        defined = getattr(sys.modules.get(kind.__module__), "__file__", None)
        if defined:
            files.append(Path(defined))
    digest = hashlib.sha256()
    for file in files:
        with contextlib.suppress(OSError):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def device(asked: str) -> str:
    """The device to use: what was asked for, or the accelerator if there is one (`auto`).

    Raises HardwareError for one that is not here.
    """
    here = available_devices()
    if asked == "auto":
        return here[0]
    kind = asked.split(":")[0]
    if kind in ("cuda", "mps", "xpu", "cpu") and (asked in here or (kind in here and ":" not in asked)):
        return asked
    raise HardwareError(
        f"`hardware.device` is {asked!r}, but this machine offers {', '.join(here)}. "
        "Leave it on `auto` to take the best one that is here"
        + (", or check the driver with `nvidia-smi`." if kind == "cuda" else ".")
    )


def available_devices() -> list[str]:
    """Best first; the CPU is always there."""
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*(["cuda", *cuda] if cuda else []), *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def multiplies_bf16(device: str) -> bool:
    """Whether the device has bf16 arithmetic in hardware; a CPU's is rarely faster than its fp32, so it does not count."""
    return device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)


def memory_bytes() -> int:
    """Main memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def peak_memory_bytes(device: str) -> int:
    """The most that was in use so far: on the accelerator, or by this process on a CPU (its resident set)."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """What this process holds in memory at the moment; 0 where it cannot be read."""
    try:
        with open("/proc/self/statm", encoding="ascii") as told:
            return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def queued_seconds() -> float:
    """How long this thread was ready to run and had to wait for a processor, since it began; 0 where Linux does not tell."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as told:
            return int(told.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def utilization(device: str) -> float | None:
    """How busy the accelerator is, 0 to 1; None where it cannot be read."""
    if not device.startswith("cuda"):
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (ModuleNotFoundError, RuntimeError):  # the driver's Python binding is not installed
        return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            return next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
            )
    except OSError:
        return platform.processor()


def _commit() -> str | None:
    """The commit of the folder the command was run in, with `+changes` if files differ from it."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes.strip() else "")
