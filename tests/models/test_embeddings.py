"""Word vectors: the loss and its samples against closed forms, what is learnt, and files in every state of disrepair."""

import collections
import doctest
import math
import random

import pytest
import torch

from wellfit.errors import DataError, ModelError
from wellfit.models import embeddings
from wellfit.models.embeddings import (
    Vectors,
    draw_noise,
    keep_probability,
    negative_sampling,
    noise_distribution,
    pairs,
    skipgram,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the algorithm


def test_noise_follows_counts_to_three_quarters_and_is_never_the_context() -> None:
    counts = torch.tensor([1000, 400, 50, 50, 3, 1])
    noise = noise_distribution(counts)
    powers = [count**0.75 for count in counts.tolist()]
    torch.testing.assert_close(noise, torch.tensor([p / sum(powers) for p in powers], dtype=torch.float64))
    for context in range(6):
        drawn = draw_noise(noise, torch.full((40_000,), context), 5, generator(context))
        assert drawn.shape == (40_000, 5)
        assert not (drawn == context).any()
        expected = noise.clone()
        expected[context] = 0
        expected /= expected.sum()
        shares = torch.bincount(drawn.flatten(), minlength=6) / drawn.numel()
        # Five standard deviations of the rarest estimate.
        assert (shares - expected).abs().max() < 5 * (0.25 / drawn.numel()) ** 0.5


def test_noise_is_never_the_context_even_at_the_edges_of_its_slice(monkeypatch) -> None:
    """Draws put exactly where the context's slice was cut out, and a few roundings to either side."""
    V = 500
    noise = noise_distribution(torch.randint(1, 10**6, (V,), generator=generator()))
    edge = (noise.cumsum(0) - noise) / (1 - noise)
    steps = torch.arange(-4, 5) * 2.0**-53
    monkeypatch.setattr(torch, "rand", lambda *_, **__: (edge[:, None] + steps).clamp(0, 1 - 2.0**-53))
    drawn = draw_noise(noise, torch.arange(V), len(steps), generator())
    away = (drawn - torch.arange(V)[:, None]).abs()
    assert away.min() == 1
    assert away.max() <= 2
    assert 0 <= drawn.min() <= drawn.max() < V


def test_with_two_words_noise_is_the_other() -> None:
    noise = noise_distribution(torch.tensor([7, 1]))
    assert draw_noise(noise, torch.tensor([0, 1]), 4, generator()).tolist() == [[1] * 4, [0] * 4]


def test_frequent_words_are_dropped_as_in_equation_5() -> None:
    keep = keep_probability(torch.tensor([900, 99, 1]), 0.01)
    torch.testing.assert_close(
        keep, torch.tensor([math.sqrt(0.01 / 0.9), math.sqrt(0.01 / 0.099), 1.0], dtype=torch.float64)
    )


def test_pairs_are_within_reach_and_within_a_text() -> None:
    """All ids differ, so each pair says where it is from; near pairs come in proportion to how many reaches hold them."""
    N, window = 6000, 3
    ids, text = torch.arange(N), torch.arange(N) // 10
    found = pairs(ids, text, window, generator())
    centre, context = found.T
    assert (text[centre] == text[context]).all()
    assert len(found.unique(dim=0)) == len(found)
    distances = collections.Counter((centre - context).abs().tolist())
    assert set(distances) == {1, 2, 3}
    for distance in (1, 2, 3):
        possible = 2 * (N // 10) * (10 - distance)
        assert abs(distances[distance] / possible - (window + 1 - distance) / window) < 0.03
    assert len(pairs(ids[:1], text[:1], window, generator())) == 0
    assert pairs(torch.tensor([4, 9]), torch.zeros(2), 1, generator()).tolist() == [[4, 9], [9, 4]]


def test_the_loss_is_equation_4() -> None:
    torch.manual_seed(0)
    centre, context, noise = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 4), (6, 4), (6, 3, 4)))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    slow = 0.0
    for p in range(6):
        slow -= math.log(sigmoid(float(context[p] @ centre[p])))
        slow -= sum(math.log(sigmoid(-float(word @ centre[p]))) for word in noise[p])
    learnt = centre.clone().requires_grad_()
    loss = negative_sampling(learnt, context, noise)
    assert loss.item() == pytest.approx(slow / 6, rel=1e-12)
    loss.backward()
    # d loss / d v_c = (sigmoid(u_o . v_c) - 1) u_o + sum of sigmoid(u_n . v_c) u_n
    for p in range(6):
        expected = (sigmoid(float(context[p] @ centre[p])) - 1) * context[p]
        expected = expected + sum(sigmoid(float(word @ centre[p])) * word for word in noise[p])
        torch.testing.assert_close(learnt.grad[p], expected / 6)


def world() -> list[list[str]]:
    """Texts on two topics, of ten words each, with words that are in all."""
    draw = random.Random(0)
    topics = [[f"sea{i}" for i in range(10)], [f"law{i}" for i in range(10)]]
    return [draw.choices([*topics[text % 2], "the", "of"], k=12) for text in range(300)]


