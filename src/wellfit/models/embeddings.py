"""Word vectors: skip-gram with negative sampling (Mikolov et al. 2013, word2vec), and files of them (GloVe, word2vec).

A word is known by the company it keeps (Firth 1957). Each word c has a vector v_c, and another, u_o, for when it is company.
Skip-gram walks over a text and, for each word within a window of c, makes u_o . v_c large: the two were seen together. That
alone would be won by making everything large, so k words drawn as *noise* must get a small product (eq. 4):

    loss = -log sigmoid(u_o . v_c) - sum over k noise words n of log sigmoid(-u_n . v_c)

Words that keep the same company end up close. Two details matter as much as the loss: frequent words ("the") are dropped
at random, since their thousandth occurrence teaches nothing; and noise follows count^0.75, so that rare words are drawn
more often than they occur. Vectors of words are one for all senses and know no word they have not seen.

Letters: V words, D dimensions, N tokens, P pairs of a centre and a context word, K noise words of a pair.

    >>> texts = ["the king rules the land".split(), "the queen rules the land".split()] * 50
    >>> vectors = skipgram(texts, dimension=8, minimum_count=1, epochs=1, subsample=1.0)
    >>> len(vectors), len(vectors.nearest("king", k=3))
    (5, 3)
"""

import collections
import dataclasses
import difflib
import functools
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wellfit.errors import DataError, ModelError

