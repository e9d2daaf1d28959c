"""All gradients of a model in one flat buffer, so that clearing, measuring and clipping them is one operation each.

Per-tensor clipping costs a fixed price for every parameter, which on a small network is a third of a step. Here each
parameter's `.grad` is a view into one buffer that the backward pass adds to. Nothing else changes: `.grad` is there for
anyone who looks, and holds what it would hold otherwise.

Two things follow. A parameter that no loss has ever reached keeps `.grad = None` and is left alone by the optimizer, as
in a plain loop. One that was reached once and is not reached in some later step has a zero gradient then (as with
`zero_grad(set_to_none=False)`). Where a flat view is impossible (sparse, sharded or mixed gradients, or a model so
large that the fixed price is invisible) the same verbs fall back on torch's own functions.

    >>> gradients = Gradients(model)
    >>> loss.backward(); norm = gradients.clip(1.0); optimizer.step(); gradients.clear()
"""

from typing import Any

import torch
from torch import Tensor, nn

from wellfit.sharding import whole

LARGEST = 50_000_000  # elements: beyond, the buffer's memory matters and the fixed price does not


class Gradients:
    """The gradients of the trainable parameters of `model`."""

    def __init__(self, model: nn.Module):
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.buffer: Tensor | None = None
        self.reached: list[str] = []  # names whose gradients lie in the buffer, in the order of the model
        self._waiting = list(self.parameters.values())  # not reached by any loss so far

    def clip(self, max_norm: float | None = None, max_value: float | None = None) -> Tensor:
        """Clips all gradients in place and returns the 2-norm they had before, a scalar tensor on the device.

        By value first, each element to +-max_value; then by norm: g <- g * min(1, max_norm / (|g| + 1e-6)), as
        `torch.nn.utils.clip_grad_norm_` does (Pascanu et al. 2013). The norm stays on the device: reading it would wait.
        """
        self._gather()
        if self.buffer is None:
            return self._clip_each(max_norm, max_value)
        norm: Tensor = torch.linalg.vector_norm(self.buffer)
        if max_value is not None:
            self.buffer.clamp_(-max_value, max_value)
        if max_norm is not None:
            now = norm if max_value is None else torch.linalg.vector_norm(self.buffer)
            self._shorten(now, max_norm)
        return norm

    def _shorten(self, norm: Tensor, max_norm: float) -> None:
        assert self.buffer is not None
        if norm.is_cpu:  # to read a number costs nothing here, and mostly there is nothing to do
            factor = max_norm / (norm.item() + 1e-6)
            if not factor >= 1.0:  # NaN must spread, as it does on a device
                self.buffer.mul_(factor)
        else:
            self.buffer.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))

    def clear(self) -> None:
        """Makes the gradients zero, ready for the next step's backward passes."""
        if self.buffer is not None:
            self.buffer.zero_()
        else:
            for parameter in self.parameters.values():
                parameter.grad = None

    def drop(self) -> None:
        """Makes a half-done step undone: zero where a gradient was before it, none where none was."""
        for parameter in self._waiting:
            parameter.grad = None
        self.clear()

    def _gather(self) -> None:
        """Takes gradients that were born outside the buffer into it: all of them once, late ones when they appear."""
        if not any(parameter.grad is not None for parameter in self._waiting):
            return
        born = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        if self._flat_is_possible([self.parameters[name] for name in born]):
            self._lay_out(born)
        else:
            self._let_go()

    def _lay_out(self, names: list[str]) -> None:
        """One buffer for the gradients of these parameters, with what they hold now."""
        chosen = [self.parameters[name] for name in names]
        self.buffer = torch.zeros(sum(p.numel() for p in chosen), dtype=chosen[0].dtype, device=chosen[0].device)
        start = 0
        for parameter in chosen:
            view = self.buffer[start : start + parameter.numel()].as_strided(parameter.shape, in_memory(parameter))
            if parameter.grad is not None:
                view.add_(parameter.grad)
            parameter.grad = view
            start += parameter.numel()
        self.reached = names
        self._waiting = [p for name, p in self.parameters.items() if name not in set(names)]

    def _let_go(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None if parameter.grad is None else parameter.grad.clone()
        self.buffer, self.reached, self._waiting = None, [], []

    @staticmethod
    def _flat_is_possible(parameters: list[nn.Parameter]) -> bool:
        kinds = {
            (type(p.grad), p.dtype, p.device, p.layout, p.grad.layout if p.grad is not None else None)
            for p in parameters
        }
        dense = all(type(p.grad) is Tensor and p.grad.layout is torch.strided for p in parameters)
        return len(kinds) == 1 and dense and sum(p.numel() for p in parameters) <= LARGEST

    def _clip_each(self, max_norm: float | None, max_value: float | None) -> Tensor:
        reached = [p for p in self.parameters.values() if p.grad is not None]
        norm = _norm(reached)
        if max_value is not None:
            nn.utils.clip_grad_value_(reached, max_value)
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(reached, max_norm, norm if max_value is None else _norm(reached))
        return norm

    def state_dict(self) -> dict[str, Any]:
        return {"reached": list(self.reached)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["reached"] == self.reached:
            self.drop()
            return
        for parameter in self.parameters.values():
            parameter.grad = None
        self.buffer, self.reached, self._waiting = None, [], list(self.parameters.values())
        if state["reached"]:
            self._lay_out([name for name in state["reached"] if name in self.parameters])


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    """The 2-norm of all their gradients, over all ranks where they are cut."""
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def in_memory(parameter: Tensor) -> tuple[int, ...]:
    """The strides of what is laid out like a parameter, as the state of torch's optimizers is.

    Kernels of convolutions may be in another order than their shape says (channels last), and torch's fused optimizers go through
    parameter, gradient and state in the order of memory, without looking at strides on a CPU.
    """
    return torch.empty_like(parameter, device="meta").stride()
