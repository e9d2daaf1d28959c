"""Models of conversations: packed as alone, in outputs and gradients; answers are learnt, end by themselves, and a resume is exact."""

import importlib
import inspect
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import commands
from wellfit import api, examine
from wellfit.data.chats import Conversations, Template
from wellfit.data.tokens import END, Tokens
from wellfit.deliver.predict import predict
from wellfit.errors import DataError, ModelError
from wellfit.events import Noted, Stepped
from wellfit.losses import CrossEntropy
from wellfit.models.transformer import Decoder
from wellfit.recipe import Recipe
from wellfit.tasks.task import Supervised
from wellfit.tasks.text_generation import PerToken, Surprise
from wellfit.train.setup import from_recipe

pytest.importorskip("tokenizers")

MODULES = ("statistics", "textwrap", "shutil", "posixpath", "calendar", "heapq", "fnmatch", "random", "copy")
CHATML = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|stop|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def functions() -> list[tuple[str, str]]:
    """(what a function of the standard library says of itself, its name)."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name, one in vars(importlib.import_module(module)).items():
            if inspect.isfunction(one) and name[0] != "_" and one.__module__ == module and one.__doc__:
                found.setdefault(" ".join(one.__doc__.split("\n\n")[0].split())[:60], f"{module}.{name}")
    return list(found.items())[:48]


def asked(path: Path) -> Path:
    rows = [{"instruction": told, "output": name} for told, name in functions()]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def drawn(count: int = 9, seed: int = 0) -> tuple[list[list[int]], list[list[bool]]]:
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 14, (count,), generator=draw).tolist()
    ids = [torch.randint(4, 40, (n,), generator=draw).tolist() for n in sizes]
    said = [[False, *(torch.rand(n - 1, generator=draw) < 0.5).tolist()] for n in sizes]
    for one in said:
        one[-1] = True
    return ids, said


# ---- packed as alone


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "rope"},
        {"positions": "alibi"},
        {"positions": "learned", "max_length": 20},
        {"positions": "sinusoidal"},
        {"positions": "none"},
        {"positions": "rope", "window": 3, "kv_heads": 1, "norm": "rms", "mlp": "swiglu"},
    ],
    ids=str,
)
def test_a_packed_conversation_is_as_if_alone(options) -> None:
    torch.manual_seed(0)
    model = Decoder(40, 32, 2, 2, **options).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ids, said = drawn()
    packed, alone = (Conversations.of(ids, said, context=20, packed=together) for together in (True, False))
    assert len(packed) < len(alone)
    batch, single = packed.batch(torch.arange(len(packed))), alone.batch(torch.arange(len(alone)))
    task = Supervised(PerToken(CrossEntropy()))
    outputs = model(batch["ids_BT"], segments_BT=batch["segments_BT"])
    compared = 0
    for row, segments in enumerate(batch["segments_BT"]):
        for number in range(1, int(segments.max()) + 1):
            place = segments == number
            own = batch["ids_BT"][row, place]
            torch.testing.assert_close(outputs[row, place], model(own[None])[0], atol=1e-5, rtol=0)
            compared += 1
    assert compared == len(ids)

    gradients = []
    for one in (batch, single):
        model.zero_grad()
        (task.loss(model, one) / task.weight(one)).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert int(task.weight(batch)) == int(task.weight(single)) == sum(map(sum, said))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_what_does_not_count_is_in_no_score() -> None:
    metric = Surprise(torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    scores = metric.scores(metric.sums(torch.zeros(1, 4, 4), torch.tensor([[-100, 0, 1, -100]])))
    assert scores["bits_per_byte"] == pytest.approx(1.0)
    assert scores["perplexity"] == pytest.approx(4.0)
    assert scores["accuracy"] == pytest.approx(0.5)


# ---- a decoder of our own

OWN = {
    "model": {"kind": "decoder", "width": 64, "layers": 2, "heads": 4, "dropout": 0.0}, "data.vocabulary": 400,
    "training.batch_size": 8, "optimizer.learning_rate": 5e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A run that has learnt by heart which function does what."""
    folder = tmp_path_factory.mktemp("answering")
    settings = {**OWN, "data.source": str(asked(folder / "a.jsonl")), "data.valid_share": 0.0, "training.steps": 240}
    return api.fit_recipe(Recipe(), set=settings, folder=folder / "run", quiet=True)


