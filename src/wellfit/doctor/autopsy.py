"""After something broke: where a loss stopped being finite, and what a program's own error was about.

Both are looked at once. The forward pass is repeated on a copy of the model with hooks of our own, so the program's
model, generators and gradients stay as they are; an error is read from the frames it left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.data.batches import untouched_randomness
from wellfit.doctor import copies
from wellfit.doctor.graph import Graph, kind
from wellfit.doctor.places import outer, shown

LOSS_LIKE = re.compile(r"loss|mse|nll|rmse|mae\b|elbo|err|bce|crit", re.IGNORECASE)


def not_finite(
    inputs: Sequence[Tensor], target: Tensor | None, parameters: Sequence[Tensor], model: nn.Module | None, graph: Graph,
    called: Callable[[Tensor], str], derived: bool = False,
) -> dict[str, str]:  # fmt: skip
    """What came first: "inputs", "targets", "ignored", "weights", "activation" or "loss", where, and why.

    `derived`: the target was not given to a loss, but reckoned from what the graph kept.
    """
    for i, given in enumerate(inputs):
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            share = 1 - float(torch.isfinite(given).float().mean())
            return {"what": "inputs", "where": f"input {i}", "why": f"{share:.2%} of its values are NaN or infinite"}
    made = graph.made_by()
    if target is not None and not (derived and made):
        if target.is_floating_point() and not bool(torch.isfinite(target).all()):
            return {"what": "inputs", "where": "the targets", "why": "they hold NaN or infinity"}
        if not target.is_floating_point() and target.numel() and bool((target == -100).all()):
            return {"what": "ignored", "where": "the targets", "why": "every one of them is -100"}
    for loss in graph.losses:
        try:
            own, ignored = loss.node._saved_target, getattr(loss.node, "_saved_ignore_index", None)
        except (AttributeError, RuntimeError):
            continue
        if isinstance(own, Tensor) and own.is_floating_point() and not bool(torch.isfinite(own).all()):
            return {"what": "inputs", "where": "the targets", "why": "they hold NaN or infinity"}
        if (
            isinstance(own, Tensor)
            and isinstance(ignored, int)
            and not own.is_floating_point()
            and bool((own == ignored).all())
        ):
            return {"what": "ignored", "where": "the targets", "why": f"every one of them is {ignored}"}
    for layer in graph.layers:
        given = layer.inputs
        if (
            layer.first
            and isinstance(given, Tensor)
            and given.is_floating_point()
            and not bool(torch.isfinite(given).all())
        ):
            reader = layer.name or layer.op
            if inputs:  # finite, as was seen above: the model itself made it so on the way to its first layer
                return {"what": "activation", "where": f"the model before {reader}", "why": graph.made_by()}
            return {"what": "inputs", "where": f"what {reader} reads", "why": "it holds NaN or infinity"}
    broken = next((p for p in parameters if not bool(torch.isfinite(p.detach()).all())), None)
    if broken is not None:
        return {"what": "weights", "where": called(broken), "why": "it was not finite any more before this step"}
    named = first_module(model, inputs) if model is not None else ""
    for loss in graph.losses:
        if loss.difference is not None and not named and not made and not bool(torch.isfinite(loss.difference).all()):
            return {
                "what": "inputs",
                "where": "the targets",
                "why": "what the output is compared with is NaN or infinite",
            }
    why = made
    if named:
        return {"what": "activation", "where": named, "why": why}
    return {"what": "loss", "where": kind(graph.loss.grad_fn) if graph.loss.grad_fn is not None else "", "why": why}


def first_module(model: nn.Module, inputs: Sequence[Tensor]) -> str:
    """The first module whose output is not finite though its inputs are, on a copy of the model. Empty if none is."""
    twin = copies.twin(model) if inputs else None
    if twin is None:
        return ""
    found: list[str] = []
    names = {id(module): name for name, module in twin.named_modules()}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        made = output[0] if isinstance(output, tuple) and output else output
        if isinstance(made, Tensor) and made.is_floating_point() and not found and not bool(torch.isfinite(made).all()):
            found.append(f"{names.get(id(module)) or 'the model'} ({type(module).__name__})")

    handles = [module.register_forward_hook(look) for module in twin.modules()]
    try:
        with untouched_randomness(), torch.no_grad():
            twin(*inputs)
    except Exception:  # another way of calling it than with its tensors; nothing is known then
        return ""
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def through_time(graph: Graph, tell: Callable[..., None]) -> None:
    """Hooks on the first and last time step of an unrolled recurrent layer tell how much gradient arrives at each."""
    steps: dict[Any, list[Any]] = {}
    shared = {layer.node: id(layer.weight) for layer in graph.layers if layer.weight is not None}
    for node in graph.nodes:
        if kind(node) not in ("Tanh", "Relu"):
            continue
        below = node
        for _ in range(3):
            below = next((b for b, _ in below.next_functions if b is not None), None)
            if below is None or below in shared:
                break
        if below in shared:
            steps.setdefault(shared[below], []).append(node)
    for chain in steps.values():
        if len(chain) < 8:
            continue
        sizes: dict[str, float] = {}

        def arrived(which: str, sizes: dict[str, float], count: int) -> Callable[[Any, Any], None]:
            def hook(_: Any, gradients: Any) -> None:
                if gradients and isinstance(gradients[0], Tensor):
                    sizes[which] = float(gradients[0].detach().norm())
                if len(sizes) == 2:
                    tell("through-time", "recurrent layer", {**sizes, "steps": float(count)})
                    sizes["told"] = 1.0

            return hook

        chain[0].register_hook(arrived("last", sizes, len(chain)))
        chain[-1].register_hook(arrived("first", sizes, len(chain)))


def crash(error: BaseException) -> dict[str, str] | None:
    """What an error says of the training, or None if it says nothing that the doctor knows."""
    message = str(error)
    frames: list[FrameType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        last = trace
        trace = trace.tb_next
    place = ""
    trace = error.__traceback__
    while trace is not None:
        if outer(trace.tb_frame) is trace.tb_frame:
            place = shown((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    del last
    told = {"place": place, "error": f"{type(error).__name__}: {message.splitlines()[0][:200] if message else ''}"}
    low = message.lower()
    if (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or "can't allocate memory" in low
        or "out of memory" in low
        or "unable to allocate" in low
    ):
        return {"what": "out-of-memory", **told}
    if "more than 1 value per channel" in low:
        return {"what": "one-sample", **told}
    if ("target" in low and "out of bounds" in low) or "class labels" in low or "index out of bounds" in low:
        return {"what": "labels", **told, **_labels(frames)}
    if "index out of range in self" in low:
        found = _ids(frames)
        return {"what": "vocabulary", **told, **found} if found else None
    if "length of all samples has to be greater than 0" in low or ("lengths" in low and "greater than 0" in low):
        return {"what": "empty", **told}
    if "element 0 of tensors does not require grad" in low:
        return {"what": "detached", **told}
    if (
        "all elements of input should be between 0 and 1" in low
        or "all elements of target should be between 0 and 1" in low
    ):
        return {"what": "range", **told}
    return None


def _labels(frames: list[FrameType]) -> dict[str, str]:
    for frame in reversed(frames):
        given, target = frame.f_locals.get("input"), frame.f_locals.get("target")
        if (
            isinstance(given, Tensor)
            and isinstance(target, Tensor)
            and given.ndim > 1
            and not target.is_floating_point()
        ):
            return {"least": str(int(target.min())), "most": str(int(target.max())), "classes": str(given.shape[1])}
    return {}


def _ids(frames: list[FrameType]) -> dict[str, str]:
    """The ids that an embedding has no row for; nothing where they are positions, which a sequence is too long for."""
    for frame in reversed(frames):
        given, weight = frame.f_locals.get("input"), frame.f_locals.get("weight")
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Embedding):
            weight = module.weight
        if not isinstance(given, Tensor) or not isinstance(weight, Tensor) or given.is_floating_point():
            continue
        if not given.numel() or weight.ndim != 2:
            return {}
        last = given.reshape(-1, given.shape[-1])[0] if given.ndim else given.reshape(1)
        if len(last) > 1 and bool((last[1:] - last[:-1] == 1).all()):
            return {}
        beyond = (given < 0) | (given >= len(weight))
        if bool(beyond.any()):
            return {
                "least": str(int(given.min())), "most": str(int(given.max())), "rows": str(len(weight)),
                "beyond": str(int(beyond.sum())), "ids": str(given.numel()),
            }  # fmt: skip
    return {}