# ---- words and their vectors


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """Words and one vector for each. Raises DataError where the two do not fit, or a word comes twice.

    Words are looked up as they are written: "King" is not "king".
    """

    words: tuple[str, ...]
    """V different words."""
    matrix: Tensor
    """[V, D], finite, any floating dtype."""

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.words) or not self.matrix.is_floating_point():
            raise DataError(
                f"{len(self.words)} words need a matrix of numbers [{len(self.words)}, D], but it is {self.matrix.dtype} "
                f"of shape {list(self.matrix.shape)}."
            )
        if len(self.rows) < len(self.words):
            word = collections.Counter(self.words).most_common(1)[0][0]
            raise DataError(f"The word {word!r} is there more than once; each can have one vector only.")
        if not bool(self.matrix.isfinite().all()):
            word = self.words[int((~self.matrix.isfinite().all(1)).nonzero()[0])]
            raise DataError(f"The vector of {word!r} holds a NaN or an infinity.")

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    @functools.cached_property
    def directions(self) -> Tensor:
        """The matrix with rows of length 1, [V, D]; a zero row stays zero and is at cosine 0 to all."""
        return nn.functional.normalize(self.matrix, dim=1)

    @property
    def dimension(self) -> int:
        """D."""
        return self.matrix.shape[1]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.rows

    def __getitem__(self, word: str) -> Tensor:
        """The vector of a word, [D]. Raises DataError, with words that are spelt nearly so, if it has none."""
        return self.matrix[self.row(word)]

    def row(self, word: str) -> int:
        """The row of a word; raises DataError, with words that are spelt nearly so, if it has none."""
        if word in self.rows:
            return self.rows[word]
        # Of millions of words only those of about the length are compared.
        alike = [other for other in self.words if abs(len(other) - len(word)) <= 2]
        near = difflib.get_close_matches(word, alike, n=3)
        hint = f"spelt nearly so: {', '.join(map(repr, near))}" if near else "and none is spelt nearly so"
        raise DataError(f"{word!r} is not among the {len(self.words)} words; {hint}.")

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words' vectors, from -1 to 1; words near 1 keep the same company."""
        return float(self.directions[self.row(a)] @ self.directions[self.row(b)])

    def nearest(self, to: str | Tensor, k: int = 10) -> list[tuple[str, float]]:
        """The k words with the largest cosine to a word or a vector [D], nearest first; a word is not its own neighbour.

        Raises DataError for an unknown word and ModelError for a vector of another shape.
        """
        if isinstance(to, str):
            row = self.row(to)
            return self.closest(self.directions[row], [row], k)
        if to.shape != (self.dimension,):
            raise ModelError(f"A vector must have the shape [{self.dimension}], but this one has {list(to.shape)}.")
        return self.closest(to, [], k)

    def analogy(self, a: str, b: str, c: str, k: int = 1) -> list[tuple[str, float]]:
        """The k words that are to c as b is to a: nearest to b - a + c, all of length 1 (Mikolov, Yih & Zweig 2013, 3).

        analogy("man", "king", "woman") should be queen. The three words themselves are left out; b or c would often be
        nearest, which is why some reported analogies are less striking than they look. Raises DataError for an unknown
        word.
        """
        rows = [self.row(word) for word in (a, b, c)]
        at_a, at_b, at_c = self.directions[rows]
        return self.closest(at_b - at_a + at_c, rows, k)

    def closest(self, vector_D: Tensor, without: Sequence[int], k: int) -> list[tuple[str, float]]:
        """The k words with the largest cosine to a vector, some rows left out; ties in the order of the words."""
        if k < 1:
            raise ModelError(f"`k` is {k!r}; it must be at least 1.")
        cosines_V = self.directions @ nn.functional.normalize(vector_D.to(self.directions), dim=0)
        cosines_V[list(without)] = -torch.inf
        k = min(k, len(self.words) - len(set(without)))
        order = cosines_V.argsort(descending=True, stable=True)[:k].tolist()
        return [(self.words[row], float(cosines_V[row])) for row in order]

    # ---- files

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, dimension: int | None = None) -> "Vectors":
        """Reads a text file with a word and D numbers on each line, in float32: GloVe's, word2vec's or fastText's.

        A first line of two whole numbers is word2vec's header, "V D". Without one, D is `dimension` or else what the first
        line has. A word is what precedes the last D fields, so it may hold spaces, as in glove.840B (". . .").

        Raises DataError, naming file and line, for a file that is missing, empty, shorter than its header says or not
        UTF-8, for lines with too few or too many numbers, for fields that are no finite number, and for a word that comes
        twice.
        """
        path = Path(path)
        words: dict[str, int] = {}  # with the line of each
        numbers = array("f")
        promised: int | None = None
        D = dimension
        for line, text in lines(path):
            if line == 1:
                fields = text.split(" ")
                if len(fields) == 2 and all(field.isascii() and field.isdigit() for field in fields):
                    promised, size = map(int, fields)
                    if size < 1 or dimension not in (None, size):
                        raise DataError(
                            f"{path}, line 1: the header says {size} dimensions, but "
                            f"{'at least 1 is needed' if dimension is None else f'`dimension` is {dimension}'}."
                        )
                    D = size
                    continue
                if D is None:
                    D = numbers_at_end(fields)
                    if D < 1:
                        raise DataError(
                            f"{path}, line 1: {text[:60]!r} is neither a word with its numbers nor a header of two whole "
                            "numbers. A file of vectors has a word and its numbers on each line, with spaces between."
                        )
            assert D is not None
            word, *row = text.rsplit(" ", D)
            if len(row) < D or not word:
                raise DataError(
                    f"{path}, line {line}: {text[:40]!r} has {len(text.split(' ')) - 1} numbers instead of {D}. Every line "
                    "must have a word and as many numbers as the first."
                )
            try:
                if "_" in text[len(word) :]:  # Python reads 1_0 as 10
                    raise ValueError
                values = [float(field) for field in row]
            except ValueError:
                wrong = next(field for field in row if number(field) is None)
                raise DataError(f"{path}, line {line}: {wrong!r} in the vector of {word!r} is not a number.") from None
            if not all(map(math.isfinite, values)):
                raise DataError(f"{path}, line {line}: the vector of {word!r} holds a NaN or an infinity.")
            if " " in word and number(word.rsplit(" ", 1)[1]) is not None:
                raise DataError(
                    f"{path}, line {line}: {word!r} is followed by {D} numbers but ends in another, so the line has too many. "
                    "Every line must have a word and as many numbers as the first."
                )
            if word in words:
                raise DataError(f"{path}, line {line}: the word {word!r} is already on line {words[word]}.")
            words[word] = line
            numbers.extend(values)
        if not words:
            raise DataError(f"{path} holds no vectors. A file of vectors has a word and its numbers on each line.")
        if promised is not None and promised != len(words):
            raise DataError(
                f"{path}, line 1: the header says {promised} words, but {len(words)} follow. The file may be cut short; "
                "fetch it again."
            )
        assert D is not None
        return cls(tuple(words), torch.frombuffer(numbers, dtype=torch.float32).view(len(words), D))

    def save(self, path: str | os.PathLike[str], *, header: bool = True) -> None:
        """Writes a text file that `load` reads back bit for bit in float32: word2vec's format, or GloVe's without header.

        Raises DataError for words that such a file cannot hold: empty, with a line break or a space at an end, or with a
        number after a space.
        """
        for word in self.words:
            ends_in_number = " " in word and number(word.rsplit(" ", 1)[1]) is not None
            if not word or word != word.strip(" \r\n") or "\n" in word or ends_in_number:
                raise DataError(
                    f"The word {word!r} could not be read back from a text file; change it or leave it out."
                )
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            if header:
                file.write(f"{len(self.words)} {self.dimension}\n")
            for word, row in zip(self.words, self.matrix.float().cpu(), strict=True):
                # Nine digits tell every two float32 apart.
                file.write(f"{word} {' '.join(f'{value:.9g}' for value in row.tolist())}\n")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a UTF-8 file with their numbers from 1, without what ends them; blank ones are left out.

    Only \n ends a line, and later only " " a field: glove.840B has words that hold Unicode's other breaks and spaces.
    """
    try:
        with open(path, "rb") as file:
            for line, raw in enumerate(file, 1):
                if line == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                try:
                    text = raw.decode("utf-8").rstrip("\r\n ")  # word2vec itself ends each line with a space
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path}, line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8."
                    ) from None
                if text:
                    yield line, text
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def number(field: str) -> float | None:
    """The number that a field spells, or None."""
    try:
        return None if "_" in field else float(field)
    except ValueError:
        return None


def numbers_at_end(fields: Sequence[str]) -> int:
    """How many numbers a line ends with; its first field is the word, even if it is a number too."""
    count = 0
    while count < len(fields) - 1 and number(fields[-1 - count]) is not None:
        count += 1
    return count


# ---- training


def skipgram(
    texts: Sequence[Sequence[str]],
    *,
    dimension: int = 100,
    window: int = 5,
    negatives: int = 5,
    subsample: float = 1e-3,
    minimum_count: int = 5,
    epochs: int = 5,
    learning_rate: float = 0.01,
    batch: int = 1024,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Vectors:
    """Vectors of the words of texts, each a list of tokens; windows do not reach from one text into the next.

    `window` is how far company reaches: each centre draws its own reach from 1 to it, so that near words count more.
    `subsample` is the share of the text above which a word is dropped at random, 1 to keep everything (the paper's 1e-5 is
    for billions of tokens). Words with a count below `minimum_count` are left out. Words come back by falling count.

    Trained with Adam on batches of pairs, at a learning rate that falls linearly to nothing; word2vec's own loop of one
    pair at a time would leave the hardware idle. All randomness is from `seed`, and torch's global generator is not
    touched: on a CPU the same texts give the same bits.

    Raises DataError for texts that are not lists of tokens or leave fewer than two words, ModelError for settings out of
    range.
    """
    sizes = {"dimension": dimension, "window": window, "negatives": negatives, "minimum_count": minimum_count}
    for name, size in (sizes | {"epochs": epochs, "batch": batch}).items():
        if not isinstance(size, int) or size < 1:
            raise ModelError(f"`{name}` is {size!r}; it must be a whole number, at least 1.")
    if not 0 < subsample <= 1 or not learning_rate > 0:
        raise ModelError(
            f"`subsample` is {subsample!r} and `learning_rate` {learning_rate!r}; the first must be above 0 and at most 1, "
            "the second above 0."
        )
    words, counts_V, ids_N, text_N = numbered(texts, minimum_count)
    V, D = len(words), dimension
    generator = torch.Generator().manual_seed(seed)
    keep_V = keep_probability(counts_V, subsample)
    noise_V = noise_distribution(counts_V)

    # Sparse gradients: a batch touches some thousand rows, whatever V is.
    centres = nn.Embedding(V, D, sparse=True, _weight=(torch.rand(V, D, generator=generator) - 0.5) / D).to(device)
    contexts = nn.Embedding(V, D, sparse=True, _weight=torch.zeros(V, D)).to(device)
    optimizer: torch.optim.Optimizer = torch.optim.SparseAdam([centres.weight, contexts.weight], lr=learning_rate)
    block = 100_000  # tokens whose pairs are in memory together; the few pairs across its edges are lost
    for epoch in range(epochs):
        kept = torch.rand(len(ids_N), generator=generator) < keep_V[ids_N]
        ids, text = ids_N[kept], text_N[kept]
        for start in range(0, len(ids), block):
            part = slice(start, start + block)
            pairs_P2 = pairs(ids[part], text[part], window, generator)
            pairs_P2 = pairs_P2[torch.randperm(len(pairs_P2), generator=generator)]
            for some_P2 in torch.split(pairs_P2, batch):
                noise_PK = draw_noise(noise_V, some_P2[:, 1], negatives, generator)
                loss = negative_sampling(
                    centres(some_P2[:, 0].to(device)), contexts(some_P2[:, 1].to(device)), contexts(noise_PK.to(device))
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
            done = (epoch + min(1.0, (start + block) / len(ids))) / epochs
            optimizer.param_groups[0]["lr"] = learning_rate * max(1e-4, 1 - done)
    return Vectors(words, centres.weight.detach().cpu().clone())


def numbered(texts: Sequence[Sequence[str]], minimum_count: int) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    """Words by falling count, their counts [V], and for each token of those its word [N] and its text [N]."""
    if isinstance(texts, str) or any(isinstance(text, str) for text in texts):
        raise DataError(
            "Skip-gram needs a list of texts, each a list of tokens, but got a string where a list should be. Split each "
            "text into tokens; for one text, pass [tokens]."
        )
    counter = collections.Counter(token for text in texts for token in text)
    # The spelling decides between equal counts, so that the order of the texts does not.
    kept = sorted((word for word in counter if counter[word] >= minimum_count), key=lambda word: (-counter[word], word))
    if len(kept) < 2:
        raise DataError(
            f"{len(kept)} of {len(counter)} words occur at least {minimum_count} times, and skip-gram needs two. Give it "
            "more text or a lower `minimum_count`."
        )
    row = {word: number for number, word in enumerate(kept)}
    ids, text_of = array("q"), array("q")
    for which, text in enumerate(texts):
        known = [row[token] for token in text if token in row]
        ids.extend(known)
        text_of.extend([which] * len(known))
    return (
        tuple(kept),
        torch.tensor([counter[word] for word in kept]),
        torch.frombuffer(ids, dtype=torch.int64),
        torch.frombuffer(text_of, dtype=torch.int64),
    )


def keep_probability(counts_V: Tensor, subsample: float) -> Tensor:
    """[V]: a word of frequency f is kept with sqrt(t / f), at most 1 (Mikolov et al. 2013, eq. 5)."""
    frequency_V = counts_V.double() / counts_V.sum()
    return (subsample / frequency_V).sqrt().clamp(max=1.0)


def noise_distribution(counts_V: Tensor) -> Tensor:
    """[V] in float64: count^0.75, normalised; between the text's own frequencies and uniform (Mikolov et al. 2013, 2.2)."""
    power_V = counts_V.double() ** 0.75
    return power_V / power_V.sum()


