"""Shared by all tests: one thread, so that timings and bits do not depend on the machine's load, and real data by path."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """Real data sets that lie beside the project and are never part of it; tests that want them skip aloud without."""
    folder = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set WELLFIT_DATA to use it")
    return folder
