"""Sentences of words with a tag each: names, parts of speech, or what a name in a program stands for.

Files are as at CoNLL: a word and its tag a line (further columns between them are left alone), separated by a tab or by spaces,
an empty line between sentences; -DOCSTART- lines are skipped and counted. Tags mark *spans* if all but "O" begin with B-, I-,
E-, S-, L- or U- (BIO, IOB2, BIOES, BILOU); otherwise each word's tag stands for itself. A line that has no tag, or another
number of columns than the first, is an error with its number.

A word that comes only once in the training part, or not at all, is known by its *shape*: how it is written, and its last two
letters ("Xx:ly"), as taggers before embeddings had it (Collins 2002). So much can be said of words that were never seen.

    >>> shape("Anxiously"), shape("3.14"), shape("os_path")
    ('Xx:ly', 'd.d:14', 'x_x:th')
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wellfit.data import programs
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.fingerprint import fingerprint
from wellfit.data.pairs import IGNORED, Ragged, held_out
from wellfit.data.paths import expanded, separate
from wellfit.data.texts import padded, plain
from wellfit.data.tokens import PAD, SPECIAL, UNKNOWN
from wellfit.errors import DataError
from wellfit.recipe import Data

ENDINGS = (".conll", ".conll2003", ".bio", ".iob", ".iob2", ".bioes", ".bilou")
OUTSIDE = "O"
PREFIXED = re.compile(r"[BIESLU]-\S+")
WORDS = 20_000
CONTEXT = 128  # words
TEST_SHARE = 0.1  # of the embedded set


# ---- samples


@dataclass(frozen=True)
class Tagged(Samples):
    """A batch is (words int64 [B, T] padded with 0, tags int64 [B, T] padded with -100)."""

    words: Ragged
    tags: Ragged

    def __len__(self) -> int:
        return len(self.words)

    def take(self, samples: Tensor) -> "Tagged":
        return Tagged(self.words.take(samples), self.tags.take(samples))

    def batch(self, samples: Tensor, _: int | None = None, /) -> tuple[Tensor, Tensor]:
        numbers = samples.tolist()
        return padded([self.words[i] for i in numbers], PAD), padded([self.tags[i] for i in numbers], IGNORED)

    def lengths(self) -> Tensor:
        return self.words.lengths()

    def fingerprint(self) -> str:
        return fingerprint(self.words.flat, self.words.starts, self.tags.flat)


@dataclass(frozen=True)
class Vocabulary:
    """Numbers for words: of those that are known by themselves, and of the shapes of all others."""

    words: Mapping[str, int]  # shapes are among them, behind a NUL that no word has

    @classmethod
    def learn(cls, sentences: Sequence[Sequence[str]], most: int) -> "Vocabulary":
        """Words that come twice, the most frequent first; of all others the shapes, without the letters if these come once."""
        counts = Counter(word for sentence in sentences for word in sentence)
        kept = [word for word, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if count > 1][:most]
        rare = sorted(set(counts) - set(kept))
        shapes = Counter(shape(word) for word in rare)
        full = sorted(one for one, count in shapes.items() if count > 1)
        bare = sorted({one.split(":")[0] for one, count in shapes.items() if count == 1})
        return cls.of([*kept, *(f"\0{one}" for one in (*full, *bare))])

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.words)

    def encode(self, sentence: Sequence[str]) -> list[int]:
        """A word's number, or its shape's where the word is not known; `UNKNOWN` where neither is."""
        found = self.words
        numbers = []
        for word in sentence:
            form = f"\0{shape(word)}"
            numbers.append(found.get(word) or found.get(form) or found.get(form.split(":")[0], UNKNOWN))
        return numbers

    def as_list(self) -> list[str]:
        """Plain data, from which `of` makes the same again."""
        return list(self.words)

    @classmethod
    def of(cls, symbols: Sequence[str]) -> "Vocabulary":
        return cls({symbol: i for i, symbol in enumerate(symbols, start=len(SPECIAL))})


def shape(word: str) -> str:
    """How a word is written: runs of capitals, small letters and digits as one sign each, and its last two characters."""
    signs = re.sub(r"\d+", "d", re.sub(r"[^\W\d_]+", lambda run: _case(run.group()), word))
    return f"{signs[:8]}:{word[-2:].lower()}"


def _case(letters: str) -> str:
    return "X" if letters.isupper() else "Xx" if letters[0].isupper() else "x"


# ---- reading


@dataclass(frozen=True)
class Read:
    """Sentences as they were read."""

    words: list[list[str]]
    tags: list[list[str]]

    def __len__(self) -> int:
        return len(self.words)

    def take(self, samples: Tensor) -> "Read":
        numbers = samples.tolist()
        return Read([self.words[i] for i in numbers], [self.tags[i] for i in numbers])


def holds(path: Path, _: Data | None = None) -> bool:
    """Whether the path is a file of tagged words by its ending."""
    return path.is_file() and path.suffix.lower() in ENDINGS


def read(path: Path, notes: list[str]) -> Read:
    """The sentences of a file. Raises DataError with the number of the first line that is broken."""
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name a file with a word and its tag on each line.")
    found = Read([], [])
    words: list[str] = []
    tags: list[str] = []
    columns = documents = 0
    seen: dict[bool, tuple[int, str]] = {}  # whether prefixed -> where first, and which
    for number, line in enumerate([*plain(path).split("\n"), ""], start=1):
        line = line.rstrip("\r")
        if not line.strip():
            if words:
                found.words.append(words)
                found.tags.append(tags)
                words, tags = [], []
            continue
        if line.startswith("-DOCSTART-"):
            documents += 1
            continue
        parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if len(parts) < 2 or not parts[0] or not parts[-1]:
            raise DataError(
                f"Line {number} of {path} is {line!r}; it must be a word and its tag, separated by a tab or a space, or be empty "
                "between sentences."
            )
        columns = columns or len(parts)
        if len(parts) != columns:
            raise DataError(
                f"Line {number} of {path} has {len(parts)} columns, {line!r}, but the lines before it have {columns}. Mend it: the "
                "first column is the word and the last its tag."
            )
        words.append(parts[0])
        tags.append(parts[-1])
        if parts[-1] != OUTSIDE:
            seen.setdefault(PREFIXED.fullmatch(parts[-1]) is not None, (number, parts[-1]))
    if len(seen) == 2:
        (with_number, with_prefix), (without_number, without) = seen[True], seen[False]
        raise DataError(
            f"{path} has the tag {with_prefix!r} in line {with_number} and {without!r} in line {without_number}: either all tags but "
            "O begin with B-, I-, E-, S-, L- or U-, and mark spans, or none does."
        )
    if not found.words:
        raise DataError(f"{path} holds no word with a tag: there is nothing to learn from.")
    if documents:
        notes.append(f"{documents} lines -DOCSTART- in {path.name} were skipped.")
    if columns > 2:
        notes.append(
            f"{path.name} has {columns} columns; the first is the word, the last its tag, the others are not used."
        )
    loose = sum(
        tag.startswith(("I-", "E-", "L-")) and not continues(before, tag)
        for sentence in found.tags
        for before, tag in zip([OUTSIDE, *sentence], sentence, strict=False)
    )
    if loose and True in seen:
        notes.append(f"{loose} spans in {path.name} begin with I-, E- or L-, as in IOB1; they are counted as spans.")
    return found


def continues(before: str, tag: str) -> bool:
    """Whether a word goes on with the span of the word before it, given the tags of both, as conlleval has it."""
    return before[:2] in ("B-", "I-") and tag[:2] in ("I-", "E-", "L-") and before[2:] == tag[2:]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first, last + 1) of each span, as conlleval (Tjong Kim Sang & De Meulder 2003) and seqeval find them.

    Every word whose tag is not "O" is in one: it goes on with the span before it if that can go on and the type is the same,
    and begins another one otherwise.
    """
    found: list[tuple[str, int, int]] = []
    for i, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
        if continues(before, tag):
            kind, first, _ = found.pop()
            found.append((kind, first, i + 1))
        elif tag != OUTSIDE:
            found.append((tag[2:], i, i + 1))
    return found


