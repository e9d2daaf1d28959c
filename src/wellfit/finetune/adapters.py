"""LoRA through PEFT: two small matrices beside a frozen one (Hu et al. 2022).

y = W x + (alpha / r) B A x, with A [r, in] drawn at random and B [out, r] zero, so that nothing changes before the first step. W
stays as it is; what is learnt is a hundredth of it and can be kept, sent and swapped by itself, or added to W at the end, after
which nothing is slower. PEFT lays the matrices in; the file format is PEFT's, so its tools read what is saved here.

    >>> chosen = lay_in(model, Finetune(strategy="lora"), head=["head.weight", "head.bias"])
    >>> save(model, "adapter/")
"""

import copy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.finetune.parts import is_transposed, library, trunk
from wellfit.finetune.quantize import is_packed, whole
from wellfit.recipe import Finetune

# What libraries call the queries and values of attention, or all of them in one; the paper adapts these (table 5).
OF_ATTENTION = (
    "q", "v", "kv", "query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "c_attn", "qkv", "qkv_proj", "in_proj",
    "query_key_value", "Wqkv",
)  # fmt: skip
NAME = "default"  # PEFT's own for the first adapter


def lay_in(model: nn.Module, settings: Finetune, head: Sequence[str] = ()) -> list[str]:
    """Puts adapters beside the layers that `targets` chooses, in place; returns the names of those layers.

    Raises ModelError where there is none, and MissingExtra without PEFT.
    """
    peft = library()
    within, model = trunk(model)
    head = [name.removeprefix(f"{within}.") for name in head] if within else head
    chosen = targets(model, settings.targets, head, everywhere=settings.strategy == "qlora")
    layers = {name.rpartition(".")[0] for name in head} - {""} - set(chosen)
    alike = sorted(name for name in layers if name.endswith(tuple(f".{one}" for one in chosen)))  # PEFT goes by endings
    config = peft.LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=chosen, bias="none",
        exclude_modules=alike or None,
        fan_in_fan_out=any(is_transposed(model.get_submodule(name)) for name in chosen),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft.inject_adapter_in_model(config, model)
    return chosen


def targets(
    model: nn.Module, asked: Sequence[str] = (), head: Sequence[str] = (), *, everywhere: bool = False
) -> list[str]:
    """The names of the layers that get matrices: those asked for by the ends of their names, else attention's queries and
    values (unless `everywhere`), else every linear layer and convolution but the head. Raises ModelError if none is such.
    """
    outer = {name.rpartition(".")[0] for name in head}
    layers = {
        name: module for name, module in model.named_modules()
        if (isinstance(module, nn.Linear | nn.Conv2d) or is_transposed(module)) and name not in outer
    }  # fmt: skip
    if asked:
        found = [name for name in layers if any(name == end or name.endswith("." + end) for end in asked)]
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise ModelError(
                f"`finetune.targets` is {list(asked)}, and no layer's name ends so; the layers that can be adapted (the head learns as it "
                f"is) end in {', '.join(ends[:20])}."
            )
        return found
    attention = [name for name in layers if name.rpartition(".")[2] in OF_ATTENTION and not everywhere]
    plain = [name for name, module in layers.items() if getattr(module, "groups", 1) == 1]
    if not (attention or plain):
        raise ModelError(
            "The model has no linear layer and no convolution besides its head, so LoRA has nothing to adapt."
        )
    return attention or plain


def learnt(model: nn.Module) -> list[str]:
    """The names of the adapters' parameters."""
    return [name for name, _ in model.named_parameters() if "lora_" in name]


def save(model: nn.Module, folder: str | Path, base: str = "", also: Sequence[str] = ()) -> Path:
    """Writes adapter_config.json and adapter_model.safetensors, which `PeftModel.from_pretrained` reads. Returns the folder.

    Names are relative to the `trunk`. `base` says where its weights are. Of the parameters that learnt besides, `also`, those in
    the trunk are kept whole, with their module, as PEFT's `modules_to_save`. Raises ModelError for a model without adapters.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    prompted = next((m for m in model.modules() if any(a.__name__ == "PeftModel" for a in type(m).__mro__)), None)
    within, inner = trunk(model)
    configs = getattr(prompted or inner, "peft_config", None)
    if not configs:
        raise ModelError(
            "The model has no adapters to save; `finetune.strategy` was none of lora, qlora, prompt and prefix."
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = library().get_peft_model_state_dict(prompted or inner)
    start = "base_model.model." if prompted is None else ""
    besides: list[str] = []
    if prompted is None:
        besides = _modules(inner, [name.removeprefix(f"{within}." if within else "") for name in also])
    for module in besides:
        state |= {f"{module}.{name}": value for name, value in inner.get_submodule(module).state_dict().items()}
    save_file(
        {f"{start}{name}": value.detach().cpu().contiguous() for name, value in state.items()},
        folder / "adapter_model.safetensors",
    )
    config = copy.copy(configs[NAME])
    config.modules_to_save = besides or None
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    return folder


def _modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The modules that hold these parameters, without adapters' and those that the model does not have."""
    there = dict(model.named_parameters())
    return sorted({name.rpartition(".")[0] for name in names if name in there and "lora_" not in name} - {""})


def merge(model: nn.Module) -> nn.Module:
    """Adds what was learnt to the weights and takes the adapters out, in place; the model is as fast as before.

    Weights in four bits become plain ones. Vectors before frozen weights (`prompts`) stay: no weight can take them up.
    """
    # A model with adapters has imported it, and importing it takes seconds.
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    for path, found in list(model.named_modules()):
        module: Any = found
        adapted = tuners is not None and isinstance(module, tuners.BaseTunerLayer)
        plain = module.get_base_layer() if adapted else module
        if not adapted and not (is_packed(plain) and ".base_layer" not in path):
            continue
        with torch.no_grad():
            if not is_packed(plain):
                module.merge(safe_merge=True)
            else:
                plain = whole(plain)
                plain.weight += module.get_delta_weight(NAME).to(plain.weight.dtype) if adapted else 0.0
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    return model
