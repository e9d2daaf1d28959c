"""A language model of Hugging Face by its configuration alone: made without numbers, trained or read with, and metered.

Full precision keeps everything in fp32. Mixed precision (bf16, fp16) keeps the weights that learn in fp32, the master weights,
and multiplies in 16 bits (Micikevicius et al. 2018); weights that do not learn, beside LoRA, lie in 16 bits, and LoRA's in fp32, as PEFT
has it. pure-bf16 keeps weights, gradients and the optimizer's state in bf16. The loss is the model's own, as transformers' Trainer calls it.

    >>> traced = language_training(Language("llama/config.json", batch=4, tokens=2048, lora=16, bits=4))
"""

import copy
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from wellfit.errors import ModelError, RecipeError
from wellfit.finetune.adapters import lay_in
from wellfit.models.pretrained import transformers
from wellfit.optim.optimizers import KINDS, build
from wellfit.plan.packed import BITS, EightBits, pack
from wellfit.plan.trace import Subject, Traced, deeper, explained, on_a_device, repeated, serving, training
from wellfit.recipe import Finetune, Optimizer, nearest

# precision -> (autocast, what learns, what does not)
PRECISIONS = {
    "fp32": ("fp32", torch.float32, torch.float32),
    "bf16": ("bf16", torch.float32, torch.bfloat16),
    "fp16": ("fp16", torch.float32, torch.float16),
    "pure-bf16": ("fp32", torch.bfloat16, torch.bfloat16),
}
DEPTHS = (4, 6)  # blocks of the models that are traced in a deep one's place


@dataclass(frozen=True)
class Language:
    """What is planned: a model, and how it is trained or served. Raises RecipeError for what cannot be."""

    config: str  # a config.json, a folder with one, or a name on the hub
    batch: int = 1  # sequences in a step
    tokens: int = 1024  # of each; to serve: of prompt and answer together
    precision: str = "bf16"
    optimizer: str = "adamw"
    checkpointing: int = 0  # every so many blocks
    lora: int | None = None  # rank
    bits: int = 16  # of the weights that do not learn
    micro_batches: int = 1
    devices: int = 1
    serve: bool = False

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("tokens", 2), ("checkpointing", 0), ("micro_batches", 1), ("devices", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise RecipeError(f"`{name}` is {value!r}; it must be a whole number of at least {least}.")
        if self.lora is not None and self.lora < 1:
            raise RecipeError(f"`lora` is {self.lora}; it is the rank of the matrices, at least 1 (8 or 16 are usual).")
        if self.precision not in PRECISIONS:
            raise RecipeError(f"`precision` is {self.precision!r}; it can be {', '.join(PRECISIONS)}.")
        if self.optimizer not in KINDS:
            raise RecipeError(
                f"`optimizer` is {self.optimizer!r}; it can be {', '.join(KINDS)}.{nearest(self.optimizer, KINDS)}"
            )
        if self.bits not in BITS:
            raise RecipeError(f"`bits` is {self.bits}; it can be {', '.join(map(str, BITS))}.")
        if self.bits < 16 and not (self.serve or self.lora):
            raise RecipeError(
                f"`bits` is {self.bits}, and weights in so few bits cannot learn; train LoRA's matrices beside them (`lora=16`), or plan to serve."
            )
        if self.batch % self.micro_batches:
            raise RecipeError(f"`batch` is {self.batch}, which {self.micro_batches} micro-batches cannot share evenly.")


def configuration(of: str) -> Any:
    """The configuration of a local file or folder, or of a model of the hub by its name. Nothing of it is executed.

    Raises ModelError where there is none, or none that transformers knows, and MissingExtra without transformers.
    """
    library = transformers()
    path = Path(of)
    file = path / "config.json" if path.is_dir() else path
    if file.is_file():
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise ModelError(f"{file} is not JSON: {str(error).splitlines()[0]}.") from None
        kind = told.get("model_type") if isinstance(told, dict) else None
        known = list(library.models.auto.configuration_auto.CONFIG_MAPPING)
        if kind not in known:
            raise ModelError(
                f"{file} is of the model type {kind!r}, which transformers {library.__version__} does not know.{nearest(str(kind), known)} A "
                "configuration of Hugging Face says its type under `model_type`; code that comes with a model is not executed here."
            )
        rest = {name: value for name, value in told.items() if name not in ("model_type", "quantization_config")}
        with explained("configured"):
            return library.AutoConfig.for_model(kind, **rest)
    if path.exists() or path.suffix or of.startswith((".", "/")) or of.count("/") > 1:
        raise ModelError(f"There is no configuration at {of}: it is a config.json, or a folder that has one.")
    try:
        return library.AutoConfig.from_pretrained(of)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{of!r} is no local file, and the Hugging Face hub has no such model, or cannot be reached "
            f"({(str(error).strip().splitlines() or [''])[0][:160]}). Name a config.json, or a folder with one."
        ) from None