def test_words_that_keep_the_same_company_are_near() -> None:
    vectors = skipgram(world(), dimension=16, window=4, epochs=8, subsample=0.05, seed=1)
    assert len(vectors) == 22
    for topic in ("sea", "law"):
        for i in range(10):
            near = [word for word, _ in vectors.nearest(f"{topic}{i}", k=9)]
            assert sum(word.startswith(topic) for word in near) >= 8, (topic, i, near)
    within = vectors.similarity("sea0", "sea1")
    assert within > vectors.similarity("sea0", "law1") + 0.3


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    def train(seed: int) -> torch.Tensor:
        return skipgram(world()[:40], dimension=8, epochs=1, minimum_count=1, seed=seed).matrix

    before = torch.get_rng_state()
    first = train(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(train(3), first)
    assert not torch.equal(train(4), first)


def test_words_come_by_count_and_rare_ones_are_left_out() -> None:
    texts = [["b", "a", "c", "b", "a"], ["b", "rare", "c"], []]
    vectors = skipgram(texts, dimension=3, epochs=1, minimum_count=2)
    assert vectors.words == ("b", "a", "c")
    assert vectors.matrix.shape == (3, 3)
    alone = skipgram([["a"], ["b"]], dimension=3, minimum_count=1)  # no pair at all
    assert alone.words == ("a", "b")


@pytest.mark.parametrize(
    ("texts", "settings", "says"),
    [
        ("a text", {}, "Split each text"),
        (["a", "text"], {}, r"pass \[tokens\]"),
        ([["a", "b", "a"]], {"minimum_count": 2}, "1 of 2 words occur at least 2 times"),
        ([], {}, "0 of 0 words"),
    ],
)
def test_texts_that_cannot_be_learnt_from(texts, settings, says) -> None:
    with pytest.raises(DataError, match=says):
        skipgram(texts, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"window": 0}, "`window` is 0"),
        ({"negatives": 1.5}, "`negatives` is 1.5"),
        ({"subsample": 0.0}, "`subsample` is 0.0"),
        ({"learning_rate": -1.0}, "above 0"),
    ],
)
def test_settings_that_cannot_be(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        skipgram(world(), **settings)


# ---- words and their vectors


def royal() -> Vectors:
    """Two features, royal and female, of different lengths; and one word that is nothing."""
    words = ("man", "king", "woman", "queen", "prince", "nothing")
    rows = [[0, -1, 1], [3, -3, 3], [0, 2, 2], [1, 1, 1], [2, -1.5, 2.5], [0, 0, 0]]
    return Vectors(words, torch.tensor(rows, dtype=torch.float32))


def test_nearest_is_by_cosine_and_leaves_out_the_word_itself() -> None:
    vectors = royal()
    near = vectors.nearest("king", k=2)
    slow = {
        word: float(torch.nn.functional.cosine_similarity(vectors["king"], vectors[word], dim=0))
        for word in vectors.words
        if word != "king"
    }
    assert near == [(word, pytest.approx(slow[word])) for word in sorted(slow, key=slow.get, reverse=True)[:2]]
    assert vectors.nearest(10 * vectors["king"], k=1) == [("king", pytest.approx(1.0))]
    everything = vectors.nearest("nothing", k=99)
    assert [word for word, _ in everything] == ["man", "king", "woman", "queen", "prince"]
    assert {cosine for _, cosine in everything} == {0.0}
    assert vectors.similarity("king", "queen") == pytest.approx(1 / 3)


def test_analogies_leave_out_the_three_words() -> None:
    vectors = royal()
    assert vectors.analogy("man", "king", "woman")[0][0] == "queen"
    assert [word for word, _ in vectors.analogy("man", "king", "woman", k=9)] == ["queen", "prince", "nothing"]
    unit = torch.nn.functional.normalize(vectors.matrix, dim=1)
    target = unit[1] - unit[0] + unit[2]
    cosine = float(torch.nn.functional.cosine_similarity(target, unit[3], dim=0))
    assert vectors.analogy("man", "king", "woman")[0][1] == pytest.approx(cosine)


def test_unknown_words_are_answered_with_near_spellings() -> None:
    vectors = royal()
    assert "king" in vectors
    assert "kign" not in vectors
    for ask in (vectors.nearest, vectors.__getitem__, lambda word: vectors.analogy("man", word, "woman")):
        with pytest.raises(DataError, match=r"'kign' is not among the 6 words; spelt nearly so: 'king'"):
            ask("kign")
    with pytest.raises(DataError, match="none is spelt nearly so"):
        vectors["xyzzy"]
    with pytest.raises(ModelError, match=r"\[3\].*\[2\]"):
        vectors.nearest(torch.zeros(2))
    with pytest.raises(ModelError, match="`k` is 0"):
        vectors.nearest("king", k=0)


@pytest.mark.parametrize(
    ("words", "matrix", "says"),
    [
        (("a", "b"), torch.zeros(3, 2), r"\[2, D\].*\[3, 2\]"),
        (("a",), torch.zeros(1, 2, dtype=torch.int64), "int64"),
        (("a", "b", "a"), torch.zeros(3, 2), "'a' is there more than once"),
        (("a", "b"), torch.tensor([[0.0], [torch.nan]]), "'b' holds a NaN"),
    ],
)
def test_words_and_matrix_must_fit(words, matrix, says) -> None:
    with pytest.raises(DataError, match=says):
        Vectors(words, matrix)


# ---- files


@pytest.mark.parametrize("header", [False, True])
def test_files_give_back_every_bit(tmp_path, header) -> None:
    torch.manual_seed(0)
    words = ("the", ". . .", "naïve", "東京", "\x85", "a\u00a0b", "3", "at name@domain.com", "1_0", "\u2028x")
    matrix = torch.randn(len(words), 5) * 10.0 ** torch.randint(-30, 30, (len(words), 5))
    Vectors(words, matrix).save(tmp_path / "v.txt", header=header)
    back = Vectors.load(tmp_path / "v.txt")
    assert back.words == words
    assert torch.equal(back.matrix, matrix)
    assert back.matrix.dtype == torch.float32
    assert torch.equal(Vectors.load(tmp_path / "v.txt", dimension=5).matrix, matrix)


@pytest.mark.parametrize(
    ("text", "words", "rows"),
    [
        ("a 1 2\nb 3 -4e-1\n", ["a", "b"], [[1, 2], [3, -0.4]]),  # GloVe
        ("2 2\na 1 2 \nb 3 4 \n", ["a", "b"], [[1, 2], [3, 4]]),  # word2vec's own, with its spaces
        ("a 1 2\r\nb 3 4\r\n\r\n", ["a", "b"], [[1, 2], [3, 4]]),  # from Windows
        ("\ufeffa 1 2\nb 3 4", ["a", "b"], [[1, 2], [3, 4]]),  # a byte order mark, no last line break
        ("a 1 2\n. . 3 4\n", ["a", ". ."], [[1, 2], [3, 4]]),  # glove.840B's spaces
        ("7 1 2\n8 3 4\n", ["7", "8"], [[1, 2], [3, 4]]),  # words that are numbers
    ],
)
def test_kinds_of_files(tmp_path, text, words, rows) -> None:
    path = tmp_path / "v.txt"
    path.write_bytes(text.encode())
    vectors = Vectors.load(str(path))
    assert list(vectors.words) == words
    torch.testing.assert_close(vectors.matrix, torch.tensor(rows, dtype=torch.float32))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a 1 2\nb 3\n", 2, "has 1 numbers instead of 2"),
        ("a 1 2\nb 3 4 5\n", 2, "too many"),
        ("a 1 2\nb 3 x\n", 2, "'x' in the vector of 'b' is not a number"),
        ("a 1 2\nb 3 1_0\n", 2, "'1_0' .* is not a number"),
        ("a 1 2\nb 3 nan\n", 2, "NaN or an infinity"),
        ("a 1 2\nb 3 4\na 5 6\n", 3, "'a' is already on line 1"),
        ("2 2\na 1 2\na 3 4\n", 3, "'a' is already on line 2"),
        ("3 2\na 1 2\nb 3 4\n", 1, "says 3 words, but 2 follow"),
        ("2 3\na 1 2\nb 3 4\n", 2, "has 2 numbers instead of 3"),
        ("2 0\na\nb\n", 1, "at least 1 is needed"),
        ("only words here\n", 1, "neither a word with its numbers nor a header"),
        (b"a 1 2\n\xff 3 4\n", 2, "not UTF-8"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, text, line, says) -> None:
    path = tmp_path / "broken.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=rf"broken\.txt, line {line}: .*{says}"):
        Vectors.load(path)


def test_files_that_are_not_there_or_empty_or_of_another_size(tmp_path) -> None:
    path = tmp_path / "v.txt"
    with pytest.raises(DataError, match=r"v\.txt cannot be read: No such file"):
        Vectors.load(path)
    path.write_text("\n\n")
    with pytest.raises(DataError, match=r"v\.txt holds no vectors"):
        Vectors.load(path)
    path.write_text("2 3\na 1 2 3\n")
    with pytest.raises(DataError, match="the header says 3 dimensions, but `dimension` is 2"):
        Vectors.load(path, dimension=2)


@pytest.mark.parametrize("word", ["", " a", "a ", "a\nb", "at 5"])
def test_words_that_no_file_can_hold(tmp_path, word) -> None:
    with pytest.raises(DataError, match="could not be read back"):
        Vectors((word,), torch.zeros(1, 2)).save(tmp_path / "v.txt")
    assert not (tmp_path / "v.txt").exists()


def test_the_pages_examples_run() -> None:
    results = doctest.testmod(embeddings)
    assert results.attempted >= 3
    assert results.failed == 0
