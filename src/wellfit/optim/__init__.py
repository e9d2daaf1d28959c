"""How weights follow gradients: parameter groups, update rules, the learning rate over time, gradients in one buffer.

>>> optimizer = build(model, settings)
>>> for group in optimizer.param_groups:
...     group["lr"] = group["peak"] * share(step, total, schedule)
"""

from wellfit.optim.groups import assert_complete, parameter_groups
from wellfit.optim.lion import Lion
from wellfit.optim.optimizers import Pair, build, scaled, state_bytes, update
from wellfit.optim.schedules import share

__all__ = ["Lion", "Pair", "assert_complete", "build", "parameter_groups", "scaled", "share", "state_bytes", "update"]
