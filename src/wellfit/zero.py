"""ZeRO by DeepSpeed as verbs: every rank has the whole model, and of gradients and the optimizer's state only its share.

Rajbhandari et al. 2020, stages 1 (optimizer state) and 2 (gradients too); stage 3, which cuts the weights as well, is FSDP2
(`sharding.py`). DeepSpeed's engine exchanges gradients and updates; here it gets the face that the loop knows, of an optimizer
and of gradients. A checkpoint holds the optimizer's state whole, as one process would have written it, so any number of ranks
goes on from it, in any way of sharing.

    >>> if wanted(recipe): optimizer, gradients = shared(model, optimizer, recipe, "cpu")
"""

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wellfit.distributed import world
from wellfit.errors import HardwareError, ModelError, RecipeError
from wellfit.recipe import Recipe
from wellfit.sharding import Unfit, fits

STAGES = {"zero1": 1, "zero2": 2}
BUCKET = 500_000_000  # elements that are exchanged at once, at most: DeepSpeed's own default

_WHOLE = ", whose update looks at whole tensors, and ZeRO lays all weights end to end"
NOT_SHARED: tuple[Unfit, ...] = (
    ("hardware.compile", (True,), ", through which DeepSpeed does not see gradients come", "false"),
    ("hardware.precision", ("fp16",), ", whose loss scale DeepSpeed would find in its own way", "bf16"),
    ("hardware.channels_last", (True,), ", and weights are laid end to end in the order of their shape", "false"),
    ("optimizer.kind", ("adafactor", "muon", "adamw8bit", "lion8bit"), _WHOLE, "adamw"),
    ("finetune.strategy", ("qlora",), ", whose packed weights cannot be laid end to end", "lora"),
)


def wanted(recipe: Recipe) -> bool:
    """Whether DeepSpeed is to turn the steps. Raises RecipeError for what does not go with that."""
    if world() == 1 or recipe.hardware.parallel not in STAGES:
        return False
    fits(recipe, NOT_SHARED)
    for path, off in (("training.max_grad_value", None), ("recovery.not_finite", 0), ("finetune.remember", None)):
        if recipe.flat()[path] != off:
            raise RecipeError(
                f"`hardware.parallel` is {recipe.hardware.parallel!r}, by which DeepSpeed clips and steps at once, and does not go with "
                f"`{path}`. Set that to {'null' if off is None else off}, or `hardware.parallel` to ddp."
            )
    return True


def shared(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, device: str
) -> tuple["Zero", "ZeroGradients"]:
    """What takes the place of an optimizer that has not stepped, and of the gradients of its model, which is on its device.

    All ranks call this, and begin with rank 0's values. Raises HardwareError where DeepSpeed is not installed or does not start,
    ModelError for parameters that cannot be laid end to end.
    """
    _refuse(model, recipe.hardware.parallel)
    groups = [list(group["params"]) for group in optimizer.param_groups]
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # what the loop takes is its own affair, and so is when a step is full
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.training.max_grad_norm or 0.0,
        "steps_per_print": 10**12,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": STAGES[recipe.hardware.parallel],
            "reduce_bucket_size": min(BUCKET, sum(p.numel() for p in model.parameters())),
        },
    }
    if recipe.hardware.precision == "bf16":  # gradients are exchanged in fp32 all the same
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    with _silent(), _its_accelerator(device):
        try:
            import deepspeed
        except ImportError as error:
            raise HardwareError(
                f"`hardware.parallel` is {recipe.hardware.parallel!r}, which is DeepSpeed's, and it cannot be loaded here ({error}). Install it: "
                'pip install "wellfit[deepspeed]"; or use ddp, or fsdp, which torch has itself.'
            ) from error
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )  # fmt: skip
    # DeepSpeed calls these in every step, and torch's word on them is for its authors.
    warnings.filterwarnings("ignore", message=".*torch.distributed.*deprecated", category=FutureWarning)
    engine.register_forward_pre_hook(_first_buffers)
    return Zero(engine, groups), ZeroGradients(engine)


def _refuse(model: nn.Module, parallel: str) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModelError(
                f"`hardware.parallel` is {parallel!r}, but the parameter {name} has no size yet or is not of floating point, so it cannot be "
                "laid end to end with the others. Use ddp."
            )
        if parameter.dtype is not torch.float32 and parameter.requires_grad:
            raise ModelError(
                f"`hardware.parallel` is {parallel!r}, but the parameter {name} is {parameter.dtype}. Weights must be fp32: call `.float()`, "
                "and set `hardware.precision=bf16` to compute in 16 bits; or use ddp."
            )


