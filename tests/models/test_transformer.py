"""The three networks are Hugging Face's and torch's on copied weights; caches, padding and packing change nothing."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.attention import attention_maps
from wellfit.models.transformer import (
    POSITIONS,
    Block,
    Classifier,
    Decoder,
    Encoder,
    EncoderDecoder,
    FeedForward,
    MaskedLanguageModel,
    Stack,
    documents,
)

Weights = dict[str, torch.Tensor]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def scramble(model: nn.Module, std: float = 0.3) -> None:
    """Every parameter at random: biases and norms at 0 and 1 would hide that they went to the wrong place."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)


def put(model: nn.Module, weights: Weights) -> None:
    assert weights.keys() == model.state_dict().keys()
    model.load_state_dict(weights)


def ids(B: int = 2, T: int = 11, V: int = 20, seed: int = 0) -> torch.Tensor:
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


# ---- peers


def test_the_decoder_is_gpt2() -> None:
    pytest.importorskip("transformers", reason="the peer of this test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=20, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=0, eos_token_id=0
        )
        theirs = GPT2LMHeadModel(config).eval()
    torch.manual_seed(0)
    scramble(theirs)
    ours = Decoder(20, 32, layers=2, heads=4, max_length=16, mlp="gelu_tanh").eval()
    old = theirs.state_dict()
    new = {
        "embedding.weight": old["transformer.wte.weight"],
        "stack.learned.table.weight": old["transformer.wpe.weight"],
    }
    for kind in ("weight", "bias"):
        new[f"stack.last_norm.{kind}"] = old[f"transformer.ln_f.{kind}"]
        for i in range(2):
            a, b = f"stack.blocks.{i}", f"transformer.h.{i}"
            # GPT-2 stores [in, out].
            new[f"{a}.attention.q.{kind}"] = old[f"{b}.attn.c_attn.{kind}"].t()[:32]
            new[f"{a}.attention.kv.{kind}"] = old[f"{b}.attn.c_attn.{kind}"].t()[32:]
            for name, name_ in (("attention.out", "attn.c_proj"), ("feed.up", "mlp.c_fc"), ("feed.down", "mlp.c_proj")):
                new[f"{a}.{name}.{kind}"] = old[f"{b}.{name_}.{kind}"].t()
            new[f"{a}.attention_norm.{kind}"] = old[f"{b}.ln_1.{kind}"]
            new[f"{a}.feed_norm.{kind}"] = old[f"{b}.ln_2.{kind}"]
    put(ours, new)
    with torch.no_grad():
        close(ours(ids()), theirs(ids()).logits)


def test_the_encoder_is_bert() -> None:
    pytest.importorskip("transformers", reason="the peer of this test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=20,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=16,
            layer_norm_eps=1e-5,
        )
        theirs = BertModel(config, add_pooling_layer=False).eval()
    torch.manual_seed(0)
    scramble(theirs)
    ours = Encoder(20, 32, layers=2, heads=4, hidden=48, max_length=16, order="post").eval()
    old = theirs.state_dict()
    new = {"embedding.weight": old["embeddings.word_embeddings.weight"]}
    # All tokens are of sentence A, whose embedding is the same everywhere.
    sentence = old["embeddings.token_type_embeddings.weight"][0]
    new["stack.learned.table.weight"] = old["embeddings.position_embeddings.weight"] + sentence
    for kind in ("weight", "bias"):
        new[f"stack.first_norm.{kind}"] = old[f"embeddings.LayerNorm.{kind}"]
        for i in range(2):
            a, b = f"stack.blocks.{i}", f"encoder.layer.{i}"
            new[f"{a}.attention.q.{kind}"] = old[f"{b}.attention.self.query.{kind}"]
            new[f"{a}.attention.kv.{kind}"] = torch.cat(
                [old[f"{b}.attention.self.{name}.{kind}"] for name in ("key", "value")]
            )
            new[f"{a}.attention.out.{kind}"] = old[f"{b}.attention.output.dense.{kind}"]
            new[f"{a}.attention_norm.{kind}"] = old[f"{b}.attention.output.LayerNorm.{kind}"]
            new[f"{a}.feed.up.{kind}"] = old[f"{b}.intermediate.dense.{kind}"]
            new[f"{a}.feed.down.{kind}"] = old[f"{b}.output.dense.{kind}"]
            new[f"{a}.feed_norm.{kind}"] = old[f"{b}.output.LayerNorm.{kind}"]
    put(ours, new)
    real = torch.arange(11) < torch.tensor([[11], [6]])
    with torch.no_grad():
        want = theirs(ids(), attention_mask=real.long()).last_hidden_state
        close(ours(ids(), real)[real], want[real])


