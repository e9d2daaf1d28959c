"""torch's switches for a run: deterministic kernels, and the compiler.

Everything global is as it was when the run is over. What is compiled is one micro-batch's forward and backward pass; the
update stays eager, because torch's fused kernels are not traced.

    >>> with torch_settings(recipe):
    ...     gradient = compiled(backward, replica, note)
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from wellfit.data.batches import Batch
from wellfit.distributed import world
from wellfit.recipe import Recipe

Gradient = Callable[[Batch, Tensor], Tensor]


@contextlib.contextmanager
def torch_settings(recipe: Recipe) -> Iterator[None]:
    """torch's global switches as the recipe wants them inside the block, and as they were behind it.

    Deterministic kernels only, if wanted; and the compiler may trace a backward pass, which `compiled` needs.
    """
    switches = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), switches.fill_uninitialized_memory  # type: ignore[attr-defined]
    if recipe.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
        # The same switch as use_deterministic_algorithms(True), which also loads the compiler, and that takes a second.
        torch.set_deterministic_debug_mode("error")
        switches.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs every allocation
    with _tracing_backward() if recipe.hardware.compile else contextlib.nullcontext():
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before[0])
            switches.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]


@contextlib.contextmanager
def _tracing_backward() -> Iterator[None]:
    """The compiler may take `Tensor.backward` into a graph, where this torch can; where not, only the model is compiled."""
    import torch._dynamo.config as dynamo

    patched = (
        dynamo.patch(trace_autograd_ops=True) if hasattr(dynamo, "trace_autograd_ops") else contextlib.nullcontext()
    )
    with patched, warnings.catch_warnings():
        # The compiler looks at `.grad` of every tensor that it traces, and torch warns it about those that are not leaves.
        warnings.filterwarnings(
            "ignore", message=r"The \.grad attribute of a Tensor that is not a leaf", module=r"torch\._"
        )
        yield


def compiled(gradient: Gradient, replica: nn.Module, note: Callable[[str], None]) -> Gradient:
    """The function with its forward and backward pass compiled into one graph for each shape.

    Shapes are static: a graph that depends on which shapes came before would not be the same after a resume. The graph
    must be whole, because torch silently loses the gradients of a backward pass behind a break in it; where it cannot be,
    and between ranks, where DDP's gradient hooks must run, only the model is compiled.
    """
    import torch._dynamo as dynamo

    if world() > 1 or not hasattr(dynamo.config, "trace_autograd_ops"):
        replica.compile(dynamic=False)
        return gradient
    whole, settled = torch.compile(gradient, dynamic=False, fullgraph=True), False

    def first(batch: Batch, share: Tensor) -> Tensor:
        nonlocal whole, settled
        if settled:
            return whole(batch, share)
        try:
            result = whole(batch, share)
        except dynamo.exc.TorchDynamoException as error:  # raised while tracing: nothing has been computed
            note(f"The step cannot be compiled as one graph ({first_line(error)}), so only the model is compiled.")
            replica.compile(dynamic=False)
            whole, result = gradient, gradient(batch, share)
        settled = True
        return result

    return first


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].strip().rstrip(".") if str(error).strip() else type(error).__name__