def _first_buffers(engine: Any, _: Any) -> None:
    """Before each pass of training all ranks take rank 0's buffers (running statistics), as DDP does."""
    for buffer in engine.module.buffers():
        dist.broadcast(buffer, src=0)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """DeepSpeed speaks of what it loads and builds; one rank of wellfit speaks, and not of that."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)


@contextlib.contextmanager
def _its_accelerator(device: str) -> Iterator[None]:
    """DeepSpeed takes whatever accelerator it finds, unless its environment says which."""
    name = "DS_ACCELERATOR"
    before = os.environ.get(name)
    os.environ.setdefault(name, device.split(":")[0])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


class Zero:
    """The engine as an optimizer: groups, a step, and a state that is whole. All ranks step, read and load the state together."""

    def __init__(self, engine: Any, groups: list[list[nn.Parameter]]):
        """`groups`: the parameters of each group, as they were before DeepSpeed laid them end to end."""
        self.engine, self.groups = engine, groups
        self.inner: torch.optim.Optimizer = engine.optimizer.optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Of this rank's share, which is one vector for each group."""
        return self.inner.state

    def step(self) -> None:
        """Clips as `ZeroGradients.clip` was told, updates this rank's share, and fetches the others'."""
        self.engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.engine.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer of one process has it: for each parameter, its tensors whole."""
        from deepspeed.utils import safe_get_full_optimizer_state

        groups, first, state = [], 0, {}
        self._link()
        for group, parameters, flat in zip(self.param_groups, self.groups, self._flat(), strict=True):
            kept = self.inner.state.get(flat, {})
            alike = [name for name, value in kept.items() if isinstance(value, Tensor) and value.shape == flat.shape]
            for i, parameter in enumerate(parameters if kept else [], start=first):
                whole = {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in alike}
                state[i] = {name: whole.get(name, value) for name, value in kept.items()}
            groups.append({**group, "params": list(range(first, first + len(parameters)))})
            first += len(parameters)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict`, or an optimizer of the same kind in one process, has made."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for group, theirs, parameters, flat in zip(
            self.param_groups, state["param_groups"], self.groups, self._flat(), strict=True
        ):
            group.update({name: value for name, value in theirs.items() if name != "params"})
            kept = [state["state"][i] for i in theirs["params"] if i in state["state"]]
            if not kept:
                continue
            shared = {name: value for name, value in kept[0].items() if not _alike(value, parameters[0])}  # the step
            laid_out = {name: torch.zeros_like(flat) for name in kept[0] if name not in shared}
            self.inner.state[flat] = laid_out | copy.deepcopy(shared)
            self._link()
            for parameter, values in zip(parameters, kept, strict=True):
                for name, value in values.items():
                    if _alike(value, parameter):
                        safe_set_full_optimizer_state(parameter, value.to(parameter.device), name)

    def weights_were_set(self) -> None:
        """The model has been given other weights: this rank's share of them, which is a copy, follows."""
        self.engine.optimizer.refresh_fp32_params()

    def _flat(self) -> list[Tensor]:
        flat: list[Tensor] = self.engine.optimizer.single_partition_of_fp32_groups
        return flat

    def _link(self) -> None:
        """DeepSpeed (0.19) looks for each parameter's part of the state once, behind the first group's first step."""
        self.engine.optimizer._hp_optimizer_states_linked = False
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()


def _alike(value: object, parameter: Tensor) -> bool:
    """Whether a part of an optimizer's state has a number for each of the parameter's."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


class ZeroGradients:
    """The engine's gradients, behind the verbs of `optim.gradients.Gradients`."""

    def __init__(self, engine: Any):
        self.optimizer = engine.optimizer

    def clip(self, max_norm: float | None = None, max_value: float | None = None) -> Tensor:
        """Returns the 2-norm over all ranks' shares, NaN where it is not finite; the step that follows clips by `max_norm`."""
        assert max_value is None, "refused by `wanted`"
        self.optimizer.clip_grad = max_norm or 0.0
        norm = torch.as_tensor(self.optimizer.scaled_global_norm(), dtype=torch.float32)
        return torch.where(norm < 0, torch.nan, norm)  # DeepSpeed says -1

    def clear(self) -> None:
        self.optimizer.zero_grad()

    def drop(self) -> None:
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"reached": []}

    def load_state_dict(self, _state: dict[str, Any]) -> None:
        self.drop()
