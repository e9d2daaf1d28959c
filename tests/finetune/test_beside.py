"""Prompts, prefixes and four bits: what learns, that nothing else moves, that a resume is to the bit, and what is refused."""

import sys

import pytest
import torch
from torch import nn

from wellfit import api
from wellfit.checkpoint import Checkpoints
from wellfit.deliver.predict import predict
from wellfit.errors import MissingExtra, ModelError
from wellfit.finetune import prompts, quantize
from wellfit.finetune.prompts import Prompted
from wellfit.models.transformer import Classifier, Encoder
from wellfit.recipe import Finetune, Recipe

pytest.importorskip("transformers")
pytest.importorskip("peft")
STRATEGIES = ["prompt", "prefix", "qlora"]


def settings(bert, where, strategy, **more):
    lines = [
        f"it is {'very ' * (i % 3)}{'good' if i % 2 else 'bad'} film,{'yes' if i % 2 else 'no'}" for i in range(96)
    ]
    table = where / "films.csv"
    table.write_text("text,label\n" + "\n".join(lines) + "\n")
    return {
        "data.source": str(table), "task": "text-classification", "data.context": 12, "training.batch_size": 16, "training.epochs": 4,
        "model": {"kind": "pretrained", "name": str(bert)}, "finetune.strategy": strategy, "finetune.virtual_tokens": 4,
        "optimizer.learning_rate": 0.02, **more,
    }  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_laid_in_learns_and_nothing_else_moves(tmp_path, tiny_bert, strategy) -> None:
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    run = api.fit_recipe(Recipe(), set=settings(tiny_bert, tmp_path, strategy), folder=tmp_path / "run", quiet=True)
    assert run.scores()["accuracy"] == 1
    assert not [f for f in run.findings() if f["severity"] != "advice"]
    assert [one["class"] for one in predict(run, ["it is a good film", "it is bad"])] == ["yes", "no"]
    learnt = {name for name, p in run.model.named_parameters() if p.requires_grad}
    marks = ("lora_",) if strategy == "qlora" else (prompts.LEARNT,)
    assert learnt
    assert all(name.startswith("model.head.") or any(mark in name for mark in marks) for name in learnt)
    once = api.fit_recipe(
        Recipe(),
        set=settings(tiny_bert, tmp_path, strategy, **{"training.steps": 1}),
        folder=tmp_path / "once",
        quiet=True,
    )
    first, last = (Checkpoints(one.folder / "checkpoints").latest().weights for one in (once, run))
    moved = {name for name, value in first.items() if not torch.equal(value, last[name])}
    assert moved == learnt, "the rest is the same after one step and after all"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resume_is_the_run_that_was_never_stopped(tmp_path, tiny_bert, strategy) -> None:
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    chosen = settings(tiny_bert, tmp_path, strategy, **{"checkpoints.every": 3.0, "training.log_every": 1})
    whole = api.fit_recipe(Recipe(), set=chosen, folder=tmp_path / "whole", quiet=True)

    def interrupt(event) -> None:
        if getattr(event, "step", 0) == 8 and type(event).__name__ == "Stepped":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.fit_recipe(Recipe(), set=chosen, folder=tmp_path / "part", quiet=True, observers=[interrupt])
    again = api.resume(tmp_path / "part", quiet=True)
    assert again.metrics()["loss"] == whole.metrics()["loss"]
    a, b = (Checkpoints(run.folder / "checkpoints").latest().weights for run in (whole, again))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_what_comes_out_is_as_long_as_what_went_in(tiny_bert) -> None:
    import transformers

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformers.AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False)

    ids = torch.tensor([[2, 9, 10, 3, 0], [2, 9, 10, 6, 3]])
    for strategy, learnt in (("prompt", 4 * 32), ("prefix", 4 * 2 * 2 * 32)):
        model = Around().eval()
        plain = model.inner(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
        assert prompts.lay_in(model, Finetune(strategy=strategy, virtual_tokens=4)) == learnt
        assert isinstance(model.inner, Prompted)
        model.eval()
        states = model.inner(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
        assert states.shape == plain.shape
        assert not torch.allclose(states, plain, atol=1e-3), "the vectors are looked at"
        alone = model.inner(input_ids=ids[:1, :4], attention_mask=torch.ones(1, 4).long()).last_hidden_state
        torch.testing.assert_close(states[:1, :4], alone, atol=1e-5, rtol=1e-5)


def test_four_bits_are_small_near_and_not_the_head() -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128), nn.Linear(128, 2))
    x = torch.randn(8, 128)
    before, size = model(x).detach(), sum(v.numel() * v.element_size() for v in model.state_dict().values())
    assert quantize.quantize(model, head=["3.weight", "3.bias"]) == ["0", "2"]
    state = model.state_dict()
    assert sum(v.numel() * v.element_size() for v in state.values()) < size / 5
    assert type(model[3]) is nn.Linear
    near = model(x).detach()
    assert 0 < float((near - before).norm() / before.norm()) < 0.2
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128), nn.Linear(128, 2))
    quantize.quantize(other, head=["3.weight", "3.bias"])
    other.load_state_dict(state)
    assert torch.equal(other(x).detach(), near), "what was saved is put back to the bit"
    torch.testing.assert_close(quantize.whole(model[0])(x), model[0](x), atol=1e-5, rtol=1e-5)


def test_what_cannot_be_is_said(tmp_path, tiny_bert, monkeypatch) -> None:
    own = Classifier(Encoder(20, 16, 2, 2), 3)
    with pytest.raises(
        ModelError, match=r"puts vectors before what a language model of Hugging Face reads.*or another strategy"
    ):
        prompts.lay_in(own, Finetune(strategy="prompt"))
    long = settings(tiny_bert, tmp_path, "prompt", **{"finetune.virtual_tokens": 24})
    with pytest.raises(
        ModelError, match=r"`finetune.virtual_tokens` is 24 and `data.context` 12, together more than the 32 places"
    ):
        api.fit_recipe(Recipe(), set=long, folder=tmp_path / "long", quiet=True)
    with pytest.raises(ModelError, match="nothing to put into four bits"):
        quantize.quantize(nn.Sequential(nn.Linear(2, 2)), head=["0.weight"])
    quantize.packed_linear.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        quantize.quantize(own)
