"""A checkpoint is whole or not there, every byte is verified, and damage falls back to the one before, by name."""

import json
import os
import subprocess

import pytest
import torch

from wellfit.checkpoint import STATE, WEIGHTS, Checkpoints
from wellfit.errors import CheckpointError

STATES = {"a": {"n": 1, "t": torch.arange(3), "list": [1, (2, 3)], "none": None}}


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 3), float(step)), "view": torch.arange(12.0).reshape(3, 4).T}


def saved(folder, *steps: int, keep: int = 2, best: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, weights(step), STATES, best=step == best)
    checkpoints.wait()
    return checkpoints


def test_what_is_saved_is_read(tmp_path) -> None:
    checkpoint = saved(tmp_path, 3).latest()
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert all(torch.equal(checkpoint.weights[name], value) for name, value in weights(3).items())
    assert torch.equal(checkpoint.state["a"]["t"], STATES["a"]["t"])
    assert checkpoint.state["a"]["list"] == [1, (2, 3)]
    torch.load(tmp_path / "step-00000003" / STATE, weights_only=True)


def test_keeps_the_last_and_the_best(tmp_path) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3, 4, 5, best=2)
    assert checkpoints.names() == ["step-00000005", "step-00000004", "step-00000002"]
    best = checkpoints.best()
    assert best is not None
    assert best.step == 2
    assert (tmp_path / "latest").read_text() == "step-00000005"


def test_a_saved_tensor_is_a_copy(tmp_path) -> None:
    tensor = torch.zeros(1000)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"w": tensor}, {"s": {"t": tensor}})
    tensor.fill_(1)
    checkpoints.wait()
    found = checkpoints.latest()
    assert found is not None
    assert found.weights["w"].sum() == 0
    assert found.state["s"]["t"].sum() == 0


@pytest.mark.parametrize("file", [WEIGHTS, STATE])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "longer"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, file: str, damage: str) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "longer":
        path.write_bytes(content + b"x")
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert "step-00000002" in checkpoints.damaged[0]
    assert file in checkpoints.damaged[0]
    checkpoints.save(2, weights(2), STATES)  # redone over the damaged one
    checkpoints.wait()
    again = Checkpoints(tmp_path).latest()
    assert again is not None
    assert again.step == 2


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"step": "x", "files": {}}', '{"step": 2, "files": {"model.safetensors": 3}}']
)
def test_a_damaged_manifest(tmp_path, content: str) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "manifest.json").write_text(content)
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1


def test_nothing_there(tmp_path) -> None:
    assert Checkpoints(tmp_path / "none").latest() is None
    assert Checkpoints(tmp_path).best() is None


def test_pointers_cannot_lead_out(tmp_path) -> None:
    checkpoints = saved(tmp_path / "run", 1)
    (tmp_path / "step-evil").mkdir()
    (tmp_path / "run" / "best").write_text("step-../../step-evil")
    assert checkpoints.best() is None


def test_no_pickled_code_is_run(tmp_path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    folder = tmp_path / "step-00000002"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"x": Evil()}, folder / STATE)
    content = (folder / STATE).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    manifest["files"][STATE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_keeps_the_last_good_one(tmp_path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        checkpoints = Checkpoints(small, keep=1)
        checkpoints.save(1, {"w": torch.ones(50_000)}, STATES)
        checkpoints.wait()
        checkpoints.save(2, {"w": torch.ones(250_000)}, STATES)
        with pytest.raises(CheckpointError, match=r"step-00000001.*untouched"):
            checkpoints.wait()
        assert checkpoints.names() == ["step-00000001"]
        found = checkpoints.latest()
        assert found is not None
        assert found.step == 1
        checkpoints.save(3, {"w": torch.ones(10)}, STATES)  # there is room for a smaller one
        checkpoints.wait()
        assert checkpoints.names() == ["step-00000003"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_a_kill_left_is_cleaned(tmp_path) -> None:
    checkpoints = saved(tmp_path, 1)
    (tmp_path / ".step-00000002.unfinished").mkdir()
    (tmp_path / ".best.unfinished").write_text("x")
    checkpoints.clean()
    assert not list(tmp_path.glob(".*"))
    assert checkpoints.names() == ["step-00000001"]
