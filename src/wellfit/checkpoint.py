"""Checkpoints: atomic, checksummed, written beside the training, and only ever read as data.

    checkpoints/step-00001200/model.safetensors   the weights, and nothing else
                              state.pt            optimizer, data position, random generators; loads with weights_only=True
                              manifest.json       sizes and sha256 of both
                              shards/             in place of the weights, and of the optimizer's tensors, where ranks hold shares
    checkpoints/latest, checkpoints/best          one line each: the name of a folder beside them

A checkpoint is written into a hidden folder, flushed to the disk, and renamed; so a kill at any instant leaves either the
whole of it or none. Reading verifies every byte; a checkpoint that does not match its manifest is named, and the one
before it is used. This file knows nothing of models or loops: it stores tensors by name and a dictionary of plain state.

    >>> checkpoints = Checkpoints(folder, keep=2)
    >>> checkpoints.save(100, model.state_dict(), {"optimizer": optimizer.state_dict()}, best=True)
    >>> checkpoints.wait()
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from wellfit import sharding
from wellfit.distributed import from_first, gathered, rank
from wellfit.errors import CheckpointError
from wellfit.events import Saved

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
SHARDS = "shards"  # the folder of what is cut over ranks
WHOLE = "_weights"  # where state.pt keeps the weights' place then
NO_MORE_TENSORS = "_plain"  # where state.pt keeps what a model's state_dict holds besides tensors


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint, read into memory (on the CPU)."""

    step: int
    weights: dict[str, Any]
    state: dict[str, Any]


