"""Texts: read from tables, folders and plain files, made into tokens, and handed out in padded batches.

Two kinds. *Labelled* texts come from a table with a column of text (.csv, .tsv, .jsonl, .parquet; packed with gzip or
not), or from folders of .txt files by class. *Running* text is a .txt file or a folder of them, out of which windows are
cut. Nothing is dropped silently: empty texts, texts cut to `data.context` and unknown symbols are counted in the notes.

    >>> data = Sentences.of(tokens, ["a cat", "cats"], torch.tensor([0, 1]), context=128)
    >>> tokens_BT, labels_B = data.batch(torch.tensor([1, 0]))
"""

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.data.arrays import Samples
from wellfit.data.augment import FOR_TEXTS, shortened, turned_on, uniform
from wellfit.data.fingerprint import fingerprint
from wellfit.data.images import class_folders, idx_file
from wellfit.data.paths import expanded
from wellfit.data.tokens import PAD, UNKNOWN, Tokens, learn
from wellfit.data.tokens import read as read_tokens
from wellfit.errors import DataError, MissingExtra
from wellfit.models import pretrained
from wellfit.recipe import Augment, Data, nearest
from wellfit.run import TASK

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".tsv.gz", ".jsonl.gz")
OF_MODEL = "pretrained:"  # before the name of a model whose tokenizer is taken
MOST_SYMBOLS = 20_000


@dataclass(frozen=True)
class Texts:
    """Texts as they were read, and what is to be told of each: its class."""

    texts: list[str]
    labels: list[str]
    rows: list[int]  # where in the file each came from, as a person counts


# ---- samples


@dataclass(frozen=True)
class Sentences(Samples):
    """Token sequences of unequal length with one label each. A batch is (tokens int64 [B, T] padded with 0, labels [B])."""

    augments = FOR_TEXTS

    flat: Tensor  # int32, all tokens one after another
    starts: Tensor  # int64 [N + 1]
    targets: Tensor  # [N]
    augment: Augment | None = None  # what is changed at random while training, decided by this seed
    seed: int = 0

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], targets: Tensor) -> "Sentences":
        sizes = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
        flat = torch.tensor([t for s in sequences for t in s], dtype=torch.int32)
        return cls(flat, torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]), targets)

    def __len__(self) -> int:
        return len(self.targets)

    def sequence(self, sample: int) -> Tensor:
        """The tokens of one sample, int64 [T]."""
        return self.flat[self.starts[sample] : self.starts[sample + 1]].long()

    def take(self, samples: Tensor) -> "Sentences":
        taken = Sentences.of([self.sequence(i).tolist() for i in samples.tolist()], self.targets[samples])
        return taken if self.augment is None else taken.varied(self.augment, self.seed)

    def varied(self, settings: Augment, seed: int) -> "Sentences":
        """The same, of which tokens are left out and swapped at random in training batches."""
        return replace(self, augment=settings if turned_on(settings, FOR_TEXTS) else None, seed=seed)

    def batch(self, samples: Tensor, epoch: int | None = None, /) -> tuple[Tensor, Tensor]:
        sequences = [self.sequence(i) for i in samples.tolist()]
        if self.augment is not None and epoch is not None:
            sequences = shortened(sequences, samples, self.augment, seed=self.seed, epoch=epoch)
        return padded(sequences), self.targets[samples]

    def lengths(self) -> Tensor:
        return self.starts.diff()

    def fingerprint(self) -> str:
        return fingerprint(self.flat, self.starts, self.targets)


