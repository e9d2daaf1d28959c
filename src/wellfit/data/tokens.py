"""From text to numbers and back: characters, bytes, words, words with their groups of letters, or byte pairs.

What a number stands for is learnt from the training texts alone and kept as plain data with the run. Characters and bytes
need no learning to speak of and any text can be written with them, but texts become long. Words carry meaning by
themselves, and those that were not seen are unknown. Beside their groups of 3 to 5 letters (Bojanowski et al. 2017) those are
known by their parts; such tokens are for bags, where order does not matter. Byte pairs (Sennrich et al. 2016) are in between: frequent words are
one symbol, rare ones several, nothing is unknown; the `tokenizers` library learns and applies them.

    >>> tokens = learn("char", ["a cat"], most=100)
    >>> tokens.decode(tokens.encode("a cat"))
    'a cat'
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellfit.errors import DataError, MissingExtra

PAD, UNKNOWN, START, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
KINDS = ("char", "byte", "word", "ngram", "bpe")
GROUPS = range(3, 6)  # letters in a group
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how SentencePiece spells a byte
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Tokens:
    """Numbers for the symbols of a text. `symbols` are without the four special ones, which come first."""

    kind: str
    symbols: tuple[str, ...] = ()
    pairs: str = ""  # for byte pairs, what `tokenizers` writes
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._numbers.update({symbol: i for i, symbol in enumerate(self.symbols, start=len(SPECIAL))})

    def __len__(self) -> int:
        if self.kind == "byte":
            return len(SPECIAL) + 256
        if self.kind == "hf":
            return len(SPECIAL) + len(_sizes(self.pairs))
        return int(_pairs(self.pairs).get_vocab_size()) if self.kind == "bpe" else len(SPECIAL) + len(self.symbols)

    def encode(self, text: str, *, marks: bool = True, literal: bool = False) -> list[int]:
        """The numbers of a text; what was never seen is `UNKNOWN`.

        Of tokens of the kind `hf`, with the marks that their model was trained to see round a text, unless `marks` is False.
        `literal`: a text that spells a mark, such as "</s>", is text like any other.
        """
        if self.kind == "byte":
            return [len(SPECIAL) + byte for byte in text.encode("utf-8", "surrogatepass")]
        if self.kind == "bpe":
            return _encoded(self.pairs, text, False, literal)
        if self.kind == "hf":  # moved up by the four special ones
            return [len(SPECIAL) + n for n in _encoded(self.pairs, text, marks, literal)]
        known = self._numbers
        symbols = SYMBOLS[self.kind](text)
        if self.kind == "ngram":  # an unknown group says nothing that its known neighbours do not
            return [known[symbol] for symbol in symbols if symbol in known]
        return [known.get(symbol, UNKNOWN) for symbol in symbols]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of numbers, as far as it can be written again: words are put side by side with spaces."""
        ordinary = [n for n in map(int, numbers) if n >= len(SPECIAL) or n == UNKNOWN]
        if self.kind == "byte":
            return bytes(n - len(SPECIAL) for n in ordinary if n != UNKNOWN).decode("utf-8", "replace")
        if self.kind == "bpe":
            return str(_pairs(self.pairs).decode(ordinary, skip_special_tokens=True))
        if self.kind == "hf":
            return str(
                _pairs(self.pairs).decode(
                    [n - len(SPECIAL) for n in ordinary if n != UNKNOWN], skip_special_tokens=True
                )
            )
        if self.kind == "ngram":
            written = (self.symbols[n - len(SPECIAL)] for n in ordinary if n != UNKNOWN)
            return " ".join(one[1:-1] for one in written if one[0] == "<" and one[-1] == ">")
        parts = ["\N{REPLACEMENT CHARACTER}" if n == UNKNOWN else self.symbols[n - len(SPECIAL)] for n in ordinary]
        return ("" if self.kind == "char" else " ").join(parts)

    def cut(self, numbers: Sequence[int], most: int) -> list[int]:
        """The first `most` of an encoded text. The marks with which its model ends every text stay at the end."""
        kept = list(numbers)
        if len(kept) <= most:
            return kept
        ends = min(_ends(self.pairs), most) if self.kind == "hf" else 0
        return kept[: most - ends] + kept[len(kept) - ends :]

    def marks(self) -> dict[str, bool]:
        """What a tokenizer of another library has as marks, by how they are spelt, and whether each is left out of texts."""
        if not self.pairs:
            return {}
        return {
            str(mark.content): bool(mark.special) for mark in _pairs(self.pairs).get_added_tokens_decoder().values()
        }

    def sizes(self) -> list[int]:
        """How many bytes of UTF-8 each number stands for in a text; marks stand for none."""
        if self.kind == "byte":
            return [0] * len(SPECIAL) + [1] * 256
        if self.kind == "hf":
            return [0] * len(SPECIAL) + list(_sizes(self.pairs))
        if self.kind == "bpe":
            return list(_sizes(self.pairs))[: len(self)]
        return [len(self.decode([i]).encode("utf-8", "surrogatepass")) for i in range(len(self))]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, from which `of` makes the same again."""
        return {"kind": self.kind, "symbols": list(self.symbols), "pairs": self.pairs}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Tokens":
        return cls(record["kind"], tuple(record["symbols"]), record["pairs"])


def check_letters(text: str, where: str) -> None:
    """Raises DataError for half a surrogate pair, which JSON and bytes that are no UTF-8 can leave in a text, and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} has {text[error.start]!a} at its letter {error.start + 1}: half a surrogate pair, which is no character. It may not "
            "have been written as UTF-8; save it so, or take the letter out."
        ) from None