def draw_noise(noise_V: Tensor, context_P: Tensor, K: int, generator: torch.Generator) -> Tensor:
    """[P, K] words from the noise distribution, none of which is the pair's own context word.

    That word would be pushed away in the same step in which it is drawn near. Instead of drawing again until it fits, its
    slice is cut out of the unit interval: draw from what is left, and step over the cut if beyond its start.
    """
    V = len(noise_V)
    upper_V = noise_V.cumsum(0)
    lower_P1 = (upper_V - noise_V)[context_P, None]
    width_P1 = noise_V[context_P, None]
    u_PK = torch.rand(len(context_P), K, dtype=torch.float64, generator=generator) * (1 - width_P1)
    u_PK = torch.where(u_PK >= lower_P1, u_PK + width_P1, u_PK)
    drawn_PK = torch.searchsorted(upper_V, u_PK, right=True).clamp(max=V - 1)
    # A rounding error at the edge of the cut may still land in it: its neighbour is meant.
    neighbour_P1 = torch.where(context_P == V - 1, context_P - 1, context_P + 1)[:, None]
    return torch.where(drawn_PK == context_P[:, None], neighbour_P1, drawn_PK)


def pairs(ids_N: Tensor, text_N: Tensor, window: int, generator: torch.Generator) -> Tensor:
    """[P, 2]: each token as centre with each word within its reach, drawn from 1 to `window`, in the same text."""
    reach_N = torch.randint(1, window + 1, ids_N.shape, generator=generator)
    found = []
    for distance in range(1, min(window, len(ids_N) - 1) + 1):
        left, right = slice(None, -distance), slice(distance, None)
        together = text_N[left] == text_N[right]
        for centre, context in ((left, right), (right, left)):
            seen = together & (reach_N[centre] >= distance)
            found.append(torch.stack([ids_N[centre][seen], ids_N[context][seen]], dim=1))
    return torch.cat(found) if found else ids_N.new_zeros(0, 2)


def negative_sampling(centre_PD: Tensor, context_PD: Tensor, noise_PKD: Tensor) -> Tensor:
    """-log sigmoid(u_o . v_c) - sum over K of log sigmoid(-u_n . v_c), averaged over pairs (Mikolov et al. 2013, eq. 4)."""
    together_P = (centre_PD * context_PD).sum(-1)
    apart_PK = torch.einsum("pd,pkd->pk", centre_PD, noise_PKD)
    logsigmoid = nn.functional.logsigmoid
    return -(logsigmoid(together_P) + logsigmoid(-apart_PK).sum(-1)).mean()
