"""Language models of a folder: equal to the library's, padding harmless, made again from plain data, refused in a sentence."""

import json

import pytest
import torch

from wellfit import api
from wellfit.checkpoint import Checkpoints
from wellfit.data.tokens import Tokens
from wellfit.deliver.predict import predict
from wellfit.errors import ModelError
from wellfit.models.pretrained import OFFSET, Trunk, configuration, fill, tokenizer
from wellfit.recipe import Recipe
from wellfit.train.setup import from_recipe

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tiny_bert):
    return tiny_bert


def table(path, rows=120):
    lines = [
        f"it is {'very ' * (i % 3)}{'good' if i % 2 else 'bad'} film,{'yes' if i % 2 else 'no'}" for i in range(rows)
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def test_states_are_the_librarys_whatever_is_padded(folder) -> None:
    trunk = Trunk.of(json.loads(json.dumps(configuration(str(folder)))))
    fill(trunk, str(folder))
    tokens = Tokens("hf", pairs=tokenizer(str(folder)))
    texts = ["a good film", "it is not very bad"]
    cut = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    for text in texts:
        ids = torch.tensor([tokens.encode(text)])
        assert (ids - OFFSET).tolist() == [cut(text)["input_ids"]]
        assert tokens.decode(tokens.encode(text)) == text
        with torch.no_grad():
            expected = theirs(**cut(text, return_tensors="pt")).last_hidden_state
            padded = torch.cat([ids, torch.zeros(1, 3, dtype=ids.dtype)], 1)
            torch.testing.assert_close(trunk.eval()(ids), expected)
            torch.testing.assert_close(trunk(padded, padded != 0)[:, : ids.shape[1]], expected)
    assert Tokens.of(json.loads(json.dumps(tokens.as_dict()))).encode(texts[0]) == tokens.encode(texts[0])


@pytest.mark.parametrize("strategy", ["full", "frozen", "lora"])
def test_it_is_tuned_scored_and_asked(tmp_path, folder, strategy) -> None:
    if strategy == "lora":
        pytest.importorskip("peft")
    settings = {
        "data.source": str(table(tmp_path / "t.csv")), "data.target": "label", "data.text": "text", "data.context": 16,
        "task": "text-classification", "model": {"kind": "pretrained", "name": str(folder)}, "finetune.strategy": strategy,
        "optimizer.learning_rate": 1e-2, "training.epochs": 4,
    }  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "run", quiet=True)
    assert run.scores()["accuracy"] == 1
    assert not [f["id"] for f in run.findings() if f["id"] in ("parameters-without-gradient", "learning-rate-too-low")]
    fresh = Trunk.of(configuration(str(folder)))
    fill(fresh, str(folder))
    start = {f"model.encoder.{name}": value for name, value in fresh.state_dict().items()}
    now = {
        name.replace(".base_layer", ""): value
        for name, value in Checkpoints(run.folder / "checkpoints").latest().weights.items()
    }
    moved = [name for name, value in start.items() if not torch.equal(value, now[name])]
    assert bool(moved) == (strategy == "full")
    (folder / "config.json").rename(folder / "config.away")  # a run can be asked without the folder it began with
    try:
        assert [one["class"] for one in predict(run, ["a good film", "it is bad"])] == ["yes", "no"]
    finally:
        (folder / "config.away").rename(folder / "config.json")


def test_what_is_not_there_or_too_long_is_told(tmp_path, folder, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it was read when that was imported
    settings = {"data.source": str(table(tmp_path / "t.csv")), "data.target": "label", "task": "text-classification"}
    with pytest.raises(ModelError, match=r"`model.name` is 'nobody/nothing'; there is no such folder here"):
        from_recipe(Recipe().override({**settings, "model": {"kind": "pretrained", "name": "nobody/nothing"}}))
    small = {"model": {"kind": "pretrained", "name": str(folder)}, "data.context": 64}
    with pytest.raises(ModelError, match=r"`data.context` is 64, and .* has places for 32 tokens"):
        from_recipe(Recipe().override({**settings, **small}))


def test_a_text_that_is_cut_keeps_the_marks_at_its_ends(tmp_path, folder) -> None:
    tokens = Tokens("hf", pairs=tokenizer(str(folder)))
    whole = tokens.encode("it is a very very very good film")
    words = (folder / "vocab.txt").read_text().splitlines()
    cls, sep = (OFFSET + words.index(mark) for mark in ("[CLS]", "[SEP]"))
    assert (whole[0], whole[-1]) == (cls, sep)
    assert tokens.cut(whole, 5) == [*whole[:4], sep]
    assert tokens.cut(whole, len(whole)) == whole
    assert Tokens("byte").cut([5, 6, 7], 2) == [5, 6]
    settings = {
        "data.source": str(table(tmp_path / "t.csv")), "data.target": "label", "data.text": "text", "data.context": 5,
        "task": "text-classification", "model": {"kind": "pretrained", "name": str(folder)},
    }  # fmt: skip
    job = from_recipe(Recipe().override(settings))
    ids, _ = job.loaded.train.batch(torch.arange(len(job.loaded.train)))
    assert ids.shape[1] == 5
    assert (ids[:, 0] == cls).all()
    assert (ids[:, -1] == sep).all()
    short = torch.tensor([[*tokens.encode("good"), 0, 0]])
    with torch.no_grad():  # what is padded is in no mean
        torch.testing.assert_close(job.model.eval()(short), job.model(short[:, :3]))