def made(config: Any, dtype: torch.dtype) -> Any:
    """A model that writes, with its output layer. Raises ModelError for a kind that does not."""
    library: Any = transformers()
    auto = library.models.auto.modeling_auto
    config.use_cache = False
    if getattr(config, "is_encoder_decoder", False) and type(config) in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        chosen = library.AutoModelForSeq2SeqLM
    elif type(config) in auto.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        chosen = library.AutoModelForMaskedLM
    elif type(config) in auto.MODEL_FOR_CAUSAL_LM_MAPPING:
        chosen = library.AutoModelForCausalLM
    else:
        raise ModelError(
            f"A configuration of the type {config.model_type!r} is of no language model; plan such a model with "
            "`wellfit.memory_plan(model, batch, loss)`."
        )
    return chosen.from_config(config, dtype=dtype)


def language_training(asked: Language, whole: bool = False) -> Traced:
    """The peak on one device that trains alone, with the loss of a batch of `batch` x `tokens`.

    Of a model of many blocks that are all alike, two shorter ones are traced, and its own depth follows from these exactly, unless it
    is to be traced `whole`.
    """
    config = configuration(asked.config)
    autocast, learning, resting = PRECISIONS[asked.precision]
    with explained("made"), torch.device("meta"):
        model = made(config, learning if asked.lora is None else resting)
        if asked.lora is not None:
            head = [f"{name}.weight" for name, part in model.named_modules() if part is model.get_output_embeddings()]
            settings = Finetune(strategy="qlora" if asked.bits < 16 else "lora", rank=asked.lora, dropout=0.0)
            lay_in(model, settings, head)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name)
                if "lora_" in name:
                    parameter.data = parameter.data.to(learning)
            if asked.bits < 16:
                pack(model, asked.bits, torch.float32 if asked.precision == "fp32" else resting)
    name, blocks = repeated(model)
    kinds = getattr(config.get_text_config(), "layer_types", None) or [""]
    if whole or len(blocks) <= 2 * DEPTHS[1] or len(set(kinds)) > 1:
        return _trained(model, config, asked, autocast)
    traced = []
    for depth in DEPTHS:
        shorter = copy.deepcopy(model)
        parent, _, child = name.rpartition(".")
        setattr(shorter.get_submodule(parent), child, nn.ModuleList(list(shorter.get_submodule(name))[:depth]))
        traced.append(_trained(shorter, config, asked, autocast))
    return deeper(traced[0], traced[1], (*DEPTHS, len(blocks)))


def _trained(model: Any, config: Any, asked: Language, autocast: str) -> Traced:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    on_a_device(model, mode, "cpu")
    vocabulary = int(config.get_text_config().vocab_size)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        library_model = cast(Any, model)
        shape = {"decoder_input_ids": batch["labels"]} if getattr(config, "is_encoder_decoder", False) else {}
        logits = model(input_ids=batch["input_ids"], **shape).logits
        return cast(Tensor, library_model.loss_function(logits=logits, labels=batch["labels"], vocab_size=vocabulary))

    def optimizer(model: nn.Module) -> Any:
        kind = cast(Any, asked.optimizer)
        return build(model, Optimizer(kind=kind, learning_rate=1e-4, weight_decay=0.01, beta2=0.999), EightBits)

    rows = asked.batch // asked.micro_batches
    batch = {name: torch.zeros(rows, asked.tokens, dtype=torch.long) for name in ("input_ids", "labels")}
    return training(
        Subject(
            model,
            loss,
            batch,
            optimizer,
            autocast,
            micro_batches=asked.micro_batches,
            checkpointing=asked.checkpointing,
        ),
        mode,
    )


def language_serving(asked: Language) -> Traced:
    """The peak while a prompt of `tokens` is read for `batch` sequences at once, with the keys and values of all of them."""
    config, mode = configuration(asked.config), FakeTensorMode(allow_non_fake_inputs=True)
    dtype = PRECISIONS[asked.precision][2]

    def make() -> tuple[nn.Module, Callable[[], Any]]:
        with torch.device("meta"):
            model = made(config, dtype)
            if asked.bits < 16:
                pack(model, asked.bits, dtype)
        on_a_device(model, mode, "cpu")
        tokens = torch.zeros(asked.batch, asked.tokens, dtype=torch.long)
        taken = inspect.signature(model.forward).parameters
        last = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}
        cached = {"use_cache": True} if "use_cache" in taken else {}

        def read() -> Any:
            cache = getattr(model(input_ids=tokens, **cached, **last), "past_key_values", None)
            return [(layer.keys, layer.values) for layer in getattr(cache, "layers", [])]

        return model, read

    return serving(make, mode)


def cache_bytes(config: Any, batch: int, tokens: int, size: int = 2) -> int:
    """Keys and values of a decoder: 2 x layers x heads that keys have x head size x tokens x sequences x bytes a number.

    Ainslie et al. 2023 (grouped queries): heads that keys have may be fewer than heads.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * width * tokens * batch * size)


def told(asked: Language) -> dict[str, Any]:
    """What was asked for, as plain data."""
    return {field.name: getattr(asked, field.name) for field in fields(asked)}
