"""FSDP2 as verbs: a model cut over the ranks, its tensors whole again, and a file of shards for each rank.

Rajbhandari et al. 2020 (ZeRO-3), Zhao et al. 2023 (FSDP), with torch's own `fully_shard`: each rank keeps a share of every
weight, gradient and optimizer state, and a block's weights are fetched from the others while it computes. The model does not know.
What a rank holds is written by `torch.distributed.checkpoint` as safetensors, which any number of ranks reads, and nothing in
these files is ever executed. Not here: what a checkpoint is (`checkpoint.py`), when ranks exchange gradients (`distributed.py`).

    >>> if wanted(recipe): shard(model, "cuda", offload=False)
    >>> tensors, rest = apart(model.state_dict())
    >>> write(folder, tensors)
"""

import contextlib
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wellfit.distributed import world
from wellfit.errors import ModelError, RecipeError
from wellfit.models.recompute import blocks
from wellfit.recipe import Recipe

MARK = "_shards"  # what stands in a state where a cut tensor was: {MARK: name, "shape": [...], "dtype": "float32"}


def wanted(recipe: Recipe) -> bool:
    """Whether the model is to be sharded. Raises RecipeError for what does not go with that."""
    hardware = recipe.hardware
    if hardware.offload and hardware.parallel != "fsdp":
        raise RecipeError(
            "`hardware.offload` is on, which is for a model that is cut over ranks. Set `hardware.parallel=fsdp` and start several, or turn it off."
        )
    if world() == 1 or hardware.parallel != "fsdp":
        return False
    fits(recipe, NOT_CUT)
    if recipe.finetune.remember is not None:
        raise RecipeError(
            "`hardware.parallel` is 'fsdp', which does not go with `finetune.remember`. Set one of them to its default."
        )
    return True


Unfit = tuple[str, tuple[Any, ...], str, str]  # a setting, values of it, why they do not fit, and what would


def fits(recipe: Recipe, unfit: Iterable[Unfit]) -> None:
    """Raises RecipeError for the first setting that does not go with `hardware.parallel`."""
    chosen = recipe.flat()
    for path, values, why, instead in unfit:
        if chosen[path] in values:
            raise RecipeError(
                f"`hardware.parallel` is {recipe.hardware.parallel!r}, and `{path}` is {chosen[path]}{why}. Set it to {instead}, or "
                "`hardware.parallel` to ddp."
            )


NOT_CUT: tuple[Unfit, ...] = (
    ("hardware.compile", (True,), ", through which ranks cannot exchange", "false"),
    ("hardware.precision", ("fp16",), ", whose loss scale each rank would find by itself", "bf16"),
    ("hardware.channels_last", (True,), ", and weights are cut in the order of their shape", "false"),
    ("optimizer.kind", ("adafactor", "adamw8bit", "lion8bit"), ", whose state torch does not cut", "adamw"),
    ("finetune.strategy", ("qlora",), ", whose packed weights cannot be cut", "lora"),
)


def shard(model: nn.Module, device: str, offload: bool = False) -> None:
    """Cuts the parameters of `model` over all ranks, in place, and moves them to `device`: block by block, then the rest.

    Every rank begins with rank 0's values. `offload`: what a rank keeps lies in main memory, where the update happens, and goes to
    the accelerator block by block. Raises ModelError for parameters that cannot be cut.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    _refuse(model)
    kind = device.split(":")[0]
    mesh = dist.device_mesh.init_device_mesh(kind, (world(),))
    for tensor in (*model.parameters(), *model.buffers()):
        value = tensor.data.to(kind if kind != "cpu" and dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(value, src=0)
        tensor.data.copy_(value)
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    for part in (*blocks(model), model):
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh, offload_policy=policy)
    for name, buffer in model.named_buffers():
        if buffer.device.type != kind:
            owner = model.get_submodule(name.rpartition(".")[0])
            owner._buffers[name.rpartition(".")[2]] = buffer.to(device)


def _refuse(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        wrong = ""
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            wrong = "has no size before the first batch; give its layer all its sizes"
        elif parameter.ndim == 0:
            wrong = "is a single number, which cannot be cut; give it the shape [1]"
        elif not parameter.is_floating_point():
            wrong = f"holds packed {str(parameter.dtype).removeprefix('torch.')} numbers, which cannot be cut; use `finetune.strategy=lora`"
        if wrong:
            raise ModelError(f"`hardware.parallel` is 'fsdp', but the parameter {name} {wrong}, or set it to 'ddp'.")


def is_sharded(model: nn.Module) -> bool:
    """Whether the model is cut over ranks."""
    return any(is_cut(parameter) for parameter in model.parameters())


def kind_of(module: nn.Module) -> str:
    """The name of a module's class, which is the same whether the module is cut or not."""
    kinds = type(module).__mro__
    if hasattr(module, "set_requires_gradient_sync"):  # torch made a class of FSDPModule and the module's own
        return kinds[2].__qualname__
    return kinds[0].__qualname__


