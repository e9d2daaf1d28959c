"""What is said of the machine is so, and a device that is not here is refused with what is."""

import json
import os

import pytest
import torch

from wellfit import environment as here
from wellfit.errors import HardwareError


def test_the_environment_is_plain_data() -> None:
    found = here.environment()
    assert json.loads(json.dumps(found)) == found
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 2**28


def test_devices() -> None:
    assert here.available_devices()[-1] == "cpu"
    assert here.device("auto") == here.available_devices()[0]
    assert here.device("cpu") == "cpu"
    for wrong in ("cuda:99", "tpu", "", "cpu:0x"):
        with pytest.raises(HardwareError, match="cpu"):
            here.device(wrong)


def test_peak_memory_grows() -> None:
    before = here.peak_memory_bytes("cpu")
    block = torch.ones(80_000_000)
    assert here.peak_memory_bytes("cpu") >= before
    assert here.peak_memory_bytes("cpu") > block.numel() * 4
