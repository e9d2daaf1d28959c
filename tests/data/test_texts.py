"""Texts in, tokens and padded batches out; nothing left out without a word."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from wellfit.data import stdlib
from wellfit.data.batches import Held, OfSamples, Order
from wellfit.data.source import load
from wellfit.data.texts import Sentences, Windows, holds_running, plain, table
from wellfit.data.tokens import END, PAD, UNKNOWN, Tokens, learn, read
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.recipe import Augment, Data, Recipe
from wellfit.train.setup import from_recipe

TEXT = "Zwölf Boxkämpfer jagen Viktor; naïve cats, don't they? 日本"


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_what_is_encoded_can_be_read_again(kind: str) -> None:
    if kind == "bpe":
        pytest.importorskip("tokenizers", reason="byte pairs are learnt by the tokenizers library")
    tokens = learn(kind, [TEXT] * 3, most=400)
    numbers = tokens.encode(TEXT)
    assert tokens.decode([*numbers, END, PAD]) == TEXT
    assert max(numbers) < len(tokens)
    again = Tokens.of(json.loads(json.dumps(tokens.as_dict())))
    assert again.encode(TEXT) == numbers, "plain data makes the same tokens again"


def test_words_that_came_once_are_unknown() -> None:
    tokens = learn("word", ["a cat", "A dog's cat, a", "bird"], most=10)
    assert tokens.symbols == ("a", "cat")
    assert tokens.encode("Cat bird a") == [5, UNKNOWN, 4]
    assert tokens.decode([5, UNKNOWN, 4]) == "cat \N{REPLACEMENT CHARACTER} a"


def test_the_most_frequent_symbols_are_kept_and_ties_are_in_order() -> None:
    assert learn("char", ["bbbaaccd"], most=3).symbols == ("b", "a", "c")


def test_an_unknown_kind_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`data.tokens` is 'letters'; it can be char, byte, word, ngram, bpe"):
        learn("letters", ["a"], most=10)
    (tmp_path / "tokenizer.json").write_text("{}")
    pytest.importorskip("tokenizers")
    with pytest.raises(DataError, match=r"no tokenizer\.json that can be read"):
        read(tmp_path / "tokenizer.json")


def test_sentences_are_padded_to_the_longest_of_a_batch() -> None:
    data = Sentences.of([[5, 6, 7], [8], [9, 10]], torch.tensor([0, 1, 2]))
    tokens, labels = data.batch(torch.tensor([1, 2]))
    assert tokens.tolist() == [[8, 0], [9, 10]]
    assert labels.tolist() == [1, 2]
    assert data.lengths().tolist() == [3, 1, 2]
    assert data.take(torch.tensor([2, 0])).batch(torch.tensor([0, 1]))[0].tolist() == [[9, 10, 0], [5, 6, 7]]
    assert data.fingerprint() != data.take(torch.tensor([1, 0, 2])).fingerprint()


def test_windows_give_what_follows_and_move_with_the_epoch() -> None:
    data = Windows.of(torch.arange(100, dtype=torch.int32), 8, seed=3)
    tokens, following = data.batch(torch.tensor([0, 2]))
    assert tokens[1].tolist() == list(range(16, 24))
    assert torch.equal(following, tokens + 1)
    starts = {int(data.batch(torch.tensor([1]), epoch)[0][0, 0]) for epoch in range(40)}
    assert starts <= set(range(8, 16))
    assert len(starts) > 4, "in time every alignment is seen"
    other = Windows.of(data.flat, 8).varied(Augment(), 4)
    assert [int(other.batch(torch.tensor([1]), e)[0][0, 0]) for e in range(9)] != [
        int(data.batch(torch.tensor([1]), e)[0][0, 0]) for e in range(9)
    ], "the seed of the run decides"
    last = torch.tensor([len(data) - 1])
    assert int(data.batch(last, 1)[1].max()) <= 99, "no window reaches beyond the text"


def test_batches_of_like_length_hold_each_sample_once_an_epoch() -> None:
    lengths = torch.randint(1, 60, (533,), generator=torch.Generator().manual_seed(0))
    data = Sentences.of([[7] * n for n in lengths.tolist()], torch.arange(533))
    order = Order(533, 16, seed=1, lengths=data.lengths())
    batches = OfSamples(data, order)
    seen, padding, mixed = [], 0, 0
    for _ in range(batches.steps_per_epoch):
        [(tokens, samples)] = batches.take()
        seen += samples.tolist()
        padding += int((tokens == PAD).sum())
    assert sorted(seen) == list(range(533))
    for samples in Order(533, 16, seed=1).epoch(0).split(16):
        own = lengths[samples]
        mixed += int((own.max() - own).sum())
    assert padding < 0.25 * mixed, "little is padded"
    assert not torch.equal(order.epoch(0), order.epoch(1))
    again = OfSamples(data, order)
    again.load_state_dict({"position": 7})
    whole = OfSamples(data, order)
    for _ in range(7):
        whole.take()
    assert torch.equal(again.take()[0][1], whole.take()[0][1]), "a position is a number"


def test_held_out_samples_are_all_there_whatever_the_batch() -> None:
    data = Sentences.of([[7] * n for n in (5, 1, 9, 2, 2)], torch.arange(5))
    for size in (1, 2, 5):
        held = Held.of_samples(data, size)
        assert sorted(s for _, samples in held for s in samples.tolist()) == list(range(5))


def written(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


ROWS = [f"{'good' if i % 2 else 'bad'} film number {i % 7} indeed" for i in range(60)]


def test_a_table_of_texts_with_and_without_a_header(tmp_path: Path) -> None:
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(ROWS)]
    without = load(Data(source=str(written(tmp_path / "a.tsv", rows))), "text-classification")
    assert without.classes == ("0", "1")
    assert len(without.train) + len(without.valid) == 60
    with_one = load(Data(source=str(written(tmp_path / "b.tsv", ["review\tlabel", *rows])), text="review"), None)
    assert with_one.task == "text-classification", "naming the text's column is enough"
    assert with_one.fingerprint == without.fingerprint


def test_json_lines_and_folders_by_class(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(ROWS)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    packed = load(Data(source=str(tmp_path / "a.jsonl.gz")))
    assert (packed.task, packed.classes) == ("text-classification", ("0", "1"))
    for part, numbers in (("train", range(40)), ("val", range(40, 60))):
        for i in numbers:
            folder = tmp_path / "by-class" / part / ("good" if i % 2 else "bad")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.txt").write_text(ROWS[i])
    folders = load(Data(source=str(tmp_path / "by-class")))
    assert (folders.classes, len(folders.train), len(folders.valid)) == (("bad", "good"), 40, 20)


def test_empty_texts_are_counted_and_long_ones_cut(tmp_path: Path) -> None:
    rows = [f"{text},{i % 2}" for i, text in enumerate(ROWS)]
    rows[3] = ",1"
    found = load(
        Data(source=str(written(tmp_path / "a.csv", ["text,label", *rows])), text="text", target="label", context=3)
    )
    assert len(found.train) + len(found.valid) == 59
    assert any("1 texts in a.csv are empty and were left out, the first is 5" in note for note in found.notes)
    assert any("longer than 3 tokens and were cut" in note for note in found.notes)
    assert int(found.train.lengths().max()) == 3


@pytest.mark.parametrize(
    ("rows", "settings", "says"),
    [
        (["text,label", "a b,0", "c d,"], {"text": "text", "target": "label"}, "Row 3 of .* has no `label`"),
        (["text,label", "a b,0", "c d,0"], {"text": "text", "target": "label"}, "nothing to tell apart"),
        (
            ["text,label", "a b,0", "c d,1"],
            {"text": "texts", "target": "label"},
            "`data.text` is 'texts', but the columns",
        ),
        (["text,one,two", "a long text,0,1", "c and d,1,0"], {"text": "text"}, "cannot be told"),
        (["text,label", ",0", " ,1"], {"text": "text", "target": "label"}, "holds no text"),
        (
            ["text,label", *(f"number {i},{i}" for i in range(60))],
            {"text": "text", "target": "label"},
            "these are no classes",
        ),
    ],
)
def test_tables_that_will_not_do(tmp_path: Path, rows: list[str], settings: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(Data(source=str(written(tmp_path / "a.csv", rows)), **settings), "text-classification")  # type: ignore[arg-type]


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    train = written(tmp_path / "a.csv", ["text,label", *(f"{text},{i % 2}" for i, text in enumerate(ROWS))])
    valid = written(tmp_path / "v.csv", ["text,label", "a film,0", "a film,2"])
    with pytest.raises(DataError, match=r"Row 3 of .*v\.csv has the class .2."):
        load(Data(source=str(train), valid=str(valid), text="text", target="label"))


def test_running_text_is_cut_at_its_end_and_unknown_symbols_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd " * 400 + "Z" * 40)
    found = load(Data(source=str(tmp_path / "a.txt"), context=16, valid_share=0.1))
    assert found.task == "text-generation"
    assert any("40 of 204 symbols of the valid text do not occur" in note for note in found.notes)
    with pytest.raises(DataError, match="fewer than one window"):
        load(Data(source=str(tmp_path / "a.txt"), context=500))
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        load(Data(source=str(tmp_path / "b.txt")), "text-generation")


def test_a_text_beside_other_data_is_no_text_to_learn_from(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(12):
            image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "LICENSE.txt").write_text("All rights reserved. " * 200)
    found = load(Data(source=str(tmp_path)))
    assert found.task == "image-classification"
    assert any(note.startswith("1 files below") and "LICENSE.txt for one" in note for note in found.notes)


def test_folders_called_txt_are_counted_and_an_unreadable_file_is_named(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "x.txt").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    assert not holds_running(tmp_path, Data(source=""))
    (tmp_path / "a.txt").write_text("abcd " * 400)
    assert any(
        "2 folders or links below" in note
        for note in load(Data(source=str(tmp_path), context=16, valid_share=0.1)).notes
    )

    def denied(self: Path, **_: object) -> str:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(DataError, match=r"a\.txt cannot be read: Permission denied"):
        load(Data(source=str(tmp_path / "a.txt")))


def test_marks_before_a_text_and_utf_16_without_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd", encoding="utf-8-sig")
    assert plain(tmp_path / "a.txt") == "abcd"
    (tmp_path / "b.txt").write_text("abcd", encoding="utf-16-le")
    with pytest.raises(DataError, match="looks like UTF-16"):
        plain(tmp_path / "b.txt")
    (tmp_path / "c.csv").write_text("text,label\na,b\n", encoding="utf-16-le")
    with pytest.raises(DataError, match="looks like UTF-16"):
        table(tmp_path / "c.csv", ())
    (tmp_path / "d.csv").write_text('"te,xt",label\na,b\n', encoding="utf-8-sig")
    assert list(table(tmp_path / "d.csv", ("te,xt",))[0].columns) == ["te,xt", "label"]
    (tmp_path / "e.jsonl").write_text('{"text": "a", "1": "b"}\n', encoding="utf-8-sig")
    assert list(table(tmp_path / "e.jsonl", ())[0].columns) == ["text", "1"]


@pytest.mark.parametrize(
    "lines", ['["a", "b"]\n["c", "d"]\n', "5\n6\n", '{"text": "a"}\n["b"]\n', '{"text": "a"}\n5\n']
)
def test_lines_that_are_no_objects(tmp_path: Path, lines: str) -> None:
    (tmp_path / "a.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"of .* is .*, which is no object"):
        table(tmp_path / "a.jsonl", ())


def test_packed_tables_that_are_damaged(tmp_path: Path) -> None:
    whole = gzip.compress(("text,label\n" + "".join(f"text {i * i},{i % 2}\n" for i in range(200))).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.csv.gz").write_bytes(whole[:20] + bytes(255 - one for one in whole[20:60]) + whole[60:])
    for name in ("cut.csv.gz", "bad.csv.gz"):
        with pytest.raises(DataError, match=f"{name} cannot be read as a table of texts"):
            table(tmp_path / name, ("text", "label"))


def test_no_text_at_all_is_fewer_than_one_window(tmp_path: Path) -> None:
    assert len(Windows.of(torch.zeros(0, dtype=torch.int32), 8)) == 0
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="fewer than one window"):
        load(Data(source=str(tmp_path / "a.txt"), valid_share=0.0))


def test_the_standard_library_is_read_as_text() -> None:
    kinds = stdlib.kinds()
    assert {kind for _, kind in kinds} == set(stdlib.KINDS)
    assert len({text for text, _ in kinds}) == len(kinds), "each text once"
    with pytest.raises(RecipeError, match="stdlib-kinds holds data for text-classification"):
        load(Data(source="stdlib-kinds"), "text-generation")


def test_words_beside_their_letters_know_the_unseen_by_its_parts() -> None:
    tokens = learn("ngram", ["cats play", "cats sleep"], most=100)
    seen = {tokens.symbols[i - 4] for i in tokens.encode("cats")}
    assert seen == {"<cats>", "<ca", "cat", "ats", "ts>", "<cat", "cats", "ats>", "<cats", "cats>"}
    assert {tokens.symbols[i - 4] for i in tokens.encode("cat")} == {"<ca", "cat", "<cat"}
    assert tokens.encode("zyx") == []
    assert tokens.decode(tokens.encode("Cats play cats")) == "cats cats", "play came once"


def test_an_encoder_reads_words_where_a_bag_reads_letters(tmp_path: Path) -> None:
    rows = "".join(f"a {one} thing {i},the {one} object {i}\n" for i in range(30) for one in ("red", "blue"))
    (tmp_path / "pairs.csv").write_text(rows)
    base = Recipe().override({"data.source": str(tmp_path / "pairs.csv"), "task": "sentence-embeddings"})
    small = {"model": {"kind": "encoder", "width": 16, "layers": 1, "heads": 2}}
    assert from_recipe(base).recipe.model.kind == "bag"
    assert from_recipe(base).recipe.data.tokens == "ngram"
    assert from_recipe(base.override(small)).recipe.data.tokens == "word"
    with pytest.raises(
        ModelError, match=r"no order that an encoder could read. Set `model.kind=bag` or `data.tokens=word`"
    ):
        from_recipe(base.override({**small, "data.tokens": "ngram"}))
