"""Mixed precision as verbs: autocast, backward, unscale, step.

The forward and backward pass may run in bf16 or fp16; weights, gradients and updates stay in fp32 (Micikevicius et al.
2018). fp16 cannot represent small gradients, so its loss is multiplied by a scale that torch's `GradScaler` doubles while
all is well and halves on overflow, where the step is skipped. bf16 has fp32's range and needs none of that.

    >>> precision = Precision("bf16", "cpu")
    >>> with precision.autocast(): loss = criterion(model(x), y)
    >>> precision.backward(loss, torch.tensor(1 / 32))
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

from wellfit.optim.optimizers import update

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """`name` is one of `DTYPES`, `device` a device type such as "cpu" or "cuda"."""

    def __init__(self, name: str, device: str):
        self.name, self.device, self.dtype = name, device.split(":")[0], DTYPES[name]
        self.scaling = name == "fp16"
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.scaling)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Around the forward pass and the loss."""
        return torch.autocast(self.device, self.dtype) if self.dtype else contextlib.nullcontext()

    def backward(self, loss: Tensor, weight: Tensor) -> None:
        """Adds the gradient of `loss * weight` (times the loss scale). `loss` and `weight` are scalars.

        The weight is given as the incoming gradient, which is what multiplying by it would make of it, one node less.
        """
        scaled = self.scaler.scale(loss) if self.scaling else loss
        scaled.backward(gradient=weight.to(loss.dtype))  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: Any) -> None:
        """Takes the loss scale out of the gradients, before anything looks at them."""
        if self.scaling:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Any) -> bool:
        """Updates the weights. False if fp16 overflowed and they were left as they are."""
        if not self.scaling:
            update(optimizer)
            return True
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return bool(self.scaler.get_scale() >= before)

    def skip(self) -> None:
        """Leaves a step out: what was unscaled for it is forgotten, and fp16's scale falls if a gradient overflowed."""
        if self.scaling:
            self.scaler.update()

    @property
    def may_overflow(self) -> bool:
        """Whether a gradient beyond all bounds can be the loss scale's doing, which mends itself."""
        return self.scaling and bool(self.scaler.get_scale() > 1)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaling:
            self.scaler.load_state_dict(state)
