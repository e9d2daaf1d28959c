"""Pretrained models that write: the library's logits, packed as alone, cached as uncached, PEFT's adapters; others refused."""

import json
import math
import shutil
import warnings

import pytest
import torch

from wellfit import api, finetune
from wellfit.data.tokens import END, PAD, Tokens
from wellfit.deliver.predict import Predictor, predict
from wellfit.errors import ModelError, RecipeError
from wellfit.finetune import NEVER, adapters
from wellfit.finetune.blocks import ending
from wellfit.models.generate import beam, greedy, sample
from wellfit.models.pretrained import OFFSET, Writer, apart, configuration, fill, marks, tokenizer, writes
from wellfit.recipe import Finetune, Recipe
from wellfit.train.setup import from_recipe

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. "
PLACES = 96


def tokenized(folder):
    """A small byte-level tokenizer with an end-of-text mark, beside the model."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    made.train_from_iterator([TEXT * 9], trainer)
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    found.save_pretrained(folder)
    return len(found)


def made(folder, kind: str):
    V = tokenized(folder)
    torch.manual_seed(0)
    small = dict(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, bos_token_id=0, eos_token_id=0
    )
    wide = dict(intermediate_size=64, max_position_embeddings=PLACES)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=PLACES, bos_token_id=0, eos_token_id=0
        )
    elif kind == "llama":
        config = transformers.LlamaConfig(**small, **wide, num_key_value_heads=2)
    elif kind == "mistral":  # attention within a window
        config = transformers.MistralConfig(**small, **wide, num_key_value_heads=2, sliding_window=4)
    elif kind == "bloom":  # no position_ids
        config = transformers.BloomConfig(
            vocab_size=V, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
        )
    else:  # recurrent
        config = transformers.MambaConfig(
            vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=8, eos_token_id=0
        )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model of each kind, by its kind."""
    return {kind: made(tmp_path_factory.mktemp(kind), kind) for kind in ("gpt2", "llama", "mistral", "bloom", "mamba")}


def writer(folder) -> Writer:
    found = Writer.of(json.loads(json.dumps(configuration(str(folder)))))
    assert fill(found, str(folder)) == []
    return found.eval()


# ---- the model


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "bloom", "mamba"])
def test_logits_are_the_librarys_and_what_is_ours_is_never_said(folders, kind) -> None:
    model, tokens = writer(folders[kind]), Tokens("hf", pairs=tokenizer(str(folders[kind])))
    ids = torch.tensor([tokens.encode(TEXT, marks=False)])
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folders[kind]).eval()(ids - OFFSET).logits
        found = model(ids)
        left = torch.cat([torch.full((1, 3), PAD), ids], 1)
        padded = model(left, left != PAD)[:, 3:]
    assert torch.equal(found[..., OFFSET:], expected)
    assert found.shape[-1] == model.vocabulary == len(tokens)
    assert torch.isfinite(found).all()
    assert found.softmax(-1)[..., :OFFSET].max() == 0
    if kind != "mamba":
        torch.testing.assert_close(padded[..., OFFSET:], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_a_packed_text_is_as_if_alone(folders, kind) -> None:
    model = writer(folders[kind])
    assert apart(model)
    ids = torch.randint(OFFSET, model.vocabulary, (2, 20), generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([[1] * 7 + [2] * 1 + [3] * 9 + [0] * 3, [1] * 12 + [2] * 8])
    with torch.no_grad():
        packed = model(ids, segments_BT=segments)
        for row, start, end in ((0, 0, 7), (0, 7, 8), (0, 8, 17), (1, 0, 12), (1, 12, 20)):
            alone = model(ids[row : row + 1, start:end])
            torch.testing.assert_close(packed[row : row + 1, start:end], alone, atol=1e-5, rtol=0)


def test_models_that_cannot_keep_texts_apart_are_known(folders) -> None:
    assert not apart(writer(folders["bloom"]))
    assert not apart(writer(folders["mamba"]))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "bloom", "mamba"])
