"""What hardware is here, and what common GPUs have.

>>> [device.name for device in hardware()]
['AMD EPYC']
"""

from dataclasses import dataclass

import torch

from wellfit.environment import environment


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
    memory_gb: int
    bandwidth_gb_s: int
    bf16: bool = True  # multiplies bf16 in hardware


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
