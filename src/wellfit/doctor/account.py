"""What the watch keeps account of: outermost modules, their calls, backward passes, and each optimizer's steps.

Plain records. Tensors in them belong to the program and are let go after the step they are of.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from wellfit.doctor.graph import Graph
from wellfit.doctor.late import Late
from wellfit.doctor.slots import Slots
from wellfit.events import Vitals


@dataclass(eq=False)
class Root:
    """An outermost module that a program calls."""

    module: weakref.ref[nn.Module]
    name: str
    switches: list[nn.Module]
    training_keys: set[Any] = field(default_factory=set)
    feeds: bool = False  # its output goes into another one: a generator, an encoder
    trained: bool = False
    drops: bool = False  # it calls `F.dropout` in training mode, which no part of it shows
    bare: bool = False  # without parameters: a loss, an activation
    pulls: dict[bool, list[float]] = field(default_factory=dict)  # in a game, which way its answers are pulled
    fed_with: str = ""  # the last operation of what feeds it, where its range is bounded
    real: tuple[float, float, float] | None = None  # min, max and std of what else it is given


@dataclass(eq=False)
class Call:
    """One call of a root."""

    root: Root
    key: tuple[tuple[str, int], ...]
    grad: bool
    inputs: list[Tensor]
    training: bool  # the mode of the module
    mixing: bool  # dropout or batch norm in training mode
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    made: list[Tensor] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)  # what made each output
    learned: bool = False  # a backward pass went through it
    kept: bool = False  # one did not, and it waits for another one
    feeder: Root | None = None  # whose output it was given


@dataclass(frozen=True)
class Head:
    """A layer whose output the loss is given."""

    module: weakref.ref[nn.Module]


@dataclass
class Backward:
    """One backward pass."""

    place: str
    value: float | Tensor
    graph: Graph | None
    facts: list[Vitals] = field(default_factory=list)
    reached: list[Tensor] = field(default_factory=list)  # the parameters behind the loss
    passed: set[int] = field(
        default_factory=set
    )  # ids of all parameters, frozen ones too, of the modules it went through
    roots: list[Root] = field(default_factory=list)  # the outermost modules it went through
    heads: list[Head] = field(default_factory=list)
    unstable: str = ""  # an operation whose slope is infinite where it was used
    divided: bool = True
    inside: bool = False  # of `step(closure)`


class Training:
    """What one optimizer (or one loop that updates by hand) did."""

    def __init__(self, name: str, parameters: list[Tensor], optimizer: Optimizer | None, place: str):
        self.name, self.place = name, place
        self.optimizer = weakref.ref(optimizer) if optimizer is not None else None
        self.by_hand = optimizer is None
        self.parameters = parameters
        self.ids = {id(p) for p in parameters}
        self.step = 0
        self.next_look = 1
        self.pending: list[Backward] = []
        self.backwards = 0
        self.before: list[tuple[int, Tensor]] = []
        self.grad_norms: list[float] = []
        self.grads: dict[int, Tensor] = {}  # by position, of a step that is looked at
        self.anchor: dict[int, Tensor] = {}  # a few small weights as they were when first looked at
        self.last_place = ""
        self.own_places: set[str] = set()  # of backward passes that reach its parameters
        self.touches: set[str] = set()  # names of other optimizers' trainings whose parameters they reach too
        self.reached: set[int] = set()
        self.without: Counter[int] = Counter()  # positions of parameters without a gradient
        self.windows: Counter[int] = Counter()
        self.measured = False  # a classical model was tried on its samples
        self.slots = Slots()
        self.tuning: Any = None  # of the models that it trains (`tuning.py`), from the first look on
        self.scheduler: Any = None
        self.keras: Any = None  # a weak reference to Keras' own optimizer, which is none of torch's
        self.clipped: deque[float] = deque(maxlen=256)
        self.stepped_at = 0.0
        self.stepped_total = 0  # steps of all trainings at its last one
        self.late = Late()
        self.level = self.swing = 0.0  # about what the loss is, and how far from it a step's is

    def rate(self) -> float:
        """The learning rate of the first group."""
        optimizer = self.optimizer() if self.optimizer is not None else None
        if optimizer is None:
            keras = self.keras() if self.keras is not None else None
            return float(keras.learning_rate) if keras is not None else math.nan
        groups = optimizer.param_groups
        if len(groups) == 1:
            return float(groups[0].get("lr", math.nan))
        return max((float(group.get("lr", math.nan)) for group in groups), default=math.nan)

    def own(self, backs: list[Backward]) -> list[Backward]:
        """Those of the backward passes that reach its parameters, as far as was ever looked at."""
        for back in backs:
            if any(id(p) in self.ids for p in back.reached):
                self.own_places.add(back.place)
        mine = [b for b in backs if b.place in self.own_places]
        return mine or backs

    def let_go(self) -> None:
        """Keeps no weights of an optimizer that is gone: of an earlier fold, an earlier phase."""
        if self.optimizer is not None and self.optimizer() is None:
            self.parameters, self.before, self.slots, self.tuning = [], [], Slots(), None
            self.ids, self.reached, self.anchor, self.grads = set(), set(), {}, {}

    def refresh(self) -> None:
        """Takes up parameters that were added to the optimizer later."""
        optimizer = self.optimizer() if self.optimizer is not None else None
        if optimizer is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if isinstance(p, Tensor)]
            if len(parameters) != len(self.parameters):
                self.parameters, self.ids = parameters, {id(p) for p in parameters}