def of_torchs_layer(old: Weights, cross: bool = False) -> Weights:
    """The weights of a torch.nn.TransformerEncoderLayer or DecoderLayer under a Block's names."""
    new = {}
    for kind in ("weight", "bias"):
        for ours, theirs in [("attention", "self_attn"), ("cross", "multihead_attn")][: 1 + cross]:
            D = old[f"{theirs}.in_proj_{kind}"].shape[0] // 3
            new[f"{ours}.q.{kind}"] = old[f"{theirs}.in_proj_{kind}"][:D]
            new[f"{ours}.kv.{kind}"] = old[f"{theirs}.in_proj_{kind}"][D:]
            new[f"{ours}.out.{kind}"] = old[f"{theirs}.out_proj.{kind}"]
        new[f"attention_norm.{kind}"] = old[f"norm1.{kind}"]
        new[f"feed_norm.{kind}"] = old[f"norm3.{kind}" if cross else f"norm2.{kind}"]
        if cross:
            new[f"cross_norm.{kind}"] = old[f"norm2.{kind}"]
        new[f"feed.up.{kind}"] = old[f"linear1.{kind}"]
        new[f"feed.down.{kind}"] = old[f"linear2.{kind}"]
    return new


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("mlp", ["relu", "gelu"])
def test_a_block_is_torchs_layer(order, mlp) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(32, 4, 48, 0.0, mlp, batch_first=True, norm_first=order == "pre")
    scramble(theirs)
    ours = Block(32, 4, hidden=48, order=order, mlp=mlp, causal=True)
    put(ours, of_torchs_layer(theirs.state_dict()))
    x = torch.randn(2, 9, 32)
    close(ours(x), theirs(x, torch.ones(9, 9, dtype=torch.bool).triu(1)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("order", ["pre", "post"])
def test_the_encoder_decoder_is_torchs_transformer(order) -> None:
    torch.manual_seed(0)
    options = dict(batch_first=True, norm_first=order == "pre", dropout=0.0, dim_feedforward=48)
    ends = [nn.LayerNorm(32) if order == "pre" else None for _ in range(2)]
    theirs = nn.Transformer(
        32,
        4,
        custom_encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, **options), 2, ends[0]),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, **options), 2, ends[1]),
        batch_first=True,
    )
    scramble(theirs)
    ours = EncoderDecoder(20, 32, layers=2, heads=4, hidden=48, order=order, mlp="relu", positions="none")
    new = {"embedding.weight": torch.randn(20, 32)}
    for side, cross in (("encoder", False), ("decoder", True)):
        for i, layer in enumerate(getattr(theirs, side).layers):
            weights = of_torchs_layer(layer.state_dict(), cross)
            new |= {f"{side}.blocks.{i}.{name}": weight for name, weight in weights.items()}
        if order == "pre":
            new |= {
                f"{side}.last_norm.{kind}": getattr(getattr(theirs, side).norm, kind) for kind in ("weight", "bias")
            }
    put(ours, new)
    source, target = ids(T=9), ids(T=7, seed=1)
    real = torch.arange(9) < torch.tensor([[9], [4]])
    want = theirs(
        ours.embedding(source),
        ours.embedding(target),
        tgt_mask=torch.ones(7, 7, dtype=torch.bool).triu(1),
        src_key_padding_mask=~real,
        memory_key_padding_mask=~real,
    )
    got = ours.decoder(ours.embedding(target), memory_BSD=ours.encode(source, real), memory_real_BS=real)
    close(got, want)
    torch.testing.assert_close(ours(source, target, real), want @ ours.embedding.weight.T, atol=1e-4, rtol=1e-5)


