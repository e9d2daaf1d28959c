"""Pairs, couples and tagged words: what is read from files, what is counted, and what is refused with a reason."""

import gzip

import pytest
import torch

from wellfit.data import pairs, tagged
from wellfit.data.pairs import Pairs, Ragged
from wellfit.data.programs import named, trees
from wellfit.data.source import load
from wellfit.data.tokens import END, START, Tokens
from wellfit.errors import DataError
from wellfit.recipe import Data

pytest.importorskip("tokenizers", reason="byte pairs need tokenizers")


def read(source, task=None, **settings):
    return load(Data(source=str(source), **settings), task)


def sides(folder, name, english, german, packed=True):
    for ending, lines in (("en", english), ("de", german)):
        text = "".join(f"{line}\n" for line in lines).encode()
        path = folder / f"{name}.{ending}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(text) if packed else text)


def numbered(count, word="house"):
    return [f"the {word} number {i}" for i in range(count)]


# ---- pairs


def test_a_batch_teaches_each_next_token() -> None:
    data = Pairs.of([[5, 6, 7], [8]], [[9, 10], [11, 12, 13]], context=3)
    batch = data.batch(torch.tensor([1, 0]))
    assert batch["source"].tolist() == [[8, 0, 0], [5, 6, 7]]
    # The second target is as long as the context and was cut: it has no end.
    assert batch["labels"].tolist() == [[11, 12, 13], [9, 10, END]]
    assert batch["target"].tolist() == [[START, 11, 12], [START, 9, 10]]
    short = Pairs.of([[5]], [[9]], context=8).batch(torch.tensor([0]))
    assert "references" not in short, "training pairs are not written out"
    mixed = Pairs.of([[5], [6]], [[9], [9, 9]], context=8, references=["a", None]).batch(torch.tensor([0, 1]))
    assert mixed["labels"].tolist() == [[9, END, -100], [9, 9, END]]
    assert mixed["references"] == ("a", None)


def test_two_files_by_their_stem(tmp_path) -> None:
    german = [f"das Haus Nummer {i}" for i in range(60)]
    sides(tmp_path, "train", numbered(60), german)
    sides(tmp_path, "val", numbered(7, "tree"), german[:7])
    sides(tmp_path, "test_2016", numbered(5, "dog"), german[:5])
    found = read(tmp_path / "train", text="en", target="de")
    assert found.task == "seq-to-seq"
    assert (len(found.train), len(found.valid), len(found.test)) == (60, 7, 5)
    tokens = Tokens.of(found.columns["tokens"])
    assert tokens.decode(found.train.sources[3]) == "the house number 3"
    assert tokens.decode(found.train.targets[3]) == german[3], "byte pairs lose nothing"
    assert found.derived["data.tokens"][0] == "bpe"
    assert read(tmp_path, text="en", target="de").fingerprint == found.fingerprint, "the folder does as well"
    back = read(tmp_path / "train", text="de", target="en")
    assert tokens.decode(found.train.sources[0]) == Tokens.of(back.columns["tokens"]).decode(back.train.targets[0])
    with pytest.raises(DataError, match=r"files ending in de, en.*data\.text"):
        read(tmp_path / "train")


def test_one_side_alone_and_damaged_sides(tmp_path) -> None:
    lines = numbered(30)
    sides(tmp_path, "train", lines, lines)
    (tmp_path / "readme.txt").write_text("About these pairs. " * 50)
    assert read(tmp_path, text="en", target="de").task == "seq-to-seq", "what tells of them is no text to learn from"
    packed = (tmp_path / "train.de.gz").read_bytes()
    for damaged in (packed[:-20], packed[:12] + b"\xff" * 20 + packed[32:]):
        (tmp_path / "train.de.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.de\.gz cannot be read as text"):
            read(tmp_path / "train", text="en", target="de")
    (tmp_path / "train.de.gz").unlink()
    for source, task in ((tmp_path / "train", None), (tmp_path / "train", "seq-to-seq"), (tmp_path, None)):
        with pytest.raises(DataError, match=r"train\.en\.gz is one side of pairs, but the other, train\.de "):
            read(source, task, text="en", target="de")
    with pytest.raises(DataError, match="nothing is there"):
        read(tmp_path / "train")