def test_cached_is_uncached_and_a_row_is_as_if_alone(folders, kind) -> None:
    model, tokens = writer(folders[kind]), Tokens("hf", pairs=tokenizer(str(folders[kind])))
    prompts = [tokens.encode(text, marks=False) for text in ("the lazy", "the quick brown fox over")]
    draws = lambda: [torch.Generator().manual_seed(i) for i in range(2)]  # noqa: E731
    for choice in ({"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.8}):
        cached = sample(model, prompts, 12, generator=draws(), **choice)
        assert cached == sample(model, prompts, 12, generator=draws(), cached=False, **choice)
        alone = [sample(model, [p], 12, generator=[d], **choice)[0] for p, d in zip(prompts, draws(), strict=True)]
        assert alone == cached
        assert min(n for row in cached for n in row) >= OFFSET
    assert [rows[0].tokens for rows in beam(model, prompts, 6, beams=1)] == greedy(model, prompts, 6)
    stop = cached[0][4]
    ended = sample(model, prompts, 12, generator=draws(), top_p=0.8, stop=(stop, END))
    assert ended[0] == cached[0][: cached[0].index(stop) + 1]


def test_more_than_the_model_has_places_for_is_refused(folders) -> None:
    with pytest.raises(ModelError, match=rf"positions for `max_length={PLACES}`"):
        greedy(writer(folders["gpt2"]), [[5] * 90], 20)


# ---- the tokens


def test_bytes_of_tokens_are_those_of_their_text(folders) -> None:
    tokens = Tokens("hf", pairs=tokenizer(str(folders["gpt2"])))
    sizes = tokens.sizes()
    for text in (TEXT, "naïve 日本語 \U0001f98a\n\t", "  a  b"):
        assert sum(sizes[i] for i in tokens.encode(text, marks=False)) == len(text.encode())
    assert sizes[tokens.encode("<|end|>", marks=False)[0]] == 0
    pieces = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token=None, vocab={
        **{f"<0x{i:02X}>": i for i in range(256)}, "▁": 256, "a": 257, "▁a": 258}, merges=[("▁", "a")]))  # fmt: skip
    pieces.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    pieces.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    llama = Tokens("hf", pairs=pieces.to_str())
    assert sum(llama.sizes()[i] for i in llama.encode("a a é", marks=False)) == len("a a é".encode())


def test_fifty_thousand_tokens_are_measured_at_once(data_folder) -> None:
    vocabulary = json.loads((data_folder / "tok_gpt2" / "encoder.json").read_text())
    merges = [
        tuple(line.split()) for line in (data_folder / "tok_gpt2" / "vocab.bpe").read_text().split("\n")[1:] if line
    ]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>"])
    tokens = Tokens("hf", pairs=backend.to_str())
    assert len(tokens) == 50_257 + OFFSET
    sizes = tokens.sizes()
    text = (data_folder / "tinyshakespeare" / "input.txt").read_text()[:50_000] + "日本語 \U0001f98a naïve"
    assert sum(sizes[i] for i in tokens.encode(text, marks=False)) == len(text.encode())


# ---- the task


def running(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT * 60)
    return str(tmp_path / "a.txt")


