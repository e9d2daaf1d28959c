"""A language model of the Hugging Face hub, or of a folder: as what makes vectors of tokens (`Trunk`), or what writes (`Writer`).

Its own tokenizer cuts the texts (`Tokens` of the kind `hf`), and its own classes compute; here is only what lies between. Tokens
come with four places kept free below them, of which 0 is padding, so that padding is never taken for a word or for the end of
a text, whatever number the model's own padding has. A run keeps the configuration, so its model can be made again without the
folder. A writer has what a decoder of our own has: a cache, segments for texts that share a row, and a number for each token.

    >>> trunk = Trunk.of(configuration("all-MiniLM-L6-v2/"))
    >>> trunk(torch.tensor([[105, 2054, 106]])).shape
    torch.Size([1, 3, 384])
"""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import MissingExtra, ModelError
from wellfit.models.attention import Seen, evaluating
from wellfit.models.positions import documents

OFFSET = 4  # our padding, unknown, start and end
NEVER = -1e4  # the logit of what is never said: finite in every precision, and its probability is 0 in all of them


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
        make = functools.partial(library.AutoModel.from_config, told, dtype=torch.float32)
        return cls(_without_pooler(make), told.pad_token_id or 0)

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        real_BT = torch.ones_like(ids_BT, dtype=torch.bool) if real_BT is None else real_BT
        own_BT = (ids_BT - OFFSET).clamp_min(0).masked_fill(~real_BT, self.padding)
        out: Tensor = self.model(input_ids=own_BT, attention_mask=real_BT.long()).last_hidden_state
        return out


class Past(Seen):
    """What a `Writer` has read: the library's cache of keys and values, and which tokens are real."""

    def __init__(self, config: Any):
        super().__init__()
        self.kept = transformers().DynamicCache(config=config)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        super().select(rows)
        self.kept.batch_select_indices(rows)


class Writer(nn.Module):
    """Tokens [B, T], the model's own numbers plus `OFFSET` -> logits [B, T, V + OFFSET] of the token that comes next.

    The first `OFFSET` of them, for which the model has no word, are `NEVER`. It is called as `transformer.Decoder` is: `real_BT`
    is False for padding, on either side; documents that are packed into a row, by `segments_BT`, are each as if alone.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        self.placed = "position_ids" in inspect.signature(model.forward).parameters

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Writer":
        """An untrained one, drawn from torch's global generator."""
        library = transformers()
        told = library.AutoConfig.for_model(**config)
        return cls(library.AutoModelForCausalLM.from_config(told, dtype=torch.float32))

    @property
    def vocabulary(self) -> int:
        """V + OFFSET."""
        return int(self.model.config.get_text_config().vocab_size) + OFFSET

    @property
    def max_length(self) -> int | None:
        """Tokens that it has places for; None where there is no end."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if most is None else int(most) - self._vectors

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    @property
    def alone(self) -> bool:
        """Whether it must read each text by itself and from its beginning, as with learnt vectors before it."""
        return hasattr(self.model, "places")

    @property
    def _vectors(self) -> int:
        return int(getattr(self.model, "places", 0))

    def forward(
        self,
        ids_BT: Tensor,
        real_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: Past | None = None,
    ) -> Tensor:
        """With a `cache`, `ids_BT` are the tokens that follow those that it has read, and they are added to it."""
        if cache is not None and segments_BT is not None:
            raise ModelError("`segments_BT` came with a cache, which holds one document a row; leave one of them out.")
        given: dict[str, Any] = {"use_cache": cache is not None}
        real_BS = real_BT
        if cache is not None:
            given["past_key_values"], real_BS = cache.kept, cache.extend(ids_BT.shape[1], real_BT)
        if segments_BT is not None:
            # Positions that begin anew are how the library is told of documents: it makes every layer's mask of them.
            given["position_ids"] = documents(segments_BT)[1]
        elif real_BS is not None:
            given["attention_mask"] = real_BS.long()
            if self.placed and not self.alone:
                given["position_ids"] = (real_BS.long().cumsum(1) - 1).clamp_min(0)[:, -ids_BT.shape[1] :]
        logits_BTV: Tensor = self.model(input_ids=(ids_BT - OFFSET).clamp_min(0), **given).logits
        return F.pad(logits_BTV, (OFFSET, 0), value=NEVER)

    def cache(self) -> Past | None:
        """An empty one, for one batch; None for a model that the library's cache does not serve."""
        if self.alone or getattr(self.model, "_is_stateful", False):
            return None
        return Past(self.model.config)


