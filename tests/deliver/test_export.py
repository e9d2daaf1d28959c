"""What a run learnt is written for other libraries, which read it to the same numbers; and what does not fit is refused."""

import pytest
import torch
from safetensors.torch import load_file

import wellfit
from wellfit import api
from wellfit.deliver.predict import Predictor
from wellfit.errors import RunError
from wellfit.finetune import adapters
from wellfit.models.pretrained import OFFSET
from wellfit.recipe import Recipe

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT asks for it


@pytest.fixture(scope="module")
def folder(tiny_bert):
    lines = [
        f"it is {'very ' * (i % 3)}{'good' if i % 2 else 'bad'} film,{'yes' if i % 2 else 'no'}" for i in range(80)
    ]
    (tiny_bert / "films.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return tiny_bert


def trained(folder, where, strategy, **more):
    settings = {
        "data.source": str(folder / "films.csv"), "task": "text-classification", "data.context": 16, "training.steps": 6, "training.batch_size": 16,
        "model": {"kind": "pretrained", "name": str(folder)}, "finetune.strategy": strategy, "finetune.virtual_tokens": 4,
        "optimizer.learning_rate": 0.01, **more,
    }  # fmt: skip
    return api.fit_recipe(Recipe(), set=settings, folder=where, quiet=True)


@pytest.mark.parametrize("strategy", ["lora", "qlora", "prompt", "prefix"])
def test_peft_reads_what_learnt_beside_frozen_weights(tmp_path, folder, strategy) -> None:
    if strategy == "qlora":
        pytest.importorskip("bitsandbytes")
    run = trained(folder, tmp_path / "run", strategy)
    done = wellfit.export(run, tmp_path / "adapter", "peft")
    assert done.apart == 0
    assert "model.head.weight" in " ".join(done.notes), "our head is outside what PEFT loads into, and it is said"
    model = Predictor.of(run).model
    ids = torch.tensor([[2, 9, 10, 6, 8, 3], [2, 9, 10, 7, 8, 3]])
    base = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False)
    if strategy == "qlora":
        return  # onto weights in four bits, which the library makes on an accelerator
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        out = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        ours = model.model.encoder(ids + OFFSET)
    torch.testing.assert_close(ours, out[:, -ids.shape[1] :], atol=1e-6, rtol=1e-5)


def test_merged_weights_are_a_plain_model_of_hugging_face(tmp_path, folder) -> None:
    run = trained(folder, tmp_path / "run", "lora")
    done = wellfit.export(run, tmp_path / "plain", "huggingface")
    assert done.apart < 1e-6
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "plain", add_pooling_layer=False).eval()
    cut = transformers.AutoTokenizer.from_pretrained(tmp_path / "plain")
    ids = cut("it is not a bad film", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ours = Predictor.of(run).model.model.encoder(ids + OFFSET)
        torch.testing.assert_close(theirs(input_ids=ids).last_hidden_state, ours, atol=1e-5, rtol=1e-5)


def test_plain_weights_hold_everything_and_are_a_start(tmp_path, folder) -> None:
    run = trained(folder, tmp_path / "run", "lora")
    done = wellfit.export(run, tmp_path / "plain")
    weights = load_file(done.folder / "model.safetensors")
    assert done.apart == 0
    assert not any("lora_" in name or "base_layer" in name for name in weights)
    again = trained(folder, tmp_path / "again", "full", **{"finetune.weights": str(run.folder), "training.steps": 1,
                                                           "optimizer.learning_rate": 1e-12})  # fmt: skip
    for name, value in again.best_weights().items():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=1e-6)


def test_four_bits_become_plain_weights(tmp_path, folder) -> None:
    pytest.importorskip("bitsandbytes")
    run = trained(folder, tmp_path / "run", "qlora")
    model = Predictor.of(run).model
    ids = torch.tensor([[2, 9, 10, 6, 8, 3]]) + OFFSET
    with torch.no_grad():
        packed = model(ids)
        torch.testing.assert_close(adapters.merge(model)(ids), packed, atol=1e-5, rtol=1e-4)
    assert wellfit.export(run, tmp_path / "plain").apart == 0


def test_what_does_not_fit_is_said(tmp_path, folder) -> None:
    run = trained(folder, tmp_path / "run", "frozen")
    with pytest.raises(RunError, match="it can be safetensors, peft, huggingface"):
        wellfit.export(run, tmp_path / "out", "onyx")
    with pytest.raises(RunError, match=r"nothing that PEFT would load.*was 'frozen'"):
        wellfit.export(run, tmp_path / "out", "peft")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(RunError, match="is in use; name a new folder"):
        wellfit.export(run, tmp_path / "full")
    digits = api.fit_recipe(
        Recipe(), set={"data.source": "digits", "training.steps": 1}, folder=tmp_path / "digits", quiet=True
    )
    with pytest.raises(RunError, match="did not train a model of Hugging Face"):
        wellfit.export(digits, tmp_path / "out", "huggingface")
    vectors = trained(folder, tmp_path / "vectors", "prompt")
    with pytest.raises(RunError, match="Use the format peft"):
        wellfit.export(vectors, tmp_path / "out")
    assert not (tmp_path / "out").exists()