def test_a_mark_before_the_lines_and_utf_16(tmp_path) -> None:
    sides(tmp_path, "train", ["\ufeffa house", *numbered(29)], numbered(30), packed=False)
    assert read(tmp_path / "train", text="en", target="de", valid_share=0).texts["train"][0][0] == "a house"
    (tmp_path / "train.de").write_text("\n".join(numbered(30)), encoding="utf-16-le")
    with pytest.raises(DataError, match="looks like UTF-16"):
        read(tmp_path / "train", text="en", target="de")


def test_lines_are_cut_at_line_feeds_alone(tmp_path) -> None:
    """A separator inside a sentence is no end of a line; counted as one, the two sides come apart."""
    english = [f"one{separator}two {i}" for i in range(15) for separator in ("\u2028", "\x0c")]
    sides(tmp_path, "train", english, numbered(30), packed=False)
    assert len(read(tmp_path / "train", text="en", target="de", valid_share=0).train) == 30
    sides(tmp_path, "train", numbered(30), numbered(29), packed=False)
    with pytest.raises(DataError, match=r"30 lines and train\.de 29"):
        read(tmp_path / "train", text="en", target="de")


def test_tables_of_pairs(tmp_path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "pairs.jsonl"
    rows = [f'{{"q": "what is {i}", "a": "it is {i}"}}' for i in range(40)]
    rows[3], rows[9] = '{"q": "", "a": "x"}', '{"q": "y", "a": null}'
    path.write_text("\n".join(rows))
    found = read(path, "seq-to-seq", text="q", target="a")
    assert len(found.train) + len(found.valid) == 38
    assert any("2 pairs" in note and "number 4" in note for note in found.notes)
    assert read(path, "seq-to-seq").fingerprint == found.fingerprint, "of two columns the first is the source"
    with pytest.raises(DataError, match=r"columns of .* are q, a"):
        read(path, "seq-to-seq", text="question", target="a")


def test_only_some_held_out_pairs_are_written_out(tmp_path) -> None:
    sides(tmp_path, "train", numbered(50), numbered(50))
    sides(tmp_path, "val", numbered(pairs.MOST_DECODED + 100), numbered(pairs.MOST_DECODED + 100))
    found = read(tmp_path / "train", text="en", target="de")
    kept = [text for text in found.valid.references if text is not None]
    assert len(kept) == pairs.MOST_DECODED
    assert {kept[0], kept[-1]} == {"the house number 0", f"the house number {pairs.MOST_DECODED + 99}"}
    assert any("are written out" in note for note in found.notes)
    assert any("50 of 300 valid sources are training sources too" in note for note in found.notes)


def test_sequences_keep_their_order() -> None:
    ragged = Ragged.of([[1, 2, 3], [], [4]])
    assert [ragged[i].tolist() for i in range(3)] == [[1, 2, 3], [], [4]]
    assert ragged.take(torch.tensor([2, 0])).lengths().tolist() == [1, 3]


# ---- couples


def test_couples_with_scores(tmp_path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "scored.csv"
    path.write_text("".join(f'a man number {i},"a man, number {i}",{i % 6}.0\n' for i in range(60)))
    found = read(path, "sentence-embeddings")
    assert found.train.targets.min() == 0
    assert found.train.targets.max() == 1
    assert any("'3'" in note and "score" in note for note in found.notes)
    assert any("Scores from 0 to 5" in note for note in found.notes)
    assert found.derived["evaluation.metric"][0] == "spearman"
    path.write_text("".join(f"a man {i},a man {i},{'much' if i == 7 else i}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"Row 8 .*'much'"):
        read(path, "sentence-embeddings", text="1", other="2", target="3")


def test_a_score_that_is_none_is_named(tmp_path) -> None:
    rows = [f"text {i},another {i},{i % 5}" for i in range(30)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,s", *rows, "one,two,"]))
    with pytest.raises(DataError, match=r"Row 32 of .* has '' in the column 's', which is no score"):
        read(tmp_path / "a.csv", "sentence-embeddings")


def test_couples_that_belong_together_tell_which_are_the_same(tmp_path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "together.jsonl"
    path.write_text("\n".join(f'{{"a": "text {i}", "b": "other {i // 2}"}}' for i in range(40)))
    found = read(path, "sentence-embeddings", valid_share=0)
    _, _, groups = found.train.batch(torch.tensor([0, 1, 2]))
    assert groups[0, 1] == groups[1, 1]
    assert groups[0, 0] != groups[1, 0]
    assert groups[1, 1] != groups[2, 1]
    path.write_text("\n".join(f'{{"a": "text {i}", "b": "other {i}", "c": "third {i}"}}' for i in range(40)))
    with pytest.raises(DataError, match=r"data\.other"):
        read(path, "sentence-embeddings")


# ---- tagged words

NAMES = """-DOCSTART- -X- O O

EU\tNNP\tB-NP\tB-ORG
rejects\tVBZ\tB-VP\tO
German\tJJ\tB-NP\tB-MISC
call\tNN\tI-NP\tO

Peter\tNNP\tB-NP\tB-PER
Blackburn\tNNP\tI-NP\tI-PER
"""


def test_conll_files(tmp_path) -> None:
    path = tmp_path / "ner.conll"
    path.write_text(NAMES * 20)
    found = read(path)
    assert found.task == "token-classification"
    assert found.classes == ("B-MISC", "B-ORG", "B-PER", "I-PER", "O")
    assert any("20 lines -DOCSTART-" in note for note in found.notes)
    assert any("4 columns" in note for note in found.notes)
    words, tags = found.train.batch(torch.arange(len(found.train)))
    assert words.shape == tags.shape
    assert torch.equal(words == 0, tags == -100), "padding is no tag"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\nb\n", "Line 2 .*must be a word and its tag"),
        ("a\tO\n\nb\tx\tO\n", "Line 3 .*3 columns"),
        ("a B-X\nb PER\n", "'B-X' in line 1 and 'PER' in line 2"),
        ("a O\nb O\n", "all words .* have the tag 'O'"),
        ("\n\n", "no word with a tag"),
    ],
)
def test_broken_lines_are_named(tmp_path, text, message) -> None:
    path = tmp_path / "broken.conll"
    path.write_text(text)
    with pytest.raises(DataError, match=f"(?i){message}"):
        read(path)


def test_long_sentences_lose_no_word(tmp_path) -> None:
    path = tmp_path / "long.conll"
    path.write_text("\n\n".join("\n".join(f"w{i} {'B-X' if i % 3 else 'O'}" for i in range(n)) for n in (25, 4) * 10))
    found = read(path, context=10, valid_share=0)
    assert int(found.train.lengths().sum()) == 290
    assert int(found.train.lengths().max()) == 10
    assert any("cut into several" in note for note in found.notes)


def test_unknown_words_have_a_shape() -> None:
    assert [tagged.shape(w) for w in ("Anxiously", "3.14", "os_path", "IBM")] == ["Xx:ly", "d.d:14", "x_x:th", "X:bm"]
    words = tagged.Vocabulary.learn([["the", "the", "Walking", "Talking", "x9"]], most=10)
    known = words.encode(["the", "Running", "Walking", "y3", "???"])
    assert known[1] == known[2], "words that came once and words that never came are alike in shape"
    assert known[0] != known[1]
    assert known[3] == words.words["\0xd"], "a shape that came once is known without its letters"
    assert known[4] == 1
    assert tagged.Vocabulary.of(words.as_list()).encode(["the", "Running"]) == known[:2]


# ---- embedded


def test_statements_and_their_trees() -> None:
    found = dict(trees())
    assert len(found) > 2000
    assert "self . name = name" not in found or found["self . name = name"] == "assign attribute self name name"
    assert all(len(tree.split()) > 0 for tree in found.values())


def test_names_in_programs_are_what_scopes_say() -> None:
    lines = named()
    tags = {tag for _, said in lines for tag in said}
    assert tags == {"O", "attribute", "builtin", "class", "function", "module", "parameter", "variable"}
    for words, said in lines:
        assert len(words) == len(said)
        for before, word, tag in zip(words, words[1:], said[1:], strict=False):
            if before == "def":
                assert tag == "function"
            if word == "self":
                assert tag in ("parameter", "variable", "attribute", "O")