def test_answers_are_learnt_and_end_by_themselves(answering) -> None:
    assert answering.recipe.task == "text-generation"
    assert (answering.recipe.data.packing, answering.recipe.data.template) == (True, "plain")
    assert not [f["id"] for f in answering.findings() if f["severity"] != "advice"]
    assert any("conversations share" in event.text for event in answering.events() if isinstance(event, Noted))
    pairs = functions()
    told = predict(answering, [question for question, _ in pairs], temperature=0.01)
    right = sum(one["text"] == name for one, (_, name) in zip(told, pairs, strict=True))
    assert right > 0.9 * len(pairs), f"{right} of {len(pairs)}"
    assert not any("unfinished" in one for one in told)


def test_a_conversation_is_answered_as_its_text_is(answering) -> None:
    question, _ = functions()[0]
    text = predict(answering, question, seed=1)
    messages = [{"role": "user", "content": question}]
    assert text == predict(answering, messages, seed=1) == predict(answering, [messages], seed=1)
    assert text == predict(answering, json.dumps(messages), seed=1)
    assert "unfinished" in predict(answering, question, length=1)[0]
    with pytest.raises(DataError, match="ends with what the assistant says"):
        predict(answering, [[*messages, {"role": "assistant", "content": "a"}]])
    with pytest.raises(DataError, match="has the role 'bot'"):
        predict(answering, [[{"role": "bot", "content": "a"}]])


def test_it_is_answered_on_the_command_line(answering, tmp_path) -> None:
    question, name = functions()[0]

    def told(*arguments: str) -> str:
        return commands.wellfit(
            "predict", answering.folder, *arguments, "--set", "temperature=0.01", strict=False
        ).stdout

    assert told(question) == f"{name}\n"
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": question, "completion": ""}))
    assert told(str(tmp_path / "q.jsonl"), "--json") == json.dumps({"text": name}) + "\n"


def test_the_preflight_finds_nothing_wrong(tmp_path) -> None:
    found = examine.check_recipe(Recipe(), set={**OWN, "data.source": str(asked(tmp_path / "a.jsonl"))})
    assert not found.failed, str(found)


def resumed(settings: dict[str, Any], tmp_path: Path, at: int) -> bool:
    """Whether a run that was asked to stop at a step and went on ends with the bits of one that was not."""
    whole = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "whole", quiet=True)

    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    part = api.fit_recipe(
        Recipe(), set={**settings, "training.log_every": 1}, folder=tmp_path / "part", observers=[stop], quiet=True
    )
    assert part.ended().reason == "interrupted"
    again = api.resume(tmp_path / "part", quiet=True)
    assert again.metrics()["loss"] == whole.metrics()["loss"]
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("packing", [True, False])
def test_a_run_goes_on_to_the_same_bits(tmp_path, packing) -> None:
    settings = {**OWN, "data.source": str(asked(tmp_path / "a.jsonl")), "training.steps": 24, "training.doctor": False,
                "data.packing": packing}  # fmt: skip
    assert resumed(settings, tmp_path, at=13)


def test_where_rows_lie_is_a_function_of_the_seed(tmp_path) -> None:
    settings = {**OWN, "data.source": str(asked(tmp_path / "a.jsonl")), "training.steps": 4}
    taken = []
    for seed in (0, 0, 1):
        job = from_recipe(Recipe().override({**settings, "training.seed": seed}))
        taken.append([job.batches.take()[0]["ids_BT"].tolist() for _ in range(4)])
    assert taken[0] == taken[1] != taken[2]


