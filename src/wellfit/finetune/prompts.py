"""Prompt and prefix tuning through PEFT: a few learnt vectors before what a frozen language model reads.

*Prompt tuning* (Lester et al. 2021) puts P vectors before the embedded tokens; *prefix tuning* (Li & Liang 2021) puts P keys and
values before those of each layer's attention, which says more and needs no further places. Everything else stays as it was, so
one model can serve many tasks, each of which is a few thousand numbers. The vectors of a prompt begin as those of tokens drawn
from the vocabulary, which learns faster than noise does (Lester et al. 2021, 3.2).

    >>> lay_in(model, Finetune(strategy="prompt"))   # in place; model has a part that comes from Hugging Face
    >>> model(tokens).shape                          # what comes out is as long as what went in
"""

import warnings
from typing import Any

from torch import Tensor, nn

from wellfit.errors import ModelError
from wellfit.finetune.parts import library, trunk
from wellfit.recipe import Finetune

LEARNT = "prompt_encoder"  # in the names of PEFT's parameters


class Prompted(nn.Module):
    """A model of Hugging Face behind its learnt vectors, called as it was before; states and logits are those of the tokens alone."""

    def __init__(self, tuned: Any, places: int):
        super().__init__()
        self.tuned, self.places = tuned, places  # places: how many the vectors take among those of the tokens

    @property
    def config(self) -> Any:
        return self.tuned.get_base_model().config

    def forward(self, **given: Any) -> Any:
        out = self.tuned(**given)
        for name in ("last_hidden_state", "logits"):
            states: Tensor | None = getattr(out, name, None)
            if states is not None:
                out[name] = states[:, self.places :]
        return out


def lay_in(model: nn.Module, settings: Finetune, context: int = 1) -> int:
    """Puts `settings.virtual_tokens` vectors before what the pretrained part of `model` reads, in place; the tokens' own number.

    They are drawn from torch's global generator. `context` is the most tokens of a text. Raises ModelError where no such part is, or it has too few places.
    """
    peft = library()
    within, found = trunk(model)
    inner: Any = found
    if not within:
        raise ModelError(
            f"`finetune.strategy` is {settings.strategy!r}, which puts vectors before what a language model of Hugging Face reads, and "
            f"the model is a {type(model).__name__}. Use `model.kind=pretrained`, or another strategy, such as lora."
        )
    count, asks = settings.virtual_tokens, inner.config
    most = getattr(asks, "max_position_embeddings", None)
    if most is not None and count + context > most:
        raise ModelError(
            f"`finetune.virtual_tokens` is {count} and `data.context` {context}, together more than the {most} places that the "
            "model has. Choose fewer of either."
        )
    kind = "CAUSAL_LM" if inner.can_generate() else "FEATURE_EXTRACTION"
    if settings.strategy == "prompt":
        start = peft.PromptTuningInit.SAMPLE_VOCAB
        config = peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=count, prompt_tuning_init=start)
    else:
        config = peft.PrefixTuningConfig(task_type=kind, num_virtual_tokens=count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(inner, config)
    parent, _, child = within.rpartition(".")
    places = count if settings.strategy == "prompt" else 0
    setattr(model.get_submodule(parent), child, Prompted(tuned, places))
    return sum(p.numel() for name, p in tuned.named_parameters() if LEARNT in name)


def prompted(model: nn.Module) -> Prompted | None:
    """The part of a model that has learnt vectors before it, if there is one."""
    return next((module for module in model.modules() if isinstance(module, Prompted)), None)
