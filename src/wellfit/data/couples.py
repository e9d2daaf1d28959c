"""Two texts that belong together, or a score of how alike they are: what vectors of sentences are learnt from.

They come from a table (.csv, .tsv, .jsonl, .parquet). With a column of numbers beside the two of texts, each pair has a
*score*, which is brought to 0 (the lowest in the training part) to 1 (the highest). Without one every pair belongs together,
and within a batch the texts of other pairs do not, unless they are the same texts: which are, is told to the loss.

    >>> data = matching(Data(source="docstrings"), "docstrings", []).train
    >>> a_BS, b_BT, groups_B2 = data.batch(torch.tensor([0, 1]))
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellfit.data import programs, texts
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.fingerprint import fingerprint
from wellfit.data.pairs import Ragged, held_out
from wellfit.data.paths import expanded, separate
from wellfit.data.texts import padded
from wellfit.data.tokens import UNKNOWN, Tokens
from wellfit.errors import DataError
from wellfit.recipe import Data, nearest

USUAL = {"ngram": (50_000, 1024)}  # by kind of token: different ones, and how many of a text; a word has a dozen groups
VOCABULARY, CONTEXT = 8_000, 64  # of other kinds
FEW = 20_000  # pairs, of which little more than words can be learnt
TEST_SHARE = 0.1  # of the embedded set


@dataclass(frozen=True)
class Couples(Samples):
    """A batch is (first texts int64 [B, S], second texts [B, T], both padded with 0, targets).

    Targets are float32 [B], scores from 0 to 1, or int64 [B, 2]: numbers that are equal where texts are, on either side.
    """

    first: Ragged
    second: Ragged
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, samples: Tensor) -> "Couples":
        return Couples(self.first.take(samples), self.second.take(samples), self.targets[samples])

    def batch(self, samples: Tensor, _: int | None = None, /) -> tuple[Tensor, Tensor, Tensor]:
        numbers = samples.tolist()
        sides = (padded([side[i] for i in numbers]) for side in (self.first, self.second))
        return (*sides, self.targets[samples])  # type: ignore[return-value]

    def lengths(self) -> Tensor:
        return self.first.lengths() + self.second.lengths()

    def fingerprint(self) -> str:
        return fingerprint(self.first.flat, self.first.starts, self.second.flat, self.second.starts, self.targets)


@dataclass(frozen=True)
class Read:
    """Couples as they were read; `scores` is None where all belong together."""

    first: list[str]
    second: list[str]
    scores: list[float] | None

    def __len__(self) -> int:
        return len(self.first)

    def take(self, samples: Tensor) -> "Read":
        numbers = samples.tolist()
        scores = None if self.scores is None else [self.scores[i] for i in numbers]
        return Read([self.first[i] for i in numbers], [self.second[i] for i in numbers], scores)


# ---- reading


def read(path: Path, data: Data, notes: list[str]) -> Read:
    """The couples of a table. Raises DataError for columns that are not there or cannot be told, and scores that are none."""
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name a table with two columns of texts ({', '.join(texts.ENDINGS)}).")
    frame, start = texts.table(path, (data.text, data.other, data.target))
    one, other, score = _columns(frame, data, path, notes)
    found = Read([], [], None if score is None else [])
    empty: list[int] = []
    values = [None] * len(frame) if score is None else list(frame[score])
    for row, (a, b, value) in enumerate(zip(frame[one], frame[other], values, strict=True), start=start):
        if not all(isinstance(text, str) and text.strip() for text in (a, b)):
            empty.append(row)
            continue
        if found.scores is not None:
            number = _number(value)
            if number is None:
                raise DataError(
                    f"Row {row} of {path} has {value!r} in the column {score!r}, which is no score. Give it a number, or take the "
                    "row out; without `data.target`, all pairs of a table of two columns belong together."
                )
            found.scores.append(number)
        found.first.append(a.strip())
        found.second.append(b.strip())
    if empty:
        notes.append(
            f"{len(empty)} pairs in {path.name} have an empty side and were left out, the first is in row {empty[0]}."
        )
    if not len(found):
        raise DataError(f"{path} holds no pair of texts: there is nothing to learn from.")
    return found


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < float("inf") else None  # false for NaN


def _columns(frame: Any, data: Data, path: Path, notes: list[str]) -> tuple[str, str, str | None]:
    """The columns of both texts, and of the score if there is one."""
    names = [str(name) for name in frame.columns]
    for field in ("text", "other", "target"):
        name = getattr(data, field)
        if name is not None and name not in names:
            raise DataError(
                f"`data.{field}` is {name!r}, but the columns of {path} are {', '.join(names)}.{nearest(name, names)}"
            )
    rest = [name for name in names if name not in (data.text, data.other, data.target, *data.ignore)]
    # One cell that is no number makes no text of a column of scores: it is named when it is read.
    numeric = [name for name in rest if 2 * sum(_number(cell) is not None for cell in frame[name]) > len(frame)]
    score = data.target or (numeric[0] if len(numeric) == 1 and len(rest) == len(names) == 3 else None)
    written = [name for name in rest if name != score]
    missing = [data.text, data.other].count(None)
    if len(written) != missing and missing:
        raise DataError(
            f"{path} has the columns {', '.join(names)}, and which two hold the texts cannot be told. Name them with "
            "`data.text=NAME` and `data.other=NAME` (and a score of how alike they are with `data.target=NAME`)."
        )
    one = data.text or written.pop(0)
    other = data.other or written.pop(0)
    if score is not None and data.target is None:
        notes.append(f"The column {score!r} of {path.name} holds numbers, and is the score of how alike the texts are.")
    return one, other, score


# ---- made ready


def matching(data: Data, name: str, notes: list[str]) -> Loaded:
    """Couples, from an embedded set or a path; symbols are learnt from the training part alone."""
    embedded = data.source == "docstrings"
    if embedded:
        found = programs.described()
        whole = Read([one for one, _ in found], [other for _, other in found], None)
    else:
        whole = read(expanded(data.source, "data.source"), data, notes)
    others = {part: read(path, data, notes) for part, path in separate(data).items()}
    for part, other in others.items():
        if (other.scores is None) != (whole.scores is None):
            raise DataError(
                f"The {part} set has {'no ' if other.scores is None else ''}scores, and the training set has "
                f"{'no ' if whole.scores is None else ''}scores. Both must be of the same kind."
            )
    parts = {
        part: whole.take(numbers)
        for part, numbers in held_out(data, len(whole), TEST_SHARE if embedded else 0.0, others, notes).items()
    } | others
    train = parts["train"]
    low, high = (min(train.scores), max(train.scores)) if train.scores is not None else (0.0, 1.0)
    if low == high:
        raise DataError(f"All scores in {data.source} are {low:g}; there is nothing to tell apart.")
    if train.scores is not None:
        notes.append(f"Scores from {low:g} to {high:g} are learnt as cosines from 0 to 1.")
    kind = data.tokens or ("ngram" if len(train) < FEW else "word")
    vocabulary, context = USUAL.get(kind, (VOCABULARY, CONTEXT))
    chosen = data.model_copy(update={"vocabulary": data.vocabulary or vocabulary})
    tokens = texts.tokenizer(chosen, kind, [*train.first, *train.second])
    context = data.context or context
    made = {part: _encoded(tokens, one, context, (low, high), part, notes) for part, one in parts.items()}
    metric = "mrr" if train.scores is None else "spearman"
    return Loaded(
        "sentence-embeddings", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(),
        columns={"tokens": tokens.as_dict(), "context": context}, notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": (kind, f"of fewer than {FEW:,} pairs many words come once, and are known by their letters (Bojanowski et al. 2017)")
            if kind == "ngram" else (kind, "words carry the meaning of a sentence"),
            **({"model": ({"kind": "bag"}, "letters in groups have no order that an encoder could read")} if kind == "ngram" else {}),
            "data.vocabulary": (chosen.vocabulary, "what is rarer teaches little"),
            "data.context": (context, "few sentences are longer"),
            "loss.kind": ("cross-entropy", "of a text's partner among all of the batch (van den Oord et al. 2018)")
            if train.scores is None else ("mse", "between cosine and score (Reimers & Gurevych 2019, 3)"),
            "evaluation.metric": (metric, "what the vectors are for; the loss depends on what else is in a batch"),
        },
        texts={part: (one.first, one.second, one.scores) for part, one in parts.items()},
    )  # fmt: skip


def _encoded(
    tokens: Tokens, couples: Read, context: int, scale: tuple[float, float], part: str, notes: list[str]
) -> Couples:
    sides = [[tokens.encode(text) for text in side] for side in (couples.first, couples.second)]
    everything = [one for side in sides for one in side]
    long = sum(len(one) > context for one in everything)
    if long:
        notes.append(
            f"{long} of {len(everything)} {part} texts are longer than {context} tokens and were cut there; `data.context` sets "
            "another length."
        )
    unknown, total = sum(one.count(UNKNOWN) for one in everything), sum(map(len, everything))
    if unknown > 0.02 * total:
        notes.append(
            f"{unknown / total:.1%} of the symbols of the {part} texts are unknown: too rare, or not in the training texts."
        )
    if couples.scores is None:
        groups = [
            {text: i for i, text in enumerate(dict.fromkeys(side))} for side in (couples.first, couples.second)
        ]  # which texts are the same
        pairs = [(groups[0][a], groups[1][b]) for a, b in zip(couples.first, couples.second, strict=True)]
        twice = len(pairs) - len(set(pairs))
        if twice:
            notes.append(f"{twice} of {len(pairs)} {part} pairs come more than once.")
        targets = torch.tensor(pairs, dtype=torch.int64)
    else:
        low, high = scale
        targets = torch.tensor([(score - low) / (high - low) for score in couples.scores], dtype=torch.float32)
    first, second = (Ragged.of([tokens.cut(one, context) or [UNKNOWN] for one in side]) for side in sides)
    return Couples(first, second, targets)
