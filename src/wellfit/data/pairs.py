"""Pairs of texts, one of which is to be made into the other: translations, summaries, questions and answers.

They come from a table (`data.text` -> `data.target`; .csv, .tsv, .jsonl, .parquet), or from two files of as many lines, named
by what they share: `train` for train.en.gz and train.de.gz, with `data.text=en` and `data.target=de`. val.* and test.* beside
them are the held-out parts. Both sides are cut into byte pairs that are learnt from the two together, so a name is the same
symbol on either side. What is empty, cut or held out although it was trained on is counted in the notes.

S tokens of a source, T of a target, with the one that ends it.

    >>> data = Pairs.of([[5, 6]], [[7, 8]], context=128)
    >>> data.batch(torch.tensor([0]))["labels"]
    tensor([[7, 8, 3]])
"""

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellfit.data import programs, texts
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.fingerprint import fingerprint
from wellfit.data.paths import VALID_FOLDERS, existing, expanded
from wellfit.data.split import fewer, split
from wellfit.data.texts import padded
from wellfit.data.tokens import END, START, UNKNOWN, Tokens
from wellfit.errors import DataError
from wellfit.recipe import Data, nearest

IGNORED = -100  # the label of padding, which losses leave out
CONTEXT = 128  # tokens of either side
MOST_DECODED = 200  # validation pairs that are written out at each evaluation; writing costs far more than reading
MOST_TESTED = 2_000  # test pairs that are written out, once; 200 leave BLEU uncertain by one to two points (Koehn 2004)
MANY_PAIRS, VOCABULARY = 20_000, (2_000, 8_000)
TEST_SHARE = 0.1  # of the embedded set
MOST_ENDING = 8  # letters of an ending that can be a language's


# ---- samples


@dataclass(frozen=True)
class Ragged:
    """Sequences of unequal length, one after another."""

    flat: Tensor  # int32 [M]
    starts: Tensor  # int64 [N + 1]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Ragged":
        sizes = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
        flat = torch.tensor([t for s in sequences for t in s], dtype=torch.int32)
        return cls(flat, torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, sample: int) -> Tensor:
        """int64 [length]"""
        return self.flat[self.starts[sample] : self.starts[sample + 1]].long()

    def take(self, samples: Tensor) -> "Ragged":
        return Ragged.of([self[i].tolist() for i in samples.tolist()])

    def lengths(self) -> Tensor:
        return self.starts.diff()


@dataclass(frozen=True)
class Pairs(Samples):
    """Sources and targets as tokens.

    A batch is {"source": int64 [B, S] padded with 0, "target": [B, T], which begins with the start token and lacks the last
    one, "labels": [B, T], what is to be said at each place, padded with -100}. Held-out parts add "references": the text of
    each target that is to be compared with what the model writes, None for one that is not.
    """

    sources: Ragged
    targets: Ragged  # with the token that ends them, where they were not cut
    references: tuple[str | None, ...] = ()  # none of a training part

    @classmethod
    def of(
        cls,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        context: int,
        references: Sequence[str | None] = (),
    ) -> "Pairs":
        """Cut to `context` tokens on either side. A target that is cut has no end, lest the model learn to stop there."""
        ended = [[*target, END][:context] for target in targets]
        return cls(Ragged.of([source[:context] for source in sources]), Ragged.of(ended), tuple(references))

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, samples: Tensor) -> "Pairs":
        chosen = tuple(self.references[i] for i in samples.tolist()) if self.references else ()
        return Pairs(self.sources.take(samples), self.targets.take(samples), chosen)

    def batch(self, samples: Tensor, _: int | None = None, /) -> dict[str, Any]:
        numbers = samples.tolist()
        labels = [self.targets[i] for i in numbers]
        start = torch.tensor([START])
        made: dict[str, Any] = {
            "source": padded([self.sources[i] for i in numbers]),
            "target": padded([torch.cat([start, one[:-1]]) for one in labels]),
            "labels": padded(labels, IGNORED),
        }
        return made | ({"references": tuple(self.references[i] for i in numbers)} if self.references else {})

    def lengths(self) -> Tensor:
        """Of both sides together, for both cost."""
        return self.sources.lengths() + self.targets.lengths()

    def fingerprint(self) -> str:
        return fingerprint(self.sources.flat, self.sources.starts, self.targets.flat, self.targets.starts)


