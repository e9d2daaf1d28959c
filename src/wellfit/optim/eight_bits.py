"""AdamW and Lion with averages of eight bits, a quarter of the memory, by bitsandbytes (Dettmers et al. 2022, "8-bit Optimizers").

Each block of 256 numbers of an average is divided by its largest, and the rest is one of 256 numbers that lie the closer the smaller
they are. What has fewer than 4,096 numbers keeps averages of 32 bits, and so do embeddings, whose gradients are of very different sizes
(section 2.3 of the paper; transformers' Trainer does the same). Weights, gradients and the arithmetic of the update stay as they are.

bitsandbytes and not torchao: both are kept well and run on a CPU too, but bitsandbytes' averages are plain tensors, which a checkpoint
gives back wherever torch is, and its step needs no compiler. Its "paged" kinds are left out: what they page to does not come back as such
from a checkpoint.

    >>> optimizer = eight_bits("adamw8bit", groups, betas=(0.9, 0.999), eps=1e-8)
"""

import copy
import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.errors import HardwareError, MissingExtra, ModelError, RecipeError

BLOCK, SMALLEST = 256, 4096  # numbers; bitsandbytes' blocksize, and its min_8bit_size
CLASSES = {"adamw8bit": "AdamW8bit", "lion8bit": "Lion8bit"}
AVERAGES = {"adamw8bit": 2, "lion8bit": 1}


def eight_bits(kind: str, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """bitsandbytes' optimizer of that kind over the groups, whose members are (name, parameter).

    Raises MissingExtra without bitsandbytes, HardwareError where it does not run, ModelError and RecipeError for parameters that it
    does not take.
    """
    for name, parameter in (member for group in groups for member in group["params"]):
        if type(parameter.data) is not Tensor:
            raise RecipeError(
                f"`optimizer.kind` is {kind!r}, which takes whole tensors, and {name!r} is a {type(parameter.data).__name__}, "
                f"a part of one. Use {kind.removesuffix('8bit')}, or train without sharding."
            )
        if parameter.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            told = str(parameter.dtype).removeprefix("torch.")
            raise ModelError(
                f"`optimizer.kind` is {kind!r}, which takes floats of 32 and 16 bits, and {name!r} is {told}."
            )
        if not parameter.is_contiguous():
            raise RecipeError(
                f"`optimizer.kind` is {kind!r}, which takes tensors that lie in memory in the order of their shape, and {name!r} does not. "
                "Set `hardware.channels_last=false`, and pass the model in torch's usual order."
            )
    device = next(str(parameter.device) for group in groups for _, parameter in group["params"])
    _runs(kind, device)
    made: torch.optim.Optimizer = _optimizer(kind)(groups, **settings)
    return made


def state_of_eight_bits(kind: str, numbers: int) -> int:
    """Bytes that it keeps beside a parameter of so many numbers, the maps from codes to numbers left out, which all share."""
    each = 4 * numbers if numbers < SMALLEST else numbers + 4 * -(-numbers // BLOCK)
    return AVERAGES[kind] * each


@functools.cache
def _optimizer(kind: str) -> Any:
    """bitsandbytes' class, whose copies know how to step: by itself it forgets half of what it is when it is copied."""
    theirs = getattr(_bitsandbytes(kind), CLASSES[kind])

    def copied(self: Any, memo: dict[int, Any]) -> Any:
        twin = memo[id(self)] = theirs.__new__(type(self))
        vars(twin).update(vars(self))
        twin.state, twin.param_groups = copy.deepcopy((self.state, self.param_groups), memo)
        return twin

    return type(theirs.__name__, (theirs,), {"__deepcopy__": copied})


@functools.cache
def _runs(kind: str, device: str) -> None:
    """One step of a small parameter, because what is installed may not have a kernel for this device."""
    chosen = getattr(_bitsandbytes(kind), CLASSES[kind])
    parameter = nn.Parameter(torch.zeros(SMALLEST, device=device))
    parameter.grad = torch.ones_like(parameter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what it falls back on is not what was asked for
            chosen([parameter]).step()
    except Exception as error:  # of a compiled part, which may fail in any way
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise HardwareError(
            f"`optimizer.kind` is {kind!r}, and the bitsandbytes that is installed does not run it on {device} ({said}). "
            f"Use {kind.removesuffix('8bit')}, or adafactor, which keeps less."
        ) from None


def _bitsandbytes(kind: str) -> Any:
    try:
        import bitsandbytes.optim
    except ImportError:
        raise MissingExtra("bitsandbytes", "quantized", f"`optimizer.kind={kind}`") from None
    except Exception as error:  # its compiled part may not fit the machine
        raise HardwareError(
            f"bitsandbytes is installed and cannot be used here: {str(error).strip().splitlines()[0][:200]}. Use "
            f"`optimizer.kind={kind.removesuffix('8bit')}`."
        ) from None
    return bitsandbytes.optim