def test_rms_norm_and_swiglu_are_their_formulas() -> None:
    torch.manual_seed(0)
    feed = FeedForward(12, bend="swiglu", bias=False)
    assert feed.up.out_features == 32  # 8/3 of the width
    x = torch.randn(5, 12)
    gate = x @ feed.gate.weight.T
    close(feed(x), (gate / (1 + (-gate).exp()) * (x @ feed.up.weight.T)) @ feed.down.weight.T)
    norm = Block(12, 2, norm="rms").feed_norm
    close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt())


# ---- what must not change anything

VARIANTS = {
    **{name: dict(positions=name) for name in POSITIONS},
    "grouped rope": dict(positions="rope", kv_heads=2, norm="rms", mlp="swiglu", bias=False, tied=False),
    "window": dict(positions="rope", window=3),
    "window alibi": dict(positions="alibi", window=3, order="post"),
}


def decoder(name: str) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(20, 32, layers=2, heads=4, max_length=32, **VARIANTS[name]).eval()
    scramble(model)
    return model


@pytest.mark.parametrize("parts", [[1] * 11, [5, 1, 1, 3, 1]])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_with_a_cache_as_without(name, parts) -> None:
    model, x = decoder(name), ids()
    cache = model.cache()
    got = torch.cat([model(part, cache=cache) for part in x.split(parts, 1)], 1)
    torch.testing.assert_close(got, model(x), atol=1e-5, rtol=1e-5)
    assert cache.length == 11


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_padding_changes_nothing(name, side) -> None:
    model, x = decoder(name), ids()
    T = 6
    real = torch.arange(11) < torch.tensor([[11], [T]])
    padded = x.clone()
    if side == "left":
        real = real.flip(1)
        padded[1, 5:] = x[1, :T]
    got = model(padded, real)
    assert got.isfinite().all()
    torch.testing.assert_close(got[1][real[1]], model(x[1:, :T])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[0], model(x[:1])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_packed_documents_are_as_if_alone(name) -> None:
    model, x = decoder(name), ids(B=1)
    packed = model(x, segments_BT=torch.tensor([[0] * 4 + [1] * 5 + [0] * 2]))
    alone = torch.cat([model(part) for part in x.split([4, 5, 2], 1)], 1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    assert (packed - model(x)).abs().max() > 1e-3  # and it matters


@torch.no_grad()
def test_the_encoder_packs_and_pads_too() -> None:
    torch.manual_seed(0)
    model, x = Encoder(20, 32, layers=2, heads=4, positions="rope", window=3).eval(), ids(B=1)
    scramble(model)
    alone = torch.cat([model(part) for part in x.split([4, 7], 1)], 1)
    close(model(x, segments_BT=torch.tensor([[0] * 4 + [1] * 7])), alone)
    close(model(x, torch.arange(11)[None] < 4)[:, :4], alone[:, :4])
    for head in (Classifier(model, 3), MaskedLanguageModel(model)):
        out, short = head(x, torch.arange(11)[None] < 4), head(x[:, :4])
        torch.testing.assert_close(out[:, :4] if out.ndim == 3 else out, short, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_the_encoder_decoder_with_a_cache_as_without(positions) -> None:
    torch.manual_seed(0)
    model = EncoderDecoder(20, 32, layers=2, heads=4, kv_heads=2, positions=positions).eval()
    scramble(model)
    source, target = ids(T=9), ids(T=7, seed=1)
    real = torch.arange(9) < torch.tensor([[9], [4]])
    memory, cache = model.encode(source, real), model.cache()
    got = torch.cat([model.decode(part, memory, real, cache=cache) for part in target.split([3, 1, 2, 1], 1)], 1)
    torch.testing.assert_close(got, model(source, target, real), atol=1e-5, rtol=1e-5)
    alone = model(source[1:, :4], target[1:])
    torch.testing.assert_close(got[1:], alone, atol=1e-5, rtol=1e-5)


def test_documents_number_runs_and_restart_positions() -> None:
    number, position = documents(torch.tensor([[7, 7, 3, 7, 7, 7]]))
    assert number.tolist() == [[0, 0, 1, 2, 2, 2]]
    assert position.tolist() == [[0, 1, 0, 0, 1, 2]]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_future_is_hidden(name) -> None:
    model, x = decoder(name), ids()
    changed = x.clone()
    changed[:, 6:] = ids(seed=5)[:, 6:]
    close(model(x)[:, :6], model(changed)[:, :6])


def test_maps_of_a_padded_decoder() -> None:
    model = decoder("grouped rope")
    real = torch.arange(11) >= torch.tensor([[0], [4]])
    maps = attention_maps(model, ids(), real)
    assert list(maps) == ["stack.blocks.0.attention", "stack.blocks.1.attention"]
    for weights in maps.values():
        assert weights.shape == (2, 4, 11, 11)
        assert (weights[1, :, :, :4] == 0).all()
        close(weights[1, :, 4:].sum(-1), torch.ones(4, 7))


# ---- the start


def test_the_first_loss_is_that_of_guessing_and_depth_does_not_change_the_stream() -> None:
    torch.manual_seed(0)
    x = ids(B=8, T=64, V=100)
    sizes, small = [], math.sqrt(2 / (5 * 64))
    for layers in (2, 16):
        model = Decoder(100, 64, layers=layers, heads=4)
        loss = nn.functional.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        assert loss.item() == pytest.approx(math.log(100) + 0.2, abs=0.05), "logits of variance 2 / 5 cost half of it"
        model.stack.last_norm = nn.Identity()
        grown = model.stack(model.embedding(x)) - model.embedding(x) - model.stack.learned.table.weight[:64]
        sizes.append(grown.std().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    assert model.stack.blocks[0].feed.down.weight.std().item() == pytest.approx(small / math.sqrt(32), rel=0.05)
    assert model.stack.blocks[0].feed.up.weight.std().item() == pytest.approx(small, rel=0.05)


def test_tied_weights_are_one_tensor() -> None:
    tied, loose = Decoder(20, 32), Decoder(20, 32, tied=False)
    assert set(loose.state_dict()) - set(tied.state_dict()) == {"head.weight"}
    pointers = [tensor.data_ptr() for tensor in tied.state_dict().values()]
    assert len(set(pointers)) == len(pointers)  # so safetensors writes it
    tied(ids()).sum().backward()
    assert all(parameter.grad is not None for parameter in tied.stack.blocks.parameters())


def test_it_learns_to_copy() -> None:
    """Whatever came 5 tokens ago comes again: needs positions, attention and the mask to work together."""
    torch.manual_seed(0)
    model = Decoder(8, 32, layers=2, heads=4, positions="rope")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        x = torch.randint(8, (16, 5)).repeat(1, 3)
        loss = nn.functional.cross_entropy(model(x[:, :-1])[:, 5:].flatten(0, 1), x[:, 6:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 < math.log(8)


def test_dropout_is_for_training_and_copies_are_whole() -> None:
    torch.manual_seed(0)
    model = Decoder(20, 32, dropout=0.3)
    assert not torch.equal(model(ids()), model(ids()))
    model.eval()
    close(model(ids()), copy.deepcopy(model)(ids()))


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(heads=5), "choose a divisor"),
        (dict(kv_heads=3), "kv_heads=3"),
        (dict(positions="rotary"), "learned, sinusoidal, rope, alibi, none"),
        (dict(positions="rope", heads=32), "even dim / heads"),
        (dict(norm="batch"), "layer, rms"),
        (dict(order="sandwich"), "pre, post"),
        (dict(mlp="tanh"), "relu, gelu, gelu_tanh, swiglu"),
        (dict(layers=0), "at least 1 layer"),
        (dict(dropout=1.0), "below 1"),
        (dict(window=0), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        Decoder(20, **{"dim": 32, **settings})


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ModelError, match="max_length=8"):
        Decoder(20, 32, max_length=8)(ids())
    Decoder(20, 32, max_length=8, positions="alibi")(ids())


def test_segments_beside_a_cache_are_refused() -> None:
    model = Decoder(20, 32)
    with pytest.raises(ModelError, match="segments_BT"):
        model(ids(), segments_BT=torch.zeros(2, 11), cache=model.cache())
    assert isinstance(model.stack, Stack)