def is_cut(value: object) -> bool:
    """Whether it is a tensor of which each rank has a share. Where torch's module for them is not loaded, there is none."""
    loaded = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(value, loaded.DTensor)


def mesh_of(model: nn.Module) -> Any:
    """The ranks that the model is cut over; None where it is whole."""
    return next((parameter.device_mesh for parameter in model.parameters() if is_cut(parameter)), None)  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the shares of all ranks. All ranks call this."""
    return tensor.full_tensor() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """This rank's share."""
    return tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


@contextlib.contextmanager
def passes(model: nn.Module, alike: bool) -> Iterator[None]:
    """Around passes without gradients, for which all ranks take rank 0's buffers (running statistics), as DDP does.

    Where ranks do not take equally many passes (not `alike`), each holds the whole weights there.
    """
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)
    if not alike:
        for part in parts:
            part.unshard()
            part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            if not alike:
                part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


# ---- what a state holds, cut and whole


def apart(state: Any, name: str = "") -> tuple[dict[str, Tensor], Any]:
    """The cut tensors of a nested state by name, and the state with a mark where each was."""
    if is_cut(state):
        dtype = str(state.dtype).removeprefix("torch.")
        return {name: state.detach()}, {MARK: name, "shape": list(state.shape), "dtype": dtype}
    if isinstance(state, Mapping):
        found: dict[str, Tensor] = {}
        rest = {}
        for key, value in state.items():
            inner, rest[key] = apart(value, f"{name}/{key}" if name else str(key))
            found |= inner
        return found, rest
    if isinstance(state, (list, tuple)):
        found, kept = {}, []
        for i, value in enumerate(state):
            inner, left = apart(value, f"{name}/{i}")
            found |= inner
            kept.append(left)
        return found, type(state)(kept)
    return {}, state


def together(state: Any, folder: Path, mesh: Any = None) -> Any:
    """The nested state with the tensors of `folder` where they are marked: cut over `mesh`, or whole on the CPU.

    With a mesh all ranks call this.
    """
    tensors: dict[str, Tensor] = {}
    _empty(state, mesh, tensors)
    if tensors:
        import torch.distributed.checkpoint as dcp

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process reads what several wrote
            reader = dcp.HuggingFaceStorageReader(str(folder))  # type: ignore[attr-defined]
            dcp.load(tensors, storage_reader=reader, no_dist=mesh is None)  # type: ignore[attr-defined]
    return _filled(state, tensors)


def _empty(state: Any, mesh: Any, tensors: dict[str, Tensor]) -> None:
    if isinstance(state, Mapping):
        if MARK in state:
            dtype = getattr(torch, state["dtype"])
            if mesh is None:
                tensors[state[MARK]] = torch.empty(state["shape"], dtype=dtype)
            else:
                from torch.distributed.tensor import Shard
                from torch.distributed.tensor import empty as cut_empty

                tensors[state[MARK]] = cut_empty(*state["shape"], dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
            return
        state = list(state.values())
    if isinstance(state, (list, tuple)):
        for value in state:
            _empty(value, mesh, tensors)


def _filled(state: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(state, Mapping):
        return tensors[state[MARK]] if MARK in state else {key: _filled(value, tensors) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_filled(value, tensors) for value in state)
    return state


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the cut tensors, each rank what it holds, as safetensors below `folder`. All ranks call this."""
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)  # type: ignore[attr-defined]
    dcp.save(dict(tensors), storage_writer=writer)  # type: ignore[attr-defined]


def placed(weights: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The weights, cut as those of the same names in `like` are. Every rank holds them whole, so nothing is sent."""
    return {name: _cut_as(value, like.get(name)) for name, value in weights.items()}


def placed_state(state: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimizer's state, whose tensors of a parameter's shape are cut as the parameter is."""
    if "first" in state:
        return {half: placed_state(state[half], getattr(optimizer, half)) for half in state}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        i: {name: _cut_as(value, parameters[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    return {**state, "state": kept}


def _cut_as(value: Any, like: Any) -> Any:
    if not is_cut(like) or is_cut(value) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.to_local().device), like.device_mesh, like.placements, src_data_rank=None)
