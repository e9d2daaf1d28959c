"""The outermost modules that a program calls, and what its parameters are called.

Modules are held weakly; a parameter is known by its place in a module, or by the variable that holds it.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator

from torch import Tensor, nn

from wellfit.doctor import facts, measure, places
from wellfit.doctor.account import Root
from wellfit.doctor.graph import Graph

ROOTS = 512  # after so many, those that are gone are forgotten
GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}  # blocks of a weight, each of units of its own kind
FRAMES = 3  # of the program, in whose variables bare tensors are looked for


class Roots:
    """All roots of one program, and the names of the parameters in them."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}  # id(parameter) -> name
        self.embeddings: set[int] = set()  # ids of the parameters of embeddings
        self.gates: dict[int, int] = {}  # id(parameter) -> blocks of a recurrent layer's weight
        self._roots: dict[int, Root] = {}
        self._living: dict[int, weakref.ref[Tensor]] = {}  # of the parameters of modules
        self._used: dict[str, int] = {}  # name -> id(parameter)
        self._namesakes: Counter[str] = Counter()  # models of a class whose names were taken

    def of(self, module: nn.Module) -> Root:
        """The root of a module, taken up if it is new."""
        root = self._roots.get(id(module))
        return root if root is not None and root.module() is module else self._add(module)

    def living(self) -> Iterator[nn.Module]:
        """The modules that are still there."""
        for root in list(self._roots.values()):
            module = root.module()
            if module is not None:
                yield module

    def learn(self, graph: Graph) -> None:
        """Names the parameters of a graph that are not known yet."""
        if all(id(p) in self.names for p in graph.parameters):
            return
        self._roots = {key: root for key, root in self._roots.items() if root.module() is not None}
        for module in self.living():
            self._name(module)
        frame = places.outer(sys._getframe(1))
        for _ in range(FRAMES):
            if frame is None:
                break
            for name, value in [*frame.f_locals.items(), *(frame.f_globals.items() if frame.f_back is None else ())]:
                if isinstance(value, Tensor) and value.is_leaf:
                    self.names.setdefault(id(value), name)
            frame = places.outer(frame.f_back)
        for leaf in graph.parameters:
            self.names.setdefault(id(leaf), f"parameter {list(leaf.shape)}")

    def called(self, p: Tensor) -> str:
        """The name of a parameter, or its shape."""
        return self.names.get(id(p)) or f"parameter {list(p.shape)}"

    def _add(self, module: nn.Module) -> Root:
        inner = getattr(module, "_orig_mod", module)  # what torch.compile wraps
        root = Root(weakref.ref(module), type(inner).__name__, measure.switches(inner) if facts.small(inner) else [])
        root.bare = next(inner.parameters(), None) is None
        self._name(inner)
        self.embeddings |= {id(m.weight) for m in inner.modules() if isinstance(m, nn.Embedding)}
        self.gates |= {
            id(p): GATES[type(m)] for m in inner.modules() if type(m) in GATES for p in m.parameters(recurse=False)
        }
        if len(self._roots) > ROOTS:
            self._roots = {key: r for key, r in self._roots.items() if r.module() is not None}
        self._roots[id(module)] = root
        return root

    def _name(self, module: nn.Module) -> None:
        """Names a module's new parameters; where another model has ones of these names, with that of its class before them."""
        own = {name: p for name, p in module.named_parameters() if not self._lives(id(p), p)}
        prefix, kind = "", type(module).__name__
        while any(self._lives(self._used.get(prefix + name, 0)) for name in own):
            self._namesakes[kind] += 1
            prefix = f"{kind}{self._namesakes[kind] if self._namesakes[kind] > 1 else ''}."
        for name, p in own.items():
            self.names[id(p)] = prefix + name
            self._used[prefix + name], self._living[id(p)] = id(p), weakref.ref(p)

    def _lives(self, key: int, p: Tensor | None = None) -> bool:
        """Whether the parameter that was named under this id is still there, and is `p`."""
        reference = self._living.get(key)
        own = reference() if reference is not None else None
        return own is not None and (p is None or own is p)