@torch.no_grad()
def apart(writer: Writer) -> bool:
    """Whether documents in one row are as if alone, tried on a few tokens: recurrent models and some old ones let them mix."""
    if not writer.placed or writer.alone:
        return False
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(OFFSET, writer.vocabulary, (1, 9), generator=draw).to(writer.device)
    segments = torch.tensor([[1] * 5 + [2] * 4], device=writer.device)
    with evaluating(writer):
        packed, second = writer(ids, segments_BT=segments)[:, 5:, OFFSET:], writer(ids[:, 5:])[:, :, OFFSET:]
    return bool((packed - second).abs().max() <= 1e-3 * second.abs().max().clamp_min(1e-6))


def writes(name: str, config: Mapping[str, Any]) -> None:
    """Raises ModelError for the configuration of a model that does not say what comes next in a text."""
    from transformers.models.auto import modeling_auto as known

    kind = str(config.get("model_type", ""))
    why = ""
    if config.get("is_encoder_decoder"):
        why = "makes one text into another (an encoder-decoder)"
    elif kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        why = "reads a text from both sides (an encoder)"
    elif kind not in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        why = "has no form that predicts the next token"
    if why:
        raise ModelError(
            f"`model.name` is {name!r}, a {kind} model, which {why} and cannot go on with one; for text-generation name a decoder "
            "such as GPT-2, Llama or Qwen."
        )


def configuration(name: str) -> dict[str, Any]:
    """What a model is made of, as plain data. Raises ModelError if it is not there."""
    config = _had(name, lambda: transformers().AutoConfig.from_pretrained(name))
    return cast(dict[str, Any], json.loads(config.to_json_string(use_diff=False)))


def fill(trunk: Trunk | Writer, name: str) -> list[str]:
    """Copies the trained weights of that name into a model of its configuration.

    Returns the names of the parameters of `trunk.model` that are not among them and stay drawn at random: none, as a rule.
    """
    if isinstance(trunk, Writer):
        load = functools.partial(transformers().AutoModelForCausalLM.from_pretrained, name, dtype=torch.float32)
        found, told = _had(name, lambda: load(output_loading_info=True))
        trunk.model.load_state_dict(found.state_dict())
        missing = set(told["missing_keys"])
        return [one for one, _ in trunk.model.named_parameters() if one in missing]
    get = functools.partial(
        transformers().AutoModel.from_pretrained, name, dtype=torch.float32, output_loading_info=True
    )
    found, told = _had(name, lambda: _without_pooler(get))
    trunk.model.load_state_dict(found.state_dict())
    missing = set(told["missing_keys"])
    return [one for one, _ in trunk.model.named_parameters() if one in missing]


def _without_pooler(make: Callable[..., Any]) -> Any:
    """BERT's extra layer on its first token, which no state passes through, is left out where a class has one."""
    try:
        return make(add_pooling_layer=False)
    except TypeError:
        return make()


def marks(name: str) -> dict[str, Any]:
    """What surrounds texts of a model that writes, as plain data: `template`, its Jinja template of conversations or ""; `names`,
    the marks that it names (bos_token ...); `ends`, the model's own numbers of what ends a text.
    """
    found = _had(name, lambda: transformers().AutoTokenizer.from_pretrained(name))
    config = _had(name, lambda: transformers().AutoConfig.from_pretrained(name))
    try:
        template = found.get_chat_template()
    except ValueError:  # it has none
        template = ""
    try:
        generation = transformers().GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # it has none either
        generation = None
    told = [found.eos_token_id, config.get_text_config().eos_token_id, generation]
    ends = [end for one in told for end in (one if isinstance(one, list | tuple) else [one]) if end is not None]
    size = len(found)
    return {
        "template": str(template),
        "names": {key: str(value) for key, value in found.special_tokens_map.items() if isinstance(value, str)},
        "ends": [end for end in dict.fromkeys(map(int, ends)) if 0 <= end < size],
    }


def places(name: str) -> int | None:
    """Tokens that the model of that name has places for; None where there is no end."""
    config = _had(name, lambda: transformers().AutoConfig.from_pretrained(name))
    return getattr(config.get_text_config(), "max_position_embeddings", None)


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
