"""The classical models beside a network on tables: found once for the same rows, and never kept for others."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from wellfit import kept
from wellfit.data.arrays import Arrays, Loaded
from wellfit.tasks import baseline
from wellfit.tasks.baseline import baselines


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(baseline, "TREES", {"learning_rate": [0.1]})
    return tmp_path / "wellfit"


def table(seed: int = 0) -> Loaded:
    rng = torch.Generator().manual_seed(seed)
    inputs = torch.randn(60, 3, generator=rng)
    targets = (inputs[:, 0] > 0).long()
    train, test = Arrays(inputs[:40], targets[:40]), Arrays(inputs[40:], targets[40:])
    return Loaded("tabular-classification", "rows", train, None, test, "x", ("a", "b"), ("x", "y", "z"))


def test_they_are_found_once_for_the_same_rows(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = baselines(table())
    assert {one.name for one in first} == {"logistic regression", "gradient boosting"}
    assert min(one.scores["accuracy"] for one in first) > 0.7
    assert len(list(cache.iterdir())) == 1
    threads = torch.get_num_threads()
    with monkeypatch.context() as patched:
        patched.setattr(baseline, "_classifiers", lambda _: pytest.fail("learnt again"))
        assert baselines(table()) == first
    baselines(table(seed=1))
    one_less = dataclasses.replace(table(), test=Arrays(table().test.inputs[:-1], table().test.targets[:-1]))
    baselines(one_less)
    assert len(list(cache.iterdir())) == 3
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("torn", [b"", b"[{", b"3", b'[{"name": 1}]', b'[{"name": "x", "scores": {"loss": "y"}}]'])
def test_what_is_torn_is_made_anew(cache: Path, torn: bytes) -> None:
    first = baselines(table())
    (file,) = cache.iterdir()
    file.write_bytes(torn)
    assert baselines(table()) == first
    assert json.loads(file.read_bytes())[0]["name"] == "logistic regression"


def test_where_nothing_can_be_kept_they_are_learnt_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert baselines(table()) == baselines(table())
    assert kept.recalled("anything") is None
