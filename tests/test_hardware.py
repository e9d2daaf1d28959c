"""What is said to be here is here, and the table of GPUs is in order."""

import torch

from wellfit.plan.hardware import GPUS, hardware


def test_what_is_here() -> None:
    devices = hardware()
    assert devices[-1].kind == "cpu"
    assert len(devices) >= 1 + torch.cuda.device_count()
    for device in devices:
        assert device.name
        assert device.memory_bytes > 2**28
        assert device.free_bytes is None or 0 < device.free_bytes <= device.memory_bytes


def test_the_table() -> None:
    by_name = {gpu.name: gpu for gpu in GPUS}
    assert len(by_name) == len(GPUS)
    assert [by_name[name].memory_gb for name in ("GeForce RTX 4090", "A100 80GB SXM", "H200 SXM", "B200")] == [
        24,
        80,
        141,
        192,
    ]
    assert all(gpu.memory_gb > 0 and gpu.bandwidth_gb_s > 100 for gpu in GPUS)