# ---- reading


@dataclass(frozen=True)
class Read:
    """Pairs as they were read."""

    sources: list[str]
    targets: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, samples: Tensor) -> "Read":
        numbers = samples.tolist()
        return Read([self.sources[i] for i in numbers], [self.targets[i] for i in numbers])


def endings(stem: Path) -> list[str]:
    """What follows the stem in the names of the files beside it that could be one side of pairs: en, de."""
    if not stem.parent.is_dir():
        return []
    names = [path.name.removesuffix(".gz") for path in stem.parent.iterdir() if path.name.startswith(f"{stem.name}.")]
    found = {name.removeprefix(f"{stem.name}.") for name in names if f".{name.rpartition('.')[2]}" not in texts.ENDINGS}
    return sorted(ending for ending in found if 1 < len(ending) <= MOST_ENDING and ending.isidentifier())


def beside(path: Path, data: Data) -> bool:
    """Whether the path is what the names of two files have in common, and nothing itself; one of two that are named will do."""
    return not path.exists() and (len(endings(path)) > 1 or _half(path, data) is not None)


def holds(path: Path, data: Data) -> bool:
    """Whether the path is a folder with the two files of a training set whose endings are named, or one of them."""
    stem = path / "train"
    return path.is_dir() and (files(stem, data) is not None or _half(stem, data) is not None)


def files(stem: Path, data: Data) -> tuple[Path, Path] | None:
    """The files of both sides, packed or not; None if one is not there."""
    found = [_side(stem, side) for side in (data.text, data.target)]
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _side(stem: Path, side: str | None) -> Path | None:
    places = [] if side is None else [stem.parent / f"{stem.name}.{side}{end}" for end in ("", ".gz")]
    return next((place for place in places if place.is_file()), None)


def _half(stem: Path, data: Data) -> tuple[Path, str] | None:
    """The file of one side, and the ending of the other, where both are named and one alone is there."""
    found = [_side(stem, side) for side in (data.text, data.target)]
    there = found[0] or found[1]
    if data.text is None or data.target is None or there is None or None not in found:
        return None
    return there, data.target if found[0] is not None else data.text


def read(path: Path, data: Data, notes: list[str]) -> Read:
    """The pairs of a table, or of the two files with this stem. Raises DataError, saying what is there instead."""
    both = files(path, data)
    if both is not None:
        return _lines(*both, notes)
    half = _half(path, data) if not path.exists() and len(endings(path)) < 2 else None
    if half is not None:
        raise DataError(
            f"{half[0]} is one side of pairs, but the other, {path.name}.{half[1]} (or {path.name}.{half[1]}.gz), is not beside it. Put "
            "it there, or name its ending with `data.text` or `data.target`."
        )
    if beside(path, data):
        raise DataError(
            f"Beside {path} there are files ending in {', '.join(endings(path))}, and `data.text` is {data.text!r} and "
            f"`data.target` {data.target!r}. Set `data.text` to the ending of the sources and `data.target` to that of the targets."
        )
    if path.is_dir():
        raise DataError(
            f"{path} is a folder. Name a table of pairs ({', '.join(texts.ENDINGS)}), or two files of as many lines by what their "
            "names share: `train` for train.en and train.de, with `data.text=en` and `data.target=de`."
        )
    frame, _ = texts.table(path, (data.text, data.target))
    text, target = _columns([str(name) for name in frame.columns], data, path, notes)
    return _filled(list(frame[text]), list(frame[target]), path.name, notes)