def learn(kind: str, texts: Sequence[str], *, most: int) -> Tokens:
    """The symbols of these texts, the most frequent first, at most `most` of them; of words, those that come twice."""
    if kind not in KINDS:
        raise DataError(f"`data.tokens` is {kind!r}; it can be {', '.join(KINDS)}, or the path of a tokenizer.json.")
    if kind == "byte":
        return Tokens("byte")
    if kind == "bpe":
        return Tokens("bpe", pairs=_learned_pairs(texts, most))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(SYMBOLS[kind](text))
    # Characters that are rare are still characters; a word that came once teaches little about itself.
    kept = [
        symbol
        for symbol, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        if kind == "char" or count > 1
    ]
    return Tokens(kind, tuple(kept[:most]))


def read(path: Path) -> Tokens:
    """A `tokenizer.json`, as Hugging Face's libraries write it, whose first symbols are moved up by the four special ones."""
    try:
        text = path.read_text(encoding="utf-8")
        _pairs(text)
    except MissingExtra:
        raise
    except Exception as error:  # the library raises plain exceptions
        raise DataError(f"{path} is no tokenizer.json that can be read: {error}.") from None
    return Tokens("bpe", pairs=text)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _groups(text: str) -> list[str]:
    """Each word between < and >, and the groups of letters in that (Bojanowski et al. 2017, 3.2)."""
    found = []
    for word in _words(text):
        whole = f"<{word}>"
        found.append(whole)
        found += [whole[i : i + n] for n in GROUPS if n < len(whole) for i in range(len(whole) - n + 1)]
    return found


SYMBOLS: dict[str, Callable[[str], Sequence[str]]] = {"char": lambda text: text, "word": _words, "ngram": _groups}


_made: dict[str, Any] = {}  # what `tokenizers` makes of its own text, so that it is read once


def _pairs(text: str) -> Any:
    found = _made.get(text)
    if found is None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtra("tokenizers", "text", "Splitting text into byte pairs") from None
        _made.clear()
        _made[text] = found = Tokenizer.from_str(text)
    return found


def _encoded(pairs: str, text: str, marks: bool, literal: bool) -> list[int]:
    found = _pairs(pairs)
    found.encode_special_tokens = literal
    return list(found.encode(text, add_special_tokens=marks).ids)


@functools.lru_cache(maxsize=2)
def _ends(pairs: str) -> int:
    """How many marks stand behind every text: BERT's [SEP] is one."""
    told = _pairs(pairs).encode("a").special_tokens_mask
    return next((i for i, special in enumerate(reversed(told)) if not special), 0)


@functools.lru_cache(maxsize=2)
def _sizes(pairs: str) -> tuple[int, ...]:
    """Bytes of UTF-8 of each symbol, by how symbols are spelt: GPT-2's have one letter for each byte, SentencePiece's a low line
    for a space and <0x0A> for a byte alone, WordPiece's two signs before what goes on with a word.
    """
    found = _pairs(pairs)
    told = json.loads(found.to_str()).get("decoder") or {}
    parts = [told, *told.get("decoders", ())]
    kinds = {part.get("type") for part in parts}
    before = next((part["prefix"] for part in parts if part.get("type") == "WordPiece"), "")
    added = found.get_added_tokens_decoder()
    symbols = {number: symbol for symbol, number in found.get_vocab(with_added_tokens=True).items()}

    def size(number: int) -> int:
        symbol = symbols.get(number, "")
        if number in added:
            return 0 if added[number].special else len(symbol.encode("utf-8", "surrogatepass"))
        if "ByteLevel" in kinds:
            return len(symbol)
        if "ByteFallback" in kinds and BYTE.fullmatch(symbol):
            return 1
        plain = symbol.removeprefix(before).replace("\N{LOWER ONE EIGHTH BLOCK}", " ") if kinds - {None} else symbol
        return len(plain.encode("utf-8", "surrogatepass"))

    return tuple(size(number) for number in range(max(symbols, default=-1) + 1))


def _learned_pairs(texts: Sequence[str], most: int) -> str:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise MissingExtra("tokenizers", "text", "Splitting text into byte pairs") from None
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=most, special_tokens=list(SPECIAL), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())
