"""Text data sets, made ready for their tasks: read, checked, split, and turned into tokens by the training part alone.

>>> loaded = classification(Data(source="stdlib-kinds"), "stdlib-kinds", [])
>>> loaded.classes
('code', 'comment', 'docstring')
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellfit.data import chats, stdlib, texts
from wellfit.data.arrays import Loaded
from wellfit.data.paths import expanded, separate
from wellfit.data.split import fewer, split
from wellfit.data.texts import Texts, Windows
from wellfit.errors import DataError
from wellfit.recipe import Data

LONGEST_TEXT = 256  # tokens of a text that is to be classified
WINDOW = 128  # tokens of running text that are learnt from together
TEST_SHARE = 0.1  # of the embedded sets


def classification(data: Data, name: str, notes: list[str]) -> Loaded:
    """Labelled texts, from an embedded set or a path."""
    embedded = data.source == "stdlib-kinds"
    if embedded:
        pairs = stdlib.kinds()
        whole = Texts([text for text, _ in pairs], [kind for _, kind in pairs], list(range(1, len(pairs) + 1)))
    else:
        whole = texts.labelled(_base(Path(data.source)), data, notes)
    others = {part: texts.labelled(path, data, notes) for part, path in separate(data).items()}
    classes = tuple(sorted(set(whole.labels)))
    if len(classes) < 2:
        raise DataError(f"All texts in {data.source} are of the class {classes[0]!r}; there is nothing to tell apart.")
    if len(classes) > max(20, len(whole.labels) // 5):
        raise DataError(
            f"The column of the class in {data.source} has {len(classes)} different entries among {len(whole.labels)} texts, "
            f"{classes[0]!r} for one: these are no classes. Name the right column with `data.target`."
        )
    targets = _numbered(whole, classes, data.source)
    parts = _held_out(data, targets, TEST_SHARE if embedded else 0.0, others, classes, notes)
    chosen = {part: [whole.texts[i] for i in numbers.tolist()] for part, numbers in parts.items()}
    tokens = texts.tokenizer(data, "word", chosen["train"])
    context = data.context or LONGEST_TEXT
    made = {
        part: texts.sentences(tokens, chosen[part], targets[numbers], context, part, notes)
        for part, numbers in parts.items()
    }
    raw: dict[str, tuple[Any, ...]] = {
        part: (chosen[part], targets[numbers].tolist()) for part, numbers in parts.items()
    }
    for part, other in others.items():
        numbers = _numbered(other, classes, getattr(data, part) or data.source)
        made[part] = texts.sentences(tokens, other.texts, numbers, context, part, notes)
        raw[part] = (other.texts, numbers.tolist())
    return Loaded(
        "text-classification", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(), classes,
        columns={"tokens": tokens.as_dict(), "context": context}, notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": ("word", "words carry the meaning of a text, and most of a small set's are known"),
            "data.vocabulary": (texts.MOST_SYMBOLS, "what is rarer teaches little"),
            "data.context": (context, "most of what a text says is in its beginning, and attention costs its length squared"),
        },
        texts=raw,
    )  # fmt: skip


def generation(data: Data, name: str, notes: list[str]) -> Loaded:
    """Conversations, or running text, cut into windows. Of that the end is held out, so that no window lies in two parts."""
    path = expanded(data.source, "data.source")
    if path.name.lower().endswith(chats.ENDINGS) or chats.holds(path):
        return chats.conversing(data, name, notes)
    idle = [one for one in ("template", "packing") if getattr(data, one) is not None]
    idle += ["learn_from"] if data.learn_from != "assistant" else []
    if idle:
        notes.append(f"Without effect on running text: {', '.join(f'`data.{one}`' for one in idle)}.")
    text = stdlib.running() if data.source == "stdlib" else texts.running(path, notes)
    others = {part: texts.running(path, notes) for part, path in separate(data).items()}
    context = data.context or WINDOW
    shares = {
        "test": 0.0
        if "test" in others
        else data.test_share
        if data.test_share is not None
        else (TEST_SHARE if data.source == "stdlib" else 0.0),
        "valid": 0.0 if "valid" in others else data.valid_share,
    }
    end = len(text)
    pieces = {}
    for part, share in shares.items():
        if share:
            start = end - round(share * len(text))
            pieces[part], end = text[start:end], start
    pieces |= others
    pieces["train"] = text[:end]
    tokens = texts.tokenizer(data, "char", [pieces["train"]])
    made = {}
    for part, piece in pieces.items():
        stream = texts.stream(tokens, piece, part, notes)
        made[part] = Windows.of(stream, context)
        if not len(made[part]):
            raise DataError(
                f"The {part} part of {data.source} has {len(stream)} symbols, fewer than one window of {context} and the one after it. "
                "Give it more text, or set a smaller `data.context`."
            )
    return Loaded(
        "text-generation", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(),
        columns={"tokens": tokens.as_dict(), "context": context}, notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": ("char", "nothing is unknown, and a small model can learn to spell"),
            "data.vocabulary": (texts.MOST_SYMBOLS, "more than any alphabet has"),
            "data.context": (context, "a few lines, which is what a small model can make use of"),
        },
    )  # fmt: skip


# ---- shared by all text sets


def _base(path: Path) -> Path:
    return path / "train" if (path / "train").is_dir() else path


def _numbered(found: Texts, classes: Sequence[str], path: Any) -> Tensor:
    number = {name: i for i, name in enumerate(classes)}
    for label, row in zip(found.labels, found.rows, strict=True):
        if label not in number:
            raise DataError(
                f"Row {row} of {path} has the class {label!r}, which the training data does not have ({', '.join(classes[:20])})."
            )
    return torch.tensor([number[label] for label in found.labels])


def _held_out(
    data: Data, targets: Tensor, test_share: float, others: dict[str, Any], classes: Sequence[str], notes: list[str]
) -> dict[str, Tensor]:
    """The numbers of the samples of each part that is made from the training file."""
    samples, parts = torch.arange(len(targets)), {}
    how: dict[str, Any] = dict(seed=data.split_seed, stratify=bool(classes), names=classes)
    share = data.test_share if data.test_share is not None else test_share
    if share and "test" not in others:
        samples, parts["test"] = split(samples, targets, share, what="test", **how)
    if data.valid_share and "valid" not in others:
        samples, parts["valid"] = split(samples, targets, data.valid_share, what="validation", **how)
    return {"train": fewer(data, samples, notes, targets, classes), **parts}