def _lines(first: Path, second: Path, notes: list[str]) -> Read:
    sides = []
    for path in (first, second):
        try:
            whole = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            text = whole.decode("utf-8-sig")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text in UTF-8: {error}.") from None
        texts.no_nul(text, path)
        # Only "\n" ends a line here: `splitlines` also cuts at separators inside a sentence, and the sides come apart.
        sides.append([line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")])
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"{first} has {len(sides[0])} lines and {second.name} {len(sides[1])}; a pair is the same line of both, so there must "
            "be as many."
        )
    return _filled(sides[0], sides[1], f"{first.name} and {second.name}", notes)


def _filled(sources: list[Any], targets: list[Any], name: str, notes: list[str]) -> Read:
    """Those of which neither side is empty."""
    found, empty = Read([], []), []
    for row, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
        if all(isinstance(one, str) and one.strip() for one in (source, target)):
            found.sources.append(source.strip())
            found.targets.append(target.strip())
        else:
            empty.append(row)
    if empty:
        notes.append(
            f"{len(empty)} pairs in {name} have an empty side and were left out, the first is number {empty[0]}."
        )
    if not found.sources:
        raise DataError(f"{name} holds no pair of texts: there is nothing to learn from.")
    return found


def _columns(names: list[str], data: Data, path: Path, notes: list[str]) -> tuple[str, str]:
    for field, name in (("text", data.text), ("target", data.target)):
        if name is not None and name not in names:
            raise DataError(
                f"`data.{field}` is {name!r}, but the columns of {path} are {', '.join(names)}.{nearest(name, names)}"
            )
    if data.text is not None and data.target is not None:
        return data.text, data.target
    rest = [name for name in names if name not in (data.text, data.target, *data.ignore)]
    wanted = 2 - sum(name is not None for name in (data.text, data.target))
    if len(rest) != wanted:
        raise DataError(
            f"{path} has the columns {', '.join(names)}, and which two are the pair cannot be told. Name them with "
            "`data.text=SOURCE` and `data.target=TARGET`."
        )
    text = data.text or rest.pop(0)
    target = data.target or rest.pop(0)
    notes.append(
        f"The column {text!r} of {path.name} is made into {target!r}; `data.text` and `data.target` name others."
    )
    return text, target


# ---- made ready


def translation(data: Data, name: str, notes: list[str]) -> Loaded:
    """Pairs, from an embedded set or a path; byte pairs are learnt from the training part alone."""
    embedded = data.source == "syntax"
    source = expanded(data.source, "data.source")
    stem = source / "train" if holds(source, data) else source
    if embedded:
        found = programs.trees()
        whole = Read([one for one, _ in found], [other for _, other in found])
    else:
        whole = read(stem, data, notes)
    others = {part: read(path, data, notes) for part, path in _separate(stem, data, notes).items()}
    parts = {
        part: whole.take(numbers)
        for part, numbers in held_out(data, len(whole), TEST_SHARE if embedded else 0.0, others, notes).items()
    } | others
    seen = set(parts["train"].sources)
    for part in ("valid", "test"):
        again = sum(one in seen for one in parts[part].sources) if part in parts else 0
        if again:
            notes.append(f"{again} of {len(parts[part])} {part} sources are training sources too.")

    train = parts["train"]
    vocabulary = data.vocabulary or VOCABULARY[len(train) >= MANY_PAIRS]
    chosen = data.model_copy(update={"vocabulary": vocabulary})
    tokens = texts.tokenizer(chosen, "bpe", [*train.sources, *train.targets])
    context = data.context or CONTEXT
    made = {part: _encoded(tokens, one, context, part, notes) for part, one in parts.items()}
    letters = sum(map(len, train.targets)) / max(1, sum(map(len, train.sources)))
    return Loaded(
        "seq-to-seq", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(),
        columns={
            "tokens": tokens.as_dict(),
            "context": context,
            "longest": int(made["train"].targets.lengths().max()),
            "shortens": letters < 0.5,
        },
        notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": ("bpe", "names and rare words are spelt from parts that both sides share (Sennrich et al. 2016)"),
            "data.vocabulary": (vocabulary, f"each symbol should come often: 8,000 from {MANY_PAIRS:,} pairs on, else 2,000 (Gowda & May 2020)"),
            "data.context": (context, "tokens of either side; few sentences are longer"),
        },
        texts={part: (one.sources, one.targets) for part, one in parts.items()},
    )  # fmt: skip