class Checkpoints:
    """The `checkpoints` folder of a run. One writer at a time; readers need no lock.

    `keep` latest ones stay, and the best.
    """

    def __init__(self, folder: Path, keep: int = 2, mesh: Any = None):
        self.folder, self.keep, self.mesh = folder, keep, mesh
        self.damaged: list[str] = []  # what reading found, one sentence each
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._saved: list[Saved] = []

    # ---- writing

    def save(
        self,
        step: int,
        weights: Mapping[str, Any],
        state: Mapping[str, Any],
        best: bool = False,
        beside: frozenset[int] = frozenset(),
    ) -> None:
        """Copies everything to the CPU now and writes it in the background. Waits for the save before it, if any.

        `beside`: steps whose checkpoints stay beside this one, whatever `keep` says.

        Raises CheckpointError if that one failed.
        """
        self.wait()
        if self.mesh is not None:
            self._save_shards(step, weights, state, best, beside)
            return
        tensors = {name: _copied(value) for name, value in weights.items() if isinstance(value, Tensor)}
        plain = {name: value for name, value in weights.items() if not isinstance(value, Tensor)}
        everything = {**{name: _copied(value) for name, value in state.items()}, NO_MORE_TENSORS: plain}
        self._thread = threading.Thread(
            target=self._write, args=(step, tensors, everything, best, beside), name="wellfit-save"
        )
        self._thread.start()

    def wait(self) -> None:
        """Waits until what was handed to `save` is on disk.

        Raises CheckpointError if it could not be written; what was saved before is untouched.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise()

    def finished(self) -> list[Saved]:
        """What has reached the disk since the last call, without waiting. Raises CheckpointError like `wait`."""
        self._raise()
        saved = []
        while self._saved:
            saved.append(self._saved.pop(0))
        return saved

    def _raise(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            last = self._pointed("latest")
            raise CheckpointError(
                f"A checkpoint could not be written to {self.folder}: {failure}. "
                + (f"The last good one, {last}, is untouched. " if last else "None was written before it. ")
                + f"Make room or mend the folder, then go on with `wellfit resume {self.folder.parent}`."
            ) from failure

    def _save_shards(
        self, step: int, weights: Mapping[str, Any], state: Mapping[str, Any], best: bool, beside: frozenset[int]
    ) -> None:
        """Writes what is cut over ranks, each rank its shares, and does not return before all of it is on disk."""
        began, first = time.perf_counter(), rank() == 0
        cut, rest = sharding.apart({WHOLE: dict(weights), **state})
        unfinished, wrong = self.folder / f".{_name(step)}.unfinished", ""
        try:
            if first:
                shutil.rmtree(unfinished, ignore_errors=True)
                (unfinished / SHARDS).mkdir(parents=True)
        except OSError as error:
            wrong = str(error)
        self._all_right(wrong)
        try:
            sharding.write(unfinished / SHARDS, cut)
        except Exception as error:  # of a disk, or of another rank's: torch names both
            wrong = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        self._all_right(wrong)
        try:
            if first:
                buffer = io.BytesIO()
                torch.save(_copied(rest), buffer)
                files = {STATE: _written(unfinished / STATE, buffer.getbuffer())}
                for path in sorted((unfinished / SHARDS).iterdir()):
                    files[f"{SHARDS}/{path.name}"] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
                self._complete(step, files, best, beside, began)
        except OSError as error:
            wrong = str(error)
        self._all_right(wrong)

    def _all_right(self, wrong: str) -> None:
        """Raises CheckpointError on every rank where something is wrong on one."""
        said = next(filter(None, gathered(wrong)), "")
        if said:
            self._failure = OSError(said)
            self._raise()

    def _complete(
        self, step: int, files: dict[str, dict[str, Any]], best: bool, beside: frozenset[int], began: float
    ) -> None:
        """Gives what was written its manifest and its name."""
        name = _name(step)
        unfinished, final = self.folder / f".{name}.unfinished", self.folder / name
        manifest = {"step": step, "files": files, "torch": torch.__version__}
        _written(unfinished / MANIFEST, json.dumps(manifest, indent=1).encode())
        _flush_folder(unfinished)
        if final.exists():  # a damaged one, or one that is being redone
            shutil.rmtree(final)
        unfinished.rename(final)
        _flush_folder(self.folder)
        self._point("best", name) if best else None
        self._point("latest", name)
        size = sum(entry["bytes"] for entry in files.values())
        self._saved.append(Saved(step=step, bytes=size, seconds=time.perf_counter() - began, best=best))
        self._prune(beside)

    def _write(
        self, step: int, weights: dict[str, Tensor], state: dict[str, Any], best: bool, beside: frozenset[int]
    ) -> None:
        began = time.perf_counter()
        unfinished = self.folder / f".{_name(step)}.unfinished"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            buffer = io.BytesIO()
            torch.save(state, buffer)
            files = {
                WEIGHTS: _written(unfinished / WEIGHTS, safetensors.torch.save(weights)),
                STATE: _written(unfinished / STATE, buffer.getbuffer()),
            }
            self._complete(step, files, best, beside, began)
        except Exception as error:  # handed to the training thread, which raises it at the next wait()
            self._failure = error
            shutil.rmtree(unfinished, ignore_errors=True)

    def _point(self, pointer: str, name: str) -> None:
        unfinished = self.folder / f".{pointer}.unfinished"
        _written(unfinished, name.encode())
        unfinished.replace(self.folder / pointer)

    def _prune(self, beside: frozenset[int]) -> None:
        kept = {*self.names()[: self.keep], self._pointed("best"), self._pointed("latest"), *map(_name, beside)}
        for name in self.names():
            if name not in kept:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def mark_best(self, step: int | None) -> None:
        """Makes `best` agree with what the restored state says is best (a kill may fall between the two)."""
        name = _name(step) if step is not None else None
        if name is None:
            (self.folder / "best").unlink(missing_ok=True)
        elif (self.folder / name / MANIFEST).exists() and self._pointed("best") != name:
            self._point("best", name)

    def forget_after(self, step: int) -> None:
        """Removes what was saved after `step`, the latest first, so that a kill in between leaves a run that goes on alike."""
        self.wait()
        for name in self.names():
            if name > _name(step):
                gone = self.folder / f".{name}.unfinished"
                (self.folder / name).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
        self._point("latest", _name(step))

    def clean(self) -> None:
        """Removes what a kill left unfinished."""
        for leftover in self.folder.glob(".*.unfinished"):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)

    # ---- reading

    def names(self) -> list[str]:
        """The folders of all checkpoints, latest first."""
        return sorted((path.name for path in self.folder.glob("step-*") if path.is_dir()), reverse=True)

    def latest(self) -> Checkpoint | None:
        """The latest checkpoint whose bytes are right; None if there is none. Damaged ones are named in `damaged`."""
        for name in self.names():
            try:
                return self.read(name)
            except CheckpointError as error:
                self.damaged.append(str(error))
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint that `best` names, if it is there and its bytes are right."""
        name = self._pointed("best")
        try:
            return self.read(name) if name else None
        except CheckpointError as error:
            self.damaged.append(str(error))
            return None

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step. Raises CheckpointError like `read`."""
        return self.read(_name(step))

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of that step, right or not."""
        return (self.folder / _name(step) / MANIFEST).exists()

    def read(self, name: str) -> Checkpoint:
        """One checkpoint by the name of its folder. Raises CheckpointError, naming the file and what is wrong with it."""
        folder = self.folder / name
        manifest = self._manifest(folder)
        if WEIGHTS not in manifest["files"]:
            return self._read_shards(folder, manifest)
        contents = {file: self._verified(folder / file, manifest["files"].get(file)) for file in (WEIGHTS, STATE)}
        try:
            weights: dict[str, Any] = safetensors.torch.load(contents[WEIGHTS])
            state = torch.load(io.BytesIO(contents[STATE]), map_location="cpu", weights_only=True)
        except Exception as error:  # the bytes are as written, so they were written by something else
            raise CheckpointError(f"The checkpoint {folder} cannot be read: {error}.") from error
        return Checkpoint(manifest["step"], weights | state.pop(NO_MORE_TENSORS, {}), state)

    def _read_shards(self, folder: Path, manifest: Mapping[str, Any]) -> Checkpoint:
        """What several ranks wrote: cut over this one's mesh, if it has one, or whole. With a mesh all ranks call this."""
        files, damage = manifest["files"], ""
        try:
            if self.mesh is None or rank() == 0:
                for name in files:
                    self._matches(folder / name, files[name])
        except CheckpointError as error:
            damage = str(error)
        damage = from_first(damage) if self.mesh is not None else damage
        if damage:
            raise CheckpointError(damage)
        try:
            state = torch.load(
                io.BytesIO(self._verified(folder / STATE, files.get(STATE))), map_location="cpu", weights_only=True
            )
            state = sharding.together(state, folder / SHARDS, self.mesh)
        except CheckpointError:
            raise
        except Exception as error:  # the bytes are as written, so they were written by something else
            raise CheckpointError(f"The checkpoint {folder} cannot be read: {error}.") from error
        return Checkpoint(manifest["step"], state.pop(WHOLE), state)

    @staticmethod
    def _matches(path: Path, expected: Mapping[str, Any]) -> None:
        """Raises CheckpointError where a file, which may be larger than memory, is not as it was written."""
        try:
            right = path.stat().st_size == expected.get("bytes") and _digest(path) == expected.get("sha256")
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {path.parent.parent} is damaged: {path.name} cannot be read ({error})."
            ) from None
        if not right:
            raise CheckpointError(
                f"The checkpoint {path.parent.parent} is damaged: {path.name} does not match its size and sha256."
            )

    def _manifest(self, folder: Path) -> dict[str, Any]:
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if isinstance(manifest["step"], int) and isinstance(manifest["files"], dict):
                return dict(manifest)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise CheckpointError(f"The checkpoint {folder} is damaged: its {MANIFEST} is missing or unreadable.")

    @staticmethod
    def _verified(path: Path, expected: Any) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint {path.parent} is damaged: {path.name} cannot be read ({error})."
            ) from None
        if not isinstance(expected, dict) or len(content) != expected.get("bytes"):
            wanted = expected.get("bytes") if isinstance(expected, dict) else "some"
            raise CheckpointError(
                f"The checkpoint {path.parent} is damaged: {path.name} has {len(content)} bytes where {wanted} were written."
            )
        if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
            raise CheckpointError(f"The checkpoint {path.parent} is damaged: {path.name} does not match its sha256.")
        return content

    def _pointed(self, pointer: str) -> str | None:
        try:
            name = (self.folder / pointer).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return name if name.startswith("step-") and "/" not in name and (self.folder / name).is_dir() else None


def _name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def _copied(value: Any) -> Any:
    """A copy on the CPU that later steps cannot reach."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(inner) for inner in value)
    return value


def _written(path: Path, content: bytes | memoryview) -> dict[str, Any]:
    """Writes and flushes to the disk; returns the manifest's entry."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    """Makes renames and new names in the folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
