"""What hardware is here, and what common GPUs have.

>>> [device.name for device in hardware()]
['AMD EPYC']
"""

import difflib
import functools
import re
from dataclasses import dataclass

import torch

from wellfit.environment import environment
from wellfit.errors import HardwareError


@dataclass(frozen=True)
class Device:
    """A processor or accelerator of this machine. Memory in bytes; `free_bytes` is None where it cannot be told."""

    name: str
    kind: str  # "cpu", "cuda", "mps"
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class Gpu:
    """A model of GPU, as its maker's data sheet has it: memory in GB (10^9 bytes), bandwidth in GB/s."""

    name: str
    memory_gb: float
    bandwidth_gb_s: int
    bf16: bool = True  # multiplies bf16 in hardware

    @property
    def bytes(self) -> int:
        """Its memory in bytes."""
        return round(self.memory_gb * 10**9)


GPUS = (
    Gpu("Tesla T4", 16, 320, bf16=False),
    Gpu("Tesla V100 SXM2", 32, 900, bf16=False),
    Gpu("GeForce RTX 3060", 12, 360),
    Gpu("GeForce RTX 3090", 24, 936),
    Gpu("GeForce RTX 4090", 24, 1008),
    Gpu("GeForce RTX 5090", 32, 1792),
    Gpu("A10", 24, 600),
    Gpu("L4", 24, 300),
    Gpu("L40S", 48, 864),
    Gpu("RTX 6000 Ada", 48, 960),
    Gpu("A100 40GB", 40, 1555),
    Gpu("A100 80GB SXM", 80, 2039),
    Gpu("H100 SXM", 80, 3350),
    Gpu("H200 SXM", 141, 4800),
    Gpu("B200", 192, 8000),
    Gpu("Instinct MI300X", 192, 5300),
)


def gpu_called(name: str) -> Gpu:
    """The GPU of the table that is meant: "RTX 4090", "h100", "A100 80GB". Raises HardwareError, with what is near, for none or several."""
    words = name.lower().split()
    found = [gpu for gpu in GPUS if all(word in gpu.name.lower() for word in words)] if words else []
    exact = [gpu for gpu in found if gpu.name.lower() == name.lower() or set(words) <= set(gpu.name.lower().split())]
    chosen = exact or found
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise HardwareError(f"{name!r} may be {' or '.join(gpu.name for gpu in chosen)}; name one of them.")
    series = ("geforce ", "tesla ", "instinct ")  # which few people say
    by_name = {functools.reduce(str.removeprefix, series, gpu.name.lower()): gpu.name for gpu in GPUS}
    near = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.3)
    hint = f" The nearest name is {by_name[near[0]]}." if near else ""
    raise HardwareError(f"{name!r} is not in the table of GPUs.{hint} It has {', '.join(gpu.name for gpu in GPUS)}.")


UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def bytes_called(memory: int | str) -> int:
    """An amount of memory in bytes: 24e9, "24 GB", "800MB", "22.5 GiB". Raises HardwareError for what is none."""
    told = re.fullmatch(r"([0-9.]+(?:E[+-]?[0-9]+)?)\s*([KMGT]I?)?B?", str(memory).strip().upper())
    try:
        amount = round(float(told[1]) * UNITS[told[2] or ""]) if told else 0
    except (ValueError, OverflowError):
        amount = 0
    if amount < 1:
        raise HardwareError(
            f"{memory!r} is no amount of memory; it can be a number of bytes, or such as '24 GB' or '22.5 GiB'."
        )
    return amount


def hardware() -> list[Device]:
    """The devices of this machine, accelerators first."""
    here = environment()
    found = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        found.append(Device(torch.cuda.get_device_name(i), "cuda", total, free))
    if torch.backends.mps.is_available():
        found.append(Device("Apple GPU", "mps", here["memory_bytes"]))
    return [*found, Device(here["processor"], "cpu", here["memory_bytes"], free_memory_bytes())]


def free_memory_bytes() -> int | None:
    """Main memory that programs can still take, where the system tells (Linux)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    except OSError:
        return None
