"""The few places of torch that the doctor listens at, and how they are put back.

A listener has one method for each: `backward`, `stepping`, `stepped`, `created`, `scheduled`, `fetched`, `scored`,
`dropped`, `clipped`, `scaled`, `compiling`, `read`, `loaded`. Each replacement does its original's work first or last, hands on its result
and its errors untouched, and asks the listener only in the thread and process that installed it. Nothing is attached
to anybody's module, optimizer or tensor, so what a program saves, copies or compiles stays as it is.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

LOSSES = (
    "cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss",
    "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "hinge_embedding_loss", "soft_margin_loss",
    "margin_ranking_loss", "cosine_embedding_loss", "ctc_loss",
)  # fmt: skip


_transformed = torch._C._functorch.peek_interpreter_stack  # within `torch.func`, whose tensors hold nothing to look at


class Listener(Protocol):
    """What is told. Every method may be called thousands of times a second; while `calm`, most are not."""

    calm: bool

    @property
    def span(self) -> Any: ...
    def passed_by(self, loss: Any) -> bool: ...
    def stepped_calmly(self, optimizer: Optimizer) -> bool: ...
    def summed_up(self, loss: Any) -> None: ...
    def before_backward(self, loss: Any) -> None: ...
    def after_backward(self) -> None: ...
    def stepping(self, optimizer: Optimizer) -> None: ...
    def stepped(self, optimizer: Optimizer) -> None: ...
    def created(self, optimizer: Optimizer) -> None: ...
    def scheduled(self, scheduler: Any) -> None: ...
    def loading(self, loader: Any) -> None: ...
    def fetched(self, iterator: Any, seconds: float, ended: bool) -> None: ...
    def permuted(self, count: int) -> None: ...
    def scored(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None: ...
    def dropped(self) -> None: ...
    def clipped(self, norm: Any, limit: float) -> None: ...
    def scaled(self, scale: float, skipped: bool) -> None: ...
    def compiling(self) -> None: ...
    def read(self, value: Any) -> None: ...
    def loaded(self, module: nn.Module, state: Any) -> None: ...


@contextmanager
def installed(listener: Listener) -> Iterator[None]:
    """Listens until the block ends; then torch is as it was."""
    home, ident = threading.get_ident(), threading.get_ident

    def forked() -> None:
        nonlocal home
        home = -1  # a child is not observed

    os.register_at_fork(after_in_child=forked) if hasattr(os, "register_at_fork") else None

    def here() -> bool:
        return ident() == home

    undo: list[Callable[[], None]] = []

    def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        own = name in vars(owner)
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(make(original)))
        undo.append((lambda: setattr(owner, name, original)) if own else (lambda: delattr(owner, name)))

    def backward(original: Any) -> Any:
        def call(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not here() or (listener.calm and listener.passed_by(tensors)):
                return original(tensors, *args, **kwargs)
            listener.before_backward(tensors)
            result = original(tensors, *args, **kwargs)
            listener.after_backward()
            return result

        return call

    def after(tell: Callable[..., None]) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                result = original(self, *args, **kwargs)
                if here():
                    tell(self)
                return result

            return call

        return make

    def before(tell: Callable[..., None]) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                if here():
                    tell(self)
                return original(self, *args, **kwargs)

            return call

        return make

    def fetching(original: Any) -> Any:
        def call(self: Any) -> Any:
            if not here():
                return original(self)
            began = time.perf_counter()
            try:
                batch = original(self)
            except StopIteration:
                listener.fetched(self, time.perf_counter() - began, True)
                raise
            listener.fetched(self, time.perf_counter() - began, False)
            return batch

        return call

    def scoring(name: str) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                loss = original(*args, **kwargs)
                if (not listener.calm or not torch.is_grad_enabled()) and here():
                    listener.scored(name, args, kwargs, loss)
                return loss

            return call

        return make

    def dropping(original: Any) -> Any:
        def call(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
            if training and p and not torch.is_grad_enabled() and here():
                listener.dropped()
            return original(input, p, training, inplace)

        return call

    def clipping(original: Any) -> Any:
        def call(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            norm = original(parameters, max_norm, *args, **kwargs)
            if here():
                listener.clipped(norm, max_norm)
            return norm

        return call

    def updating(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            old = self.get_scale() if here() and self.is_enabled() else None
            result = original(self, *args, **kwargs)
            if old is not None:
                new = self.get_scale()
                listener.scaled(new, new < old)
            return result

        return call

    def reading(original: Any) -> Any:
        def item(self: Any) -> Any:
            value = original(self)
            if listener.span is not None and isinstance(value, float) and not self.requires_grad and here():
                listener.read(value)
            return value

        return item

    def compiling(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if here():
                listener.compiling()
            return original(*args, **kwargs)

        return call

    def filling(original: Any) -> Any:
        def call(self: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, state_dict, *args, **kwargs)
            if here():
                listener.loaded(self, state_dict)
            return result

        return call

    def permuting(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if here() and args and isinstance(args[0], int):
                sampler = sys._getframe(1).f_globals.get("__name__") == "torch.utils.data.sampler"
                if not sampler:  # which asks once more before its last batch, and whose loader tells its end
                    listener.permuted(args[0])
            return original(*args, **kwargs)

        return call

    def stepping(optimizer: Optimizer, *_: Any) -> None:
        if not listener.calm and here():
            listener.stepping(optimizer)

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        if here() and not (listener.calm and listener.stepped_calmly(optimizer)):
            listener.stepped(optimizer)

    def summing(original: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not listener.calm and here():
                listener.summed_up(self)
            return original(self, *args, **kwargs)

        return call

    replace(Tensor, "backward", summing)
    replace(torch.autograd, "backward", backward)
    replace(Optimizer, "__init__", after(listener.created))
    replace(LRScheduler, "__init__", after(listener.scheduled))
    replace(DataLoader, "__iter__", before(listener.loading))
    replace(_BaseDataLoaderIter, "__next__", fetching)
    for name in LOSSES:
        replace(F, name, scoring(name))
    replace(F, "dropout", dropping)
    replace(nn.utils, "clip_grad_norm_", clipping)
    replace(nn.utils.clip_grad, "clip_grad_norm_", clipping)
    replace(torch.amp.GradScaler, "update", updating)
    replace(Tensor, "item", reading)
    replace(nn.Module, "load_state_dict", filling)
    replace(torch, "compile", compiling)
    replace(torch, "randperm", permuting)
    handles = [
        register_optimizer_step_pre_hook(stepping),
        register_optimizer_step_post_hook(stepped),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for put_back in reversed(undo):
            put_back()


class Calls:
    """Tells of calls to a program's outermost modules: `entered(module, args, kwargs)` before, `left(module, output)` after.

    While `looking`, torch's global hooks find them; from then on the class of each found one is wrapped, which costs
    the other modules nothing.
    """

    def __init__(self, listener: Any):
        self.listener = listener
        self.known: set[int] = set()
        self.ran: set[int] = set()
        self.depth = 0
        self._wrapped: dict[type, Any] = {}
        self._handles: list[Any] = []
        self._first: nn.Module | None = None  # the outermost module that global hooks have just found
        self._home = (threading.get_ident(), os.getpid())

    def here(self) -> bool:
        """Whether this is the thread and process that is observed."""
        return (threading.get_ident(), os.getpid()) == self._home

    def look(self, wanted: bool) -> None:
        """Puts the global hooks on, or takes them off."""
        if wanted and not self._handles:
            module = nn.modules.module
            self._handles = [
                module.register_module_forward_pre_hook(self._before),
                module.register_module_forward_hook(self._after, always_call=True),
            ]
            self.depth = 0
        elif not wanted and self._handles:
            for handle in self._handles:
                handle.remove()
            self._handles = []
            self.depth = 0

    def add(self, module: nn.Module) -> None:
        """Wraps the class of an outermost module. Modules of torch.compile are wrapped from outside only."""
        self.known.add(id(module))
        owner = type(module)
        if owner in self._wrapped:
            return
        own, original = owner.__dict__.get("__call__"), owner.__call__
        calls = self

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if calls.depth or (calls.listener.calm and self.training and torch.is_grad_enabled()):
                return original(self, *args, **kwargs)
            if id(self) not in calls.known or not calls.here() or _transformed() is not None:
                return original(self, *args, **kwargs)
            calls.listener.entered(self, args, kwargs)
            calls.depth = 1
            try:
                output = original(self, *args, **kwargs)
            finally:
                calls.depth = 0
            calls.listener.left(self, output)
            return output

        owner.__call__ = call  # type: ignore[method-assign]
        self._wrapped[owner] = own

    def close(self) -> None:
        """Takes everything off."""
        self.look(False)
        for owner, own in self._wrapped.items():
            if own is None:
                del owner.__call__
            else:
                owner.__call__ = own  # type: ignore[method-assign]
        self._wrapped.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self.here() or _transformed() is not None:
            return
        self.ran.add(id(module))
        if not self.depth and id(module) not in self.known:
            self.add(module)
            self.listener.entered(module, args, {})
            self._first = module
        self.depth += 1

    def _after(self, module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if not self.here() or _transformed() is not None:
            return
        self.depth = max(0, self.depth - 1)
        if not self.depth and self._first is module:
            self._first = None
            self.listener.left(module, output)