@dataclass(frozen=True)
class Windows(Samples):
    """Stretches of `context` tokens of a running text. A batch is (tokens int64 [B, T], the tokens that follow [B, T]).

    While training, all windows of an epoch are moved by one random offset, so that in time every alignment is seen.
    """

    flat: Tensor  # int32 [M]
    context: int
    numbers: Tensor  # int64 [N], which windows
    seed: int = 0

    @classmethod
    def of(cls, flat: Tensor, context: int, seed: int = 0) -> "Windows":
        return cls(flat, context, torch.arange(max(0, len(flat) - 1) // context), seed)

    def varied(self, _: Augment, seed: int) -> "Windows":
        """The same, moved by what this seed draws for each epoch."""
        return replace(self, seed=seed)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, samples: Tensor) -> "Windows":
        return Windows(self.flat, self.context, self.numbers[samples], self.seed)

    def batch(self, samples: Tensor, epoch: int | None = None, /) -> tuple[Tensor, Tensor]:
        first = self.numbers[samples] * self.context
        if epoch is not None:
            moved = int(uniform(self.seed, epoch, np.zeros(1, np.int64), 0)[0] * self.context)
            first = (first + moved).clamp(max=len(self.flat) - self.context - 1)
        stretch = self.flat[first[:, None] + torch.arange(self.context + 1)].long()
        return stretch[:, :-1], stretch[:, 1:]

    def counts(self, symbols: int) -> Tensor:
        """How often each symbol comes, int64 [symbols]."""
        return torch.bincount(self.flat, minlength=symbols)

    def lengths(self) -> None:
        """They are all of one size."""

    def fingerprint(self) -> str:
        return fingerprint(self.flat, self.numbers)


def padded(sequences: Sequence[Tensor], fill: int = PAD) -> Tensor:
    """[B, T] of sequences, filled up behind to the longest; at least one column."""
    longest = max(1, max(len(s) for s in sequences))
    out = torch.full((len(sequences), longest), fill, dtype=torch.int64)
    for row, sequence in zip(out, sequences, strict=True):
        row[: len(sequence)] = sequence
    return out


# ---- reading


def holds_labelled(path: Path, data: Data) -> bool:
    """Whether labelled texts lie there: .txt files in folders by class and no pictures, or a table whose text is named."""
    name = path.name.lower()
    if path.is_file():
        return name.endswith((".jsonl", ".jsonl.gz")) or (data.text is not None and name.endswith(ENDINGS))
    base = path / "train" if (path / "train").is_dir() else path
    if class_folders(base):
        return False
    return sum(folder.is_dir() and next(folder.glob("*.txt"), None) is not None for folder in base.iterdir()) > 1


def holds_running(path: Path, data: Data) -> bool:
    """Whether running text lies there: a .txt file of which no column is named, or a folder of them.

    A .txt beside pictures, or beside the two sides of pairs that are named, tells of them and is no text to learn from.
    """
    if path.is_dir():
        base = path / "train" if (path / "train").is_dir() else path
        held = any(file.is_file() for file in path.glob("*.txt")) and None in (data.text, data.target)
        return (
            held and not class_folders(base) and not any(idx_file(path, f"{one}-images") for one in ("train", "t10k"))
        )
    return path.suffix.lower() == ".txt" and data.target is None


def labelled(path: Path, data: Data, notes: list[str]) -> Texts:
    """The texts and labels of a table or of folders by class. Raises DataError for a column that is not there."""
    if path.is_dir():
        return _by_class(path, notes)
    frame, first = table(path, (data.text, data.target))
    text, target = _columns(frame, data, path, notes)
    texts, labels, rows, empty = [], [], [], []
    for row, (one, label) in enumerate(zip(frame[text], frame[target], strict=True), start=first):
        if not isinstance(label, str) or not label.strip():
            raise DataError(
                f"Row {row} of {path} has no `{target}`, which says what its text is. Fill it in, or take the row out."
            )
        if not isinstance(one, str) or not one.strip():
            empty.append(row)
            continue
        texts.append(one)
        labels.append(label.strip())
        rows.append(row)
    _say_empty(empty, path, notes)
    if not texts:
        raise DataError(f"The column {text!r} of {path} holds no text: there is nothing to learn from.")
    return Texts(texts, labels, rows)


def table(path: Path, named: Sequence[str | None]) -> tuple[Any, int]:
    """A table of texts, every cell as it is written, and the number of its first row of data as a person counts.

    A file without a header gets the columns "1", "2", ...; it is one if none of the names asked for is in its first
    line, and the last cell of that line comes again further down.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "tabular", "Reading a table of texts") from None
    name = path.name.lower().removesuffix(".gz")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    try:
        if name.endswith(".parquet"):
            return pd.read_parquet(path).map(_written), 1
        if name.endswith(".jsonl"):
            return _json_lines(path).map(_written), 1
        separator = "\t" if name.endswith(".tsv") else ","
        # In tab-separated text a quotation mark is a character like any other.
        quoting = 3 if separator == "\t" else 0
        how = dict(dtype=str, keep_default_na=False, encoding="utf-8-sig")
        frame = pd.read_csv(path, sep=separator, header=None, quoting=quoting, **how)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}). Save it with the encoding UTF-8.") from None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, zlib.error, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table of texts: {' '.join(str(error).split())}.") from None
    head = [str(cell).strip() for cell in frame.iloc[0]]
    no_nul("".join(head), path)
    asked = [one for one in named if one is not None]
    without = not any(one in head for one in asked) and (
        all(one.isdigit() for one in asked) if asked else head[-1] in set(frame.iloc[1:, -1])
    )
    if without or _is_number(head[-1]):
        frame.columns = [str(i) for i in range(1, frame.shape[1] + 1)]
        return frame, 1
    frame.columns = head
    return frame.iloc[1:], 2


def _json_lines(path: Path) -> Any:
    import pandas as pd

    packed = path.suffix.lower() == ".gz"
    with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):  # pandas takes a list of pairs for an object
            if line.strip() and line.lstrip()[0] in '["-0123456789tfn':
                raise DataError(
                    f"Line {number} of {path} is {line.strip()[:40]!r}, which is no object. Each line must be one with names: "
                    '{"text": "...", "label": "..."}.'
                )
    return pd.read_json(path, lines=True, dtype=False, convert_axes=False, encoding="utf-8-sig")


def _written(cell: Any) -> str | None:
    """A cell as text; None where it is missing, which pandas may also say as NaN."""
    return None if cell is None or cell != cell else str(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _columns(frame: Any, data: Data, path: Path, notes: list[str]) -> tuple[str, str]:
    """The column of the text and the column of the label."""
    names = [str(name) for name in frame.columns]
    for field, name in (("text", data.text), ("target", data.target)):
        if name is not None and name not in names:
            raise DataError(
                f"`data.{field}` is {name!r}, but the columns of {path} are {', '.join(names)}.{nearest(name, names)}"
            )
    rest = [name for name in names if name != data.target and name not in data.ignore]
    text = data.text or max(rest, key=lambda name: frame[name].astype(str).str.len().mean(), default=None)
    left = [name for name in rest if name != text]
    target = data.target or (left[0] if len(left) == 1 else None)
    if text is None or target is None:
        raise DataError(
            f"{path} has the columns {', '.join(names)}, and which of them says what a text is cannot be told. "
            "Name it with `data.target=NAME` (and the text with `data.text=NAME`)."
        )
    if data.text is None:
        notes.append(
            f"The text is in the column {text!r} of {path.name}, whose entries are the longest; `data.text` names another."
        )
    if data.target is None:
        notes.append(f"The class is in the column {target!r} of {path.name}, the only other one.")
    return text, target


def _by_class(path: Path, notes: list[str]) -> Texts:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")
    texts, labels, empty, left = [], [], [], 0
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() != ".txt" or not file.is_file():
                left += 1
                continue
            text = plain(file)
            if text.strip():
                texts.append(text)
                labels.append(folder.name)
            else:
                empty.append(file.name)
    if left:
        notes.append(f"{left} files below {path} are no .txt and were not read.")
    _say_empty(empty, path, notes)
    if not texts:
        raise DataError(f"{path} holds no .txt file with text in it: there is nothing to learn from.")
    return Texts(texts, labels, list(range(1, len(texts) + 1)))


def _say_empty(empty: Sequence[Any], path: Path, notes: list[str]) -> None:
    if empty:
        notes.append(f"{len(empty)} texts in {path.name} are empty and were left out, the first is {empty[0]}.")


def plain(path: Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors set before it. Raises DataError if it is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}). Save it with the encoding UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}. Mend that, or take it out.") from None
    no_nul(text, path)
    return text


def no_nul(text: str, path: Path) -> None:
    """Raises DataError for a text that holds what UTF-16 looks like when it is read as UTF-8."""
    if "\0" in text:
        raise DataError(
            f"{path} holds NUL characters, so it looks like UTF-16 or is no text. Save it with the encoding UTF-8."
        )


def running(path: Path, notes: list[str]) -> str:
    """The text of a file, or of all .txt files below a folder, by name, with an empty line between them."""
    if path.is_file():
        return plain(path)
    found = sorted(path.rglob("*.txt"))
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataError(f"{path} holds no .txt file. For text to learn to write, name a .txt file or a folder of them.")
    notes.append(f"{len(files)} files below {path} were read in the order of their names.")
    if len(found) > len(files):
        other = next(one for one in found if not one.is_file())
        notes.append(
            f"{len(found) - len(files)} folders or links below {path} are called .txt and are no files, {other.name} for one."
        )
    return "\n\n".join(plain(file) for file in files)


# ---- making tokens


def of_run(chosen: str | None) -> bool:
    """Whether `data.tokens` names a run, whose tokens are taken over."""
    return chosen is not None and (Path(chosen) / TASK).is_file()


def tokenizer(data: Data, kind: str, texts: Sequence[str]) -> Tokens:
    """The one that `data.tokens` names, learnt from these texts where it has to be."""
    chosen = data.tokens or kind
    if of_run(chosen):
        record = json.loads((Path(chosen) / TASK).read_text(encoding="utf-8"))
        if "tokens" not in record:
            raise DataError(
                f"`data.tokens` is {chosen!r}, a run that did not learn from texts, so it has no tokens to take over."
            )
        return Tokens.of(record["tokens"])
    if chosen.startswith(OF_MODEL):
        return Tokens("hf", pairs=pretrained.tokenizer(chosen.removeprefix(OF_MODEL)))
    if chosen.endswith(".json"):
        return read_tokens(expanded(chosen, "data.tokens"))
    return learn(chosen, texts, most=data.vocabulary or MOST_SYMBOLS)


def sentences(
    tokens: Tokens, texts: Sequence[str], targets: Tensor, context: int, what: str, notes: list[str]
) -> Sentences:
    """Encoded and cut to `context` tokens; how many were cut or have unknown symbols is noted."""
    sequences = [tokens.encode(text) for text in texts]
    long = sum(len(s) > context for s in sequences)
    if long:
        notes.append(
            f"{long} of {len(texts)} {what} texts are longer than {context} tokens and were cut there; `data.context` sets another length."
        )
    unknown = sum(s.count(UNKNOWN) for s in sequences)
    total = sum(map(len, sequences))
    if unknown > 0.02 * total:
        notes.append(
            f"{unknown / total:.1%} of the symbols of the {what} texts are unknown: too rare, or not in the training texts."
        )
    return Sentences.of([tokens.cut(s, context) or [UNKNOWN] for s in sequences], targets)


def stream(tokens: Tokens, text: str, what: str, notes: list[str]) -> Tensor:
    """All tokens of a running text, int32 [M]."""
    numbers = torch.tensor(tokens.encode(text, marks=False), dtype=torch.int32)
    unknown = int((numbers == UNKNOWN).sum())
    if unknown:
        notes.append(
            f"{unknown} of {len(numbers)} symbols of the {what} text do not occur in the training text and are unknown."
        )
    return numbers
