"""Texts rewritten by a model: what it writes, kept in a file, and what is said where it cannot be had."""

import pytest

from wellfit.data.paraphrase import Rewriter, back_translate, paraphrase
from wellfit.errors import DataError, ModelError

TEXTS = ["a small cat", "the red dog", "", "a small cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 of two layers with random weights and a tokenizer of words, as Hugging Face's libraries save them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    words = ["<pad>", "</s>", "<unk>", *["a", "the", "small", "red", "cat", "dog", "say", ":", "paraphrase"]]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    end = [("</s>", 1)]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    path = tmp_path_factory.mktemp("t5")
    transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_results_are_kept_and_not_written_again(folder, tmp_path, monkeypatch) -> None:
    cache, notes = tmp_path / "kept.jsonl", []
    first = paraphrase(TEXTS, folder, prefix="paraphrase : ", longest=6, cache=cache, notes=notes)
    assert len(first) == 4
    assert first[0] == first[3]
    assert first[2] == "", "an empty text has nothing to be said otherwise"
    assert len(cache.read_text().splitlines()) == 2, "one line for each different text"
    assert "rewrote 4 texts" in notes[0]
    with cache.open("a") as file:
        file.write('{"key": "torn')  # a stop in the middle of a line

    def unreachable(*_: object) -> None:
        raise AssertionError("the model is asked again")

    monkeypatch.setattr(Rewriter, "load", unreachable)
    again = paraphrase(TEXTS, folder, prefix="paraphrase : ", longest=6, cache=cache, notes=notes)
    assert again == first
    assert "in" in notes[1]
    assert str(cache) in notes[1]
    with pytest.raises(AssertionError):
        paraphrase(TEXTS, folder, prefix="say : ", longest=6, cache=cache)


def test_a_model_writes_what_its_own_library_writes(folder) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the red dog", return_tensors="pt").input_ids
    expected = tokenizer.decode(model.generate(ids, num_beams=4, max_new_tokens=6)[0], skip_special_tokens=True).strip()
    assert paraphrase(["the red dog"], folder, longest=6) == [expected or "the red dog"]


def test_there_and_back(folder) -> None:
    rewriter = Rewriter.load(folder)
    there = paraphrase(TEXTS[:2], rewriter, longest=6)
    assert back_translate(TEXTS[:2], rewriter, rewriter, longest=6) == paraphrase(there, rewriter, longest=6)


def test_a_model_that_is_not_there_is_one_clear_sentence(tmp_path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="could not be had") as told:
        paraphrase(["a"], tmp_path / "nothing")
    assert "folder" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_something_else_is_refused(tmp_path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes\nmore\n")
    with pytest.raises(DataError, match="Line 1 of"):
        paraphrase(["a"], "anything", cache=other)
    assert other.read_text() == "my notes\nmore\n"
