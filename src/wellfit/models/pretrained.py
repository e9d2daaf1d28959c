"""A language model of the Hugging Face hub, or of a folder, as what makes vectors of tokens.

Its own tokenizer cuts the texts (`Tokens` of the kind `hf`), and its own classes compute; here is only what lies between. Tokens
come with four places kept free below them, of which 0 is padding, so that padding is never taken for a word or for the end of
a text, whatever number the model's own padding has. A run keeps the configuration, so its model can be made again without the
folder.

    >>> trunk = Trunk.of(configuration("all-MiniLM-L6-v2/"))
    >>> trunk(torch.tensor([[105, 2054, 106]])).shape
    torch.Size([1, 3, 384])
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from wellfit.errors import MissingExtra, ModelError

OFFSET = 4  # our padding, unknown, start and end


class Trunk(nn.Module):
    """Tokens [B, T], the model's own numbers plus `OFFSET` -> states [B, T, D], its last."""

    def __init__(self, model: nn.Module, padding: int):
        super().__init__()
        self.model, self.padding = model, padding

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Trunk":
        """An untrained one, drawn from torch's global generator."""
        library = transformers()
        told = library.AutoConfig.for_model(**config)
        return cls(_without_pooler(lambda **how: library.AutoModel.from_config(told, **how)), told.pad_token_id or 0)

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if real_BT is None else real_BT
        own_BT = (ids_BT - OFFSET).clamp_min(0).masked_fill(~real_BT, self.padding)
        out: Tensor = self.model(input_ids=own_BT, attention_mask=real_BT.long()).last_hidden_state
        return out


def configuration(name: str) -> dict[str, Any]:
    """What a model is made of, as plain data. Raises ModelError if it is not there."""
    config = _had(name, lambda: transformers().AutoConfig.from_pretrained(name))
    return cast(dict[str, Any], json.loads(config.to_json_string(use_diff=False)))


def fill(trunk: Trunk, name: str) -> None:
    """Copies the trained weights of that name into a model of its configuration."""
    get = functools.partial(transformers().AutoModel.from_pretrained, name, dtype=torch.float32)
    found = _had(name, lambda: _without_pooler(get))
    trunk.model.load_state_dict(found.state_dict())


def _without_pooler(make: Callable[..., Any]) -> Any:
    """BERT's extra layer on its first token, which no state passes through, is left out where a class has one."""
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def tokenizer(name: str) -> str:
    """Its tokenizer as the text of a tokenizer.json, which neither cuts nor pads."""
    found = _had(name, lambda: transformers().AutoTokenizer.from_pretrained(name))
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"The tokenizer of {name} is none of the `tokenizers` library, and no other is read.")
    backend.no_truncation()
    backend.no_padding()
    return str(backend.to_str())


def _had(name: str, get: Callable[[], Any]) -> Any:
    try:
        return get()
    except Exception as error:  # the library raises plain exceptions, and each way of being offline has its own
        here = (
            "it is a folder, and what is in it cannot be read"
            if Path(name).is_dir()
            else "there is no such folder here, and the hub could not give it"
        )
        reason = str(error).strip().split("\n")[0].rstrip(" .")
        raise ModelError(
            f"`model.name` is {name!r}; {here} ({reason[:200]}). Name a folder with config.json, model.safetensors and tokenizer.json, or "
            "connect to the net."
        ) from None


def transformers() -> Any:
    """The library, quiet about what it loads; or MissingExtra."""
    try:
        import transformers as library
    except ImportError:
        raise MissingExtra("transformers", "finetune", "A model of the Hugging Face hub") from None
    library.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    library.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return library
