"""The same said otherwise: paraphrase and back-translation by a sequence-to-sequence model that the caller names.

A text translated into another language and back comes home with other words and, mostly, the same meaning (Sennrich et al.
2016, section 3.2; for classification Xie et al. 2020), and a model trained to paraphrase does it in one step. Either costs
far more than a training step, so texts are rewritten once, before training, and what was written is kept in a file that the
caller names: what is in it is not written again.

The model is any that Hugging Face's `AutoModelForSeq2SeqLM` loads (T5, BART, Marian), by its name or from a folder. Beam
search draws nothing at random: the same text, model and settings give the same result.

    >>> more = paraphrase(texts, "folder/of/a/t5", prefix="paraphrase: ", cache="paraphrases.jsonl")
    >>> more = back_translate(texts, "Helsinki-NLP/opus-mt-en-de", "Helsinki-NLP/opus-mt-de-en", cache="german.jsonl")
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wellfit.errors import DataError, MissingExtra, ModelError

AT_ONCE = 16  # texts that are written together


@dataclass(frozen=True)
class Rewriter:
    """A model and its tokenizer. `name` is what it was asked for by, and part of what its results are kept under."""

    name: str
    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, name: str | Path) -> "Rewriter":
        """By name or folder. Raises ModelError where it is not there or the net is not; MissingExtra without transformers."""
        try:
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        except ImportError:
            raise MissingExtra("transformers", "text", "Rewriting texts with a model") from None
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(name))
            model = AutoModelForSeq2SeqLM.from_pretrained(str(name))
        except Exception as error:  # each way of not being there, and of being offline, has an error of its own
            reason = " ".join(str(error).split())[:200].rstrip(" .")
            raise ModelError(
                f"The sequence-to-sequence model {str(name)!r} could not be had ({type(error).__name__}: {reason}). It is downloaded "
                "the first time it is named, which needs the net; without it, name the folder of one that is here."
            ) from None
        return cls(str(name), model.eval(), tokenizer)

    @torch.no_grad()
    def write(self, texts: Sequence[str], prefix: str, beams: int, longest: int) -> list[str]:
        """What the model makes of each text, by beam search. Texts longer than `longest` tokens are cut there."""
        written: list[str] = []
        for start in range(0, len(texts), AT_ONCE):
            batch = self.tokenizer(
                [prefix + text for text in texts[start : start + AT_ONCE]],
                return_tensors="pt", padding=True, truncation=True, max_length=longest,
            )  # fmt: skip
            fed = {name: batch[name] for name in ("input_ids", "attention_mask")}
            found = self.model.generate(**fed, num_beams=beams, do_sample=False, max_new_tokens=longest)
            written += self.tokenizer.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in written]


def paraphrase(
    texts: Sequence[str],
    model: str | Path | Rewriter,
    *,
    prefix: str = "",
    beams: int = 4,
    longest: int = 256,
    cache: str | Path | None = None,
    notes: list[str] | None = None,
) -> list[str]:
    """Each text in the model's words, in order; where it writes nothing, the text itself.

    `prefix` is what the model was trained to be told first ("paraphrase: "). `cache` is a file that results are kept in, a
    line each, and read from. `notes` is added to: how many came back unchanged, empty, or from the file.
    Raises ModelError if the model cannot be had, DataError for a cache that is none.
    """
    kept = _read(Path(cache)) if cache is not None else {}
    name = model.name if isinstance(model, Rewriter) else str(model)
    keys = [_key(name, prefix, beams, longest, text) for text in texts]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in kept and text.strip()}
    if missing:
        rewriter = model if isinstance(model, Rewriter) else Rewriter.load(model)
        wanted = list(missing.items())
        for start in range(0, len(wanted), AT_ONCE):  # kept as it goes, so that a stop costs little
            part = wanted[start : start + AT_ONCE]
            new = rewriter.write([text for _, text in part], prefix, beams, longest)
            made = {key: one for (key, _), one in zip(part, new, strict=True)}
            kept |= made
            if cache is not None:
                _append(Path(cache), made)
    results = [kept.get(key) or text for key, text in zip(keys, texts, strict=True)]
    if notes is not None:
        _say(texts, [kept.get(key) for key in keys], name, sum(key not in missing for key in keys), cache, notes)
    return results


def back_translate(
    texts: Sequence[str],
    there: str | Path | Rewriter,
    back: str | Path | Rewriter,
    *,
    beams: int = 4,
    longest: int = 256,
    cache: str | Path | None = None,
    notes: list[str] | None = None,
) -> list[str]:
    """Each text translated by the model `there` and its translation by the model `back`; the rest as for `paraphrase`."""
    how: dict[str, Any] = dict(beams=beams, longest=longest, cache=cache, notes=notes)
    return paraphrase(paraphrase(texts, there, **how), back, **how)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(path: Path) -> dict[str, str]:
    """What was written before. A torn last line, as a stop leaves it, is passed over."""
    if not path.exists():
        return {}
    kept: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}, in which paraphrases are to be kept, cannot be read: {error}. Name another file."
        ) from None
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
            kept[one["key"]] = one["text"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise DataError(
                    f"Line {number} of {path} is no kept paraphrase, so the file is something else. Name another for the cache."
                ) from None
    return kept


def _append(path: Path, made: dict[str, str]) -> None:
    try:
        torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" if torn else "")
            file.writelines(
                json.dumps({"key": key, "text": text}, ensure_ascii=False) + "\n" for key, text in made.items()
            )
    except OSError as error:
        raise DataError(f"{path}, in which paraphrases are to be kept, cannot be written: {error.strerror}.") from None


def _say(
    texts: Sequence[str], found: Sequence[str | None], name: str, from_file: int, cache: Any, notes: list[str]
) -> None:
    same = sum(one == text for one, text in zip(found, texts, strict=True))
    empty = sum(not one for one in found)
    notes.append(
        f"{name} rewrote {len(texts)} texts: {same} came back as they were, {empty} empty (the text itself stands there)"
        + (f", {from_file} were in {cache} already" if cache is not None and from_file else "")
        + "."
    )