# ---- a pretrained one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with marks of its own and a chat template."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("llama")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|end|>", "<|start|>", "<|stop|>"], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.train_from_iterator([f"user\n{told}assistant\n{name}" for told, name in functions()], trainer)
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    found.chat_template = CHATML
    found.save_pretrained(path)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=len(found), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=0)).save_pretrained(path)  # fmt: skip
    return path


def tuned(tmp_path, folder, **more):
    return {
        "data.source": str(asked(tmp_path / "a.jsonl")), "model": {"kind": "pretrained", "name": str(folder)},
        "training.steps": 180, "optimizer.learning_rate": 5e-3, "data.valid_share": 0.0,
    } | {name.replace("__", "."): value for name, value in more.items()}  # fmt: skip


def test_its_own_template_is_used_and_its_own_mark_ends_an_answer(tmp_path, folder) -> None:
    run = api.fit_recipe(Recipe(), set=tuned(tmp_path, folder), folder=tmp_path / "run", quiet=True)
    assert (run.recipe.data.template, run.recipe.data.packing) == ("model", True)
    tokens = Tokens.of(run.task["tokens"])
    template = Template.of(tokens, run.task["chat"])
    stop = tokens.encode("<|stop|>", marks=False)[0]
    assert set(template.ends) == {stop, tokens.encode("<|end|>", marks=False)[0]}
    pairs = functions()
    told = predict(run, [question for question, _ in pairs], temperature=0.01)
    right = sum(one["text"] == name for one, (_, name) in zip(told, pairs, strict=True))
    assert right > 0.8 * len(pairs), f"{right} of {len(pairs)}"
    assert not any("unfinished" in one for one in told)
    assert not [f["id"] for f in run.findings() if f["severity"] != "advice"]


def test_a_packed_batch_has_the_gradient_of_its_conversations(tmp_path, folder) -> None:
    gradients = []
    for packing in (True, False):
        job = from_recipe(Recipe().override({**tuned(tmp_path, folder), "data.packing": packing}))
        whole = job.loaded.train.batch(torch.arange(len(job.loaded.train)))
        job.model.eval()
        (job.task.loss(job.model, whole) / job.task.weight(whole)).backward()
        gradients.append([p.grad.clone() for p in job.model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


def test_a_tuned_run_goes_on_to_the_same_bits(tmp_path, folder) -> None:
    pytest.importorskip("peft")
    settings = tuned(tmp_path, folder, training__steps=16, training__doctor=False, finetune__strategy="lora")
    assert resumed(settings, tmp_path, at=9)


def test_the_plain_template_needs_a_mark_that_ends_a_text(tmp_path, folder) -> None:
    job = from_recipe(Recipe().override(tuned(tmp_path, folder, data__template="plain")))
    end = job.record["chat"]["end"]
    assert end == Tokens.of(job.record["tokens"]).encode("<|end|>", marks=False)[0]
    assert int((job.loaded.train.labels == end).sum()) == len(functions())
    assert END not in job.loaded.train.flat
    (tmp_path / "own.jinja").write_text(CHATML.replace("<|stop|>", "<|end|>"))
    job = from_recipe(Recipe().override(tuned(tmp_path, folder, data__template=str(tmp_path / "own.jinja"))))
    assert "<|stop|>" not in job.record["chat"]["template"]


def test_models_that_let_conversations_mix_do_not_pack(tmp_path, folder) -> None:
    transformers = pytest.importorskip("transformers")
    other = tmp_path / "bloom"
    found = transformers.AutoTokenizer.from_pretrained(folder)
    found.save_pretrained(other)
    transformers.BloomForCausalLM(transformers.BloomConfig(
        vocab_size=len(found), hidden_size=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)).save_pretrained(other)  # fmt: skip
    with pytest.raises(
        ModelError, match=r"`data.packing` is true, but the model lets texts .* Set `data.packing=false`"
    ):
        from_recipe(Recipe().override(tuned(tmp_path, other)))
    assert not from_recipe(Recipe().override(tuned(tmp_path, other, data__packing=False))).loaded.train.packed
    before = from_recipe(Recipe().override(tuned(tmp_path, folder, finetune__strategy="prompt")))
    assert before.recipe.data.packing is False