def held_out(
    data: Data, samples: int, test_share: float, others: dict[str, Any], notes: list[str]
) -> dict[str, Tensor]:
    """The numbers of the samples of each part that is made from the training file, when they have no classes."""
    numbers, parts, none = torch.arange(samples), {}, torch.zeros(samples, dtype=torch.int64)
    share = data.test_share if data.test_share is not None else test_share
    for part, what, wanted in (("test", "test", share), ("valid", "validation", data.valid_share)):
        if wanted and part not in others:
            numbers, parts[part] = split(numbers, none, wanted, seed=data.split_seed, what=what, stratify=False)
    return {"train": fewer(data, numbers, notes), **parts}


def _separate(stem: Path, data: Data, notes: list[str]) -> dict[str, Path]:
    """Validation and test pairs that are named, or lie beside a stem `train`."""
    found: dict[str, Path] = {}
    for part in ("valid", "test"):
        named = getattr(data, part)
        if named is not None:
            path = expanded(named, f"data.{part}")
            found[part] = path if beside(path, data) else existing(named, f"data.{part}")
    if files(stem, data) is None or not stem.name.startswith("train"):
        return found
    for name in VALID_FOLDERS:
        if "valid" not in found and files(stem.parent / name, data) is not None:
            found["valid"] = stem.parent / name
    starts = {path.name.split(".")[0] for path in stem.parent.iterdir() if path.name.startswith("test")}
    tests = sorted(one for one in starts if files(stem.parent / one, data) is not None)
    if "test" not in found and tests:
        if len(tests) == 1 or "test" in tests:
            found["test"] = stem.parent / ("test" if "test" in tests else tests[0])
        else:
            notes.append(f"Which of {', '.join(tests)} is the test set cannot be told; name it with `data.test=PATH`.")
    return found


def _encoded(tokens: Tokens, pairs: Read, context: int, part: str, notes: list[str]) -> Pairs:
    sources, targets = ([tokens.encode(text) or [UNKNOWN] for text in side] for side in (pairs.sources, pairs.targets))
    for side, sequences, room in (("sources", sources, context), ("targets", targets, context - 1)):
        long = sum(len(s) > room for s in sequences)
        if long:
            notes.append(
                f"{long} of {len(sequences)} {part} {side} are longer than {room} tokens and were cut there; `data.context` sets "
                "another length."
            )
    unknown = sum(s.count(UNKNOWN) for s in (*sources, *targets))
    total = sum(map(len, (*sources, *targets)))
    if unknown > 0.02 * total:
        notes.append(
            f"{unknown / total:.1%} of the symbols of the {part} pairs are unknown: too rare, or not in the training pairs."
        )
    if part == "train":
        return Pairs.of(sources, targets, context)
    most, when = (MOST_TESTED, "") if part == "test" else (MOST_DECODED, " at each evaluation")
    chosen = set(torch.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().long().tolist())
    if len(chosen) < len(pairs):
        notes.append(
            f"Of {len(pairs)} {part} pairs, {len(chosen)}, evenly spread, are written out and compared{when} (BLEU, chrF); loss and "
            "perplexity are of all."
        )
    return Pairs.of(sources, targets, context, [t if i in chosen else None for i, t in enumerate(pairs.targets)])