# ---- made ready


def tagging(data: Data, name: str, notes: list[str]) -> Loaded:
    """Tagged sentences, from an embedded set or a path; words are learnt from the training part alone."""
    embedded = data.source == "python-names"
    if embedded:
        lines = programs.named()
        whole = Read([words for words, _ in lines], [tags for _, tags in lines])
    else:
        whole = read(expanded(data.source, "data.source"), notes)
    others = {part: read(path, notes) for part, path in separate(data).items()}
    classes = tuple(sorted({tag for sentence in whole.tags for tag in sentence}))
    if len(classes) < 2:
        raise DataError(f"All words in {data.source} have the tag {classes[0]!r}; there is nothing to tell apart.")
    if len(classes) > max(20, sum(map(len, whole.tags)) // 10):
        raise DataError(
            f"The last column of {data.source} has {len(classes)} different entries, {classes[0]!r} for one: these are no tags. "
            "A line is a word, and its tag in the last column."
        )
    for part, other in others.items():
        strange = next((tag for sentence in other.tags for tag in sentence if tag not in classes), None)
        if strange is not None:
            raise DataError(
                f"{getattr(data, part) or part} has the tag {strange!r}, which the training data does not have ({', '.join(classes[:20])})."
            )
    parts = {
        part: whole.take(numbers)
        for part, numbers in held_out(data, len(whole), TEST_SHARE if embedded else 0.0, others, notes).items()
    } | others
    vocabulary = Vocabulary.learn(parts["train"].words, data.vocabulary or WORDS)
    context = data.context or CONTEXT
    number = {tag: i for i, tag in enumerate(classes)}
    made = {part: _encoded(vocabulary, number, one, context, part, notes) for part, one in parts.items()}
    if data.tokens not in (None, "word"):
        raise DataError(f"`data.tokens` is {data.tokens!r}, but tags are of words; leave it open, or set it to word.")
    return Loaded(
        "token-classification", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(), classes,
        columns={"words": vocabulary.as_list(), "context": context}, notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.tokens": ("word", "tags are of words"),
            "data.vocabulary": (data.vocabulary or WORDS, "rarer words are known by their shape"),
            "data.context": (context, "words of a sentence; longer ones are cut into several"),
        },
        texts={part: (one.words, one.tags) for part, one in parts.items()},
    )  # fmt: skip


def _encoded(
    vocabulary: Vocabulary, number: Mapping[str, int], read: Read, context: int, part: str, notes: list[str]
) -> Tagged:
    long = sum(len(sentence) > context for sentence in read.words)
    if long:
        notes.append(
            f"{long} of {len(read)} {part} sentences have more than {context} words and were cut into several; `data.context` sets "
            "another length."
        )
    words: list[list[int]] = []
    tags: list[list[int]] = []
    for sentence, said in zip(read.words, read.tags, strict=True):
        for first in range(0, len(sentence), context):
            words.append(vocabulary.encode(sentence[first : first + context]))
            tags.append([number[tag] for tag in said[first : first + context]])
    unknown, total = sum(one.count(UNKNOWN) for one in words), sum(map(len, words))
    if unknown > 0.02 * total:
        notes.append(f"{unknown / total:.1%} of the {part} words are unknown, and so are their shapes.")
    return Tagged(Ragged.of(words), Ragged.of(tags))


def columns(record: Mapping[str, Any]) -> tuple[Vocabulary, list[str], int]:
    """What a run's record tells: words, tags, and how many words are looked at together."""
    return Vocabulary.of(record["words"]), list(record["classes"]), int(record["context"])
