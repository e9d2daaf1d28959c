"""A fingerprint is of content, shape and type; of nothing else."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from wellfit.data.fingerprint import fingerprint


def test_the_recipe_of_it_is_fixed() -> None:
    """Written out by hand: recorded fingerprints must be found again by later versions."""
    tensor = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int64)
    content = b"torch.int64 (2, 3);" + np.array([1, 2, 3, 4, 5, 6], dtype="<i8").tobytes()
    assert fingerprint(tensor) == hashlib.sha256(content).hexdigest()[:16]
    assert fingerprint(torch.zeros(2, 3)) == "749d147aa53cfe40"  # as the module says


def test_other_processes_agree() -> None:
    code = "import torch; from wellfit.data.fingerprint import fingerprint; print(fingerprint(torch.arange(9)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == fingerprint(torch.arange(9))


def test_memory_layout_does_not_count() -> None:
    x = torch.arange(12.0).reshape(3, 4)
    assert fingerprint(x.t().contiguous().t()) == fingerprint(x)
    assert fingerprint(torch.arange(24.0)[::2].reshape(3, 4) / 2) == fingerprint(x)
    assert fingerprint(x.clone().requires_grad_()) == fingerprint(x)


@pytest.mark.parametrize(
    "other",
    [
        torch.arange(12.0).reshape(4, 3),
        torch.arange(12.0).reshape(3, 4).double(),
        torch.arange(12.0).reshape(3, 4).flip(0),
        torch.nextafter(torch.arange(12.0).reshape(3, 4), torch.tensor(99.0)),
    ],
    ids=["shape", "type", "order", "one bit each"],
)
def test_content_does(other) -> None:
    assert fingerprint(other) != fingerprint(torch.arange(12.0).reshape(3, 4))


def test_several_tensors() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor([3])
    assert fingerprint(a, b) != fingerprint(b, a)
    assert fingerprint(a, b) != fingerprint(torch.tensor([1, 2, 3]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.bfloat16, torch.float16, torch.uint8, torch.complex64])
def test_every_type_and_none(dtype) -> None:
    found = {
        fingerprint(torch.ones(3).to(dtype)),
        fingerprint(torch.tensor(1).to(dtype)),
        fingerprint(torch.empty(0).to(dtype)),
    }
    assert len(found) == 3
