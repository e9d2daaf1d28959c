"""Lion: every weight moves by the same amount, in the direction of the sign of an interpolated momentum.

Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2. It keeps one number per weight where
Adam keeps two. As each step has full size, it wants a learning rate three to ten times below AdamW's and a weight decay
higher by as much. Not here: sparse or complex gradients.

    >>> optimizer = Lion(model.parameters(), lr=1e-4, weight_decay=0.1)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """`betas`: of the update's interpolation, of the momentum. `weight_decay` is decoupled: w loses lr x decay x w."""

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                _update(weights, [self._momentum(weight) for weight in weights], group)
        return loss

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def _update(weights: list[Tensor], momenta: list[Tensor], group: dict[str, Any]) -> None:
    rate, (beta1, beta2) = group["lr"], group["betas"]
    gradients = [weight.grad for weight in weights if weight.grad is not None]  # all of them
    directions = torch._foreach_lerp(momenta, gradients, 1 - beta1)
    torch._foreach_sign_(directions)
    if group["weight_decay"]:
        torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
    torch._foreach_add_(weights, directions, alpha=-rate)
    torch._foreach_lerp_(momenta, gradients, 1 - beta2)