def settings(tmp_path, folder, **more):
    return {
        "data.source": running(tmp_path), "data.context": 24, "model": {"kind": "pretrained", "name": str(folder)},
        "training.steps": 12, "training.doctor": False, "optimizer.learning_rate": 1e-2,
    } | {name.replace("__", "."): value for name, value in more.items()}  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_learns_to_go_on_and_is_asked_without_its_folder(tmp_path, folders, kind) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / "model")
    run = api.fit_recipe(
        Recipe(), set=settings(tmp_path, folder, training__steps=60), folder=tmp_path / "run", quiet=True
    )
    shutil.rmtree(folder)
    scores = run.scores()
    assert run.recipe.task == "text-generation"
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]), rel=1e-4)
    assert scores["perplexity"] < 1.5
    tokens = Tokens.of(run.task["tokens"])
    ids = tokens.encode(TEXT * 6, marks=False)
    per_byte = math.log2(scores["perplexity"]) * len(ids) / len(TEXT * 6)
    assert scores["bits_per_byte"] == pytest.approx(per_byte, rel=0.1)
    assert run.task["stop"] == [tokens.encode("<|end|>", marks=False)[0]]
    told = predict(run, ["the quick brown", "and the dog"], length=8, temperature=0.1)
    whole = TEXT * 2
    for start, answer in zip(("the quick brown", "and the dog"), told, strict=True):
        assert whole[whole.index(start) + len(start) :].startswith(answer["text"]), answer


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_with_lora_nothing_else_learns_and_peft_reads_what_is_saved(tmp_path, folders, kind) -> None:
    peft = pytest.importorskip("peft")
    run = api.fit_recipe(
        Recipe(), set=settings(tmp_path, folders[kind], finetune__strategy="lora"), folder=tmp_path / "run", quiet=True
    )
    model = Predictor.of(run).model
    start = writer(folders[kind]).state_dict()
    now = {name.replace(".base_layer", ""): v for name, v in model.state_dict().items() if "lora_" not in name}
    assert all(torch.equal(start[name], value) for name, value in now.items()), "the head is as trained as the rest"
    assert set(start) == set(now)
    adapters.save(model, tmp_path / "adapter", base=str(folders[kind]))
    ends = {"gpt2": {"c_attn"}, "llama": {"q_proj", "v_proj"}}[kind]
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert {name.rpartition(".")[2] for name in written} == ends
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in adapters.learnt(model)} == ends
    base = transformers.AutoModelForCausalLM.from_pretrained(folders[kind])
    ids = torch.randint(OFFSET, model.vocabulary, (2, 15), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = base.eval()(ids - OFFSET).logits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's, of its own
            tuned = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
        found = tuned(ids - OFFSET).logits
        torch.testing.assert_close(found, model.eval()(ids)[..., OFFSET:])
    assert (found - before).abs().max() > 1e-3


def test_strategies_without_anything_new(folders) -> None:
    for kind, head in (("gpt2", "model.transformer.h.1.mlp.c_proj.weight"), ("llama", "model.lm_head.weight")):
        model = writer(folders[kind])
        frozen = finetune.plan(model, Finetune(strategy="frozen"), total=9, per_epoch=3, fresh=[])
        assert frozen.starts[head] == 0, "the last block stands for the head"
        assert (
            frozen.starts["model.transformer.wte.weight" if kind == "gpt2" else "model.model.embed_tokens.weight"]
            == NEVER
        )
        lora = finetune.plan(model, Finetune(strategy="lora"), total=9, per_epoch=3, fresh=[])
        assert set(lora.starts.values()) == {NEVER}
        everywhere = adapters.targets(model, head=ending(model), everywhere=True)
        assert not any("lm_head" in name for name in everywhere), "a head that is the embeddings again stays tied"
        assert len(everywhere) >= 8
    unknown = finetune.plan(writer(folders["gpt2"]), Finetune(strategy="lora"), total=9, per_epoch=3)
    assert set(unknown.starts.values()) == {NEVER}, "tied weights are no head, and the last layer is none either"


# ---- what is refused


def refused(tmp_path, folder, told, error=ModelError, **more) -> None:
    with pytest.raises(error, match=told):
        from_recipe(Recipe().override({**settings(tmp_path, folder, **more), "task": "text-generation"}))


def test_models_that_do_not_write_are_refused(tmp_path) -> None:
    encoder = tmp_path / "bert"
    V = tokenized(encoder)
    transformers.BertModel(transformers.BertConfig(
        vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)).save_pretrained(encoder)  # fmt: skip
    refused(tmp_path, encoder, r"a bert model, which reads a text from both sides \(an encoder\) and cannot go on")
    both = tmp_path / "t5"
    tokenized(both)
    transformers.T5Model(transformers.T5Config(
        vocab_size=V, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(both)  # fmt: skip
    refused(tmp_path, both, r"a t5 model, which makes one text into another \(an encoder-decoder\)")
    writes("x", {"model_type": "bert", "is_decoder": True})
    with pytest.raises(ModelError, match="has no form that predicts the next token"):
        writes("x", {"model_type": "clip"})


def test_settings_that_do_not_go_with_it_are_refused(tmp_path, folders) -> None:
    refused(
        tmp_path,
        folders["gpt2"],
        rf"`data.context` is 200, and .* has places for {PLACES} tokens",
        data__context=200,
        data__valid_share=0.0,
    )
    refused(
        tmp_path, folders["gpt2"], "knows texts only as its own tokenizer cuts them", RecipeError, data__tokens="char"
    )
    refused(tmp_path, folders["gpt2"], "`loss.label_smoothing` is 0.1", RecipeError, loss__label_smoothing=0.1)
    refused(tmp_path, tmp_path / "nothing", "there is no such folder here")


def test_a_tokenizer_that_is_larger_than_its_model_is_told(tmp_path) -> None:
    folder = tmp_path / "small"
    V = tokenized(folder)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=V - 20, n_embd=16, n_layer=1, n_head=2, n_positions=PLACES, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)  # fmt: skip
    refused(tmp_path, folder, r"The tokenizer of .* gives the number \d+, but the model has \d+ tokens")


def test_a_head_that_is_not_in_the_folder_is_new(tmp_path) -> None:
    folder = tmp_path / "headless"
    V = tokenized(folder)
    small = dict(vocab_size=V, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.LlamaModel(
        transformers.LlamaConfig(**small, bos_token_id=0, eos_token_id=0, max_position_embeddings=PLACES)
    ).save_pretrained(folder)
    found = Writer.of(configuration(str(folder)))
    assert fill(found, str(folder)) == ["lm_head.weight"]
    job = from_recipe(Recipe().override(settings(tmp_path, folder, finetune__strategy="lora")))
    assert job.stages.starts["model.lm_head.weight"] == 0


def test_marks_of_a_model(folders) -> None:
    assert marks(str(folders["gpt2"])) == {"template": "", "names": {"eos_token": "<|end|>"}, "ends": [0]}
