"""Generation: cached as uncached, a row in a batch as alone, beams against all texts that there are."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from wellfit.errors import ModelError
from wellfit.models.generate import beam, greedy, pick, probabilities, sample
from wellfit.models.transformer import Decoder, EncoderDecoder

PROMPTS = [[3, 1, 4, 1, 5], [2], [7, 1, 8]]


def decoder(positions: str = "rope", V: int = 12, std: float = 0.3, **options) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(V, 32, layers=2, heads=4, positions=positions, max_length=32, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def translator(V: int = 12) -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(V, 32, layers=2, heads=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


SOURCE = dict(
    source_BS=torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 0, 0]]),
    source_real_BS=torch.arange(4) < torch.tensor([[4], [3], [2]]),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_probability(model: Decoder | EncoderDecoder, prompt: list[int], tokens: list[int], **source: Tensor) -> float:
    """Of the tokens after the prompt, in one uncached pass."""
    text = torch.tensor([prompt + tokens])
    inputs = (source["source_BS"], text[:, :-1], source["source_real_BS"]) if source else (text[:, :-1],)
    with torch.no_grad():
        logits = model.eval()(*inputs)
    log_p = logits[0, len(prompt) - 1 :].double().log_softmax(-1)
    return log_p.gather(1, torch.tensor(tokens)[:, None]).sum().item()


# ---- choosing


def test_temperature_top_k_and_top_p_are_their_definitions() -> None:
    p = torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05]], dtype=torch.float64)
    logits = p.log()
    torch.testing.assert_close(probabilities(logits), p)
    torch.testing.assert_close(probabilities(logits, temperature=0.5), p**2 / (p**2).sum())
    torch.testing.assert_close(probabilities(logits, top_k=2), torch.tensor([[0, 4, 3, 0, 0]]).double() / 7)
    torch.testing.assert_close(probabilities(logits, top_p=0.71), torch.tensor([[0, 40, 30, 15, 0]]).double() / 85)
    torch.testing.assert_close(probabilities(logits, top_p=0.69), torch.tensor([[0, 4, 3, 0, 0]]).double() / 7)
    torch.testing.assert_close(probabilities(logits, top_p=1e-9), torch.tensor([[0, 1, 0, 0, 0]]).double())
    # Top-p is of what top-k left: 0.4 is 57 % of it.
    torch.testing.assert_close(probabilities(logits, top_k=2, top_p=0.5), torch.tensor([[0, 1, 0, 0, 0]]).double())


def test_tokens_are_drawn_as_often_as_they_should() -> None:
    p = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    N = 20_000
    shares = pick(p.expand(N, -1), seeded()).bincount(minlength=6) / N
    assert (shares[p == 0] == 0).all()
    assert ((shares - p).abs() < 4 * (p * (1 - p) / N).sqrt() + 1e-12).all()  # four standard errors


def test_the_ends_of_the_draw_are_tokens(monkeypatch) -> None:
    p = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64)
    for drawn, token in ((0.0, 1), (1 - 2**-24, 2)):
        monkeypatch.setattr(torch, "rand", lambda *_, drawn=drawn, **__: torch.tensor([drawn]))
        assert pick(p).tolist() == [token]


# ---- sampling


@pytest.mark.parametrize("options", [dict(), dict(top_k=4, temperature=1.5), dict(top_p=0.8)])
@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "sinusoidal"])
def test_cached_is_uncached_token_for_token(positions, options) -> None:
    model = decoder(positions)
    texts = [sample(model, PROMPTS, 12, generator=seeded(), cached=cached, **options) for cached in (True, False)]
    assert texts[0] == texts[1]
    assert texts[0] != sample(model, PROMPTS, 12, generator=seeded(1), **options)
    assert model.training


def test_an_encoder_decoder_samples_too() -> None:
    options = dict(prompts=[[0], [0, 1], [0]], length=8, temperature=2.0)
    texts = [sample(translator(), generator=seeded(), cached=cached, **options, **SOURCE) for cached in (True, False)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "sinusoidal"])
@pytest.mark.parametrize("window", [None, 3])
def test_a_row_in_a_batch_is_the_row_alone(positions, window) -> None:
    model = decoder(positions, window=window)
    together = sample(model, PROMPTS, 10, generator=[seeded(i) for i in range(3)])
    assert together == [sample(model, [p], 10, generator=seeded(i))[0] for i, p in enumerate(PROMPTS)]
    assert greedy(model, PROMPTS, 10) == [greedy(model, [p], 10)[0] for p in PROMPTS]


def test_a_stop_token_ends_its_row_alone() -> None:
    model = decoder()
    free = sample(model, PROMPTS, 20, generator=seeded())
    stop = free[0][4]
    ended = sample(model, PROMPTS, 20, generator=seeded(), stop=stop)
    for long, short in zip(free, ended, strict=True):
        assert short == (long[: long.index(stop) + 1] if stop in long else long)
    assert len(ended[0]) <= 5


def test_greedy_is_the_likeliest_each_time_and_cold_sampling() -> None:
    model = decoder()
    text = greedy(model, [[1, 2]], 6)[0]
    for i, token in enumerate(text):
        options = [log_probability(model, [1, 2, *text[:i]], [other]) for other in range(12)]
        assert token == max(range(12), key=options.__getitem__)
    assert text == sample(model, [[1, 2]], 6, temperature=1e-4)[0] == sample(model, [[1, 2]], 6, top_k=1)[0]


# ---- beams


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("stop", [None, *range(12)])
def test_a_beam_of_one_is_greedy(stop, penalty) -> None:
    found = beam(decoder(), PROMPTS, 6, beams=1, stop=stop, length_penalty=penalty)
    assert [texts[0].tokens for texts in found] == greedy(decoder(), PROMPTS, 6, stop=stop)
    found = beam(translator(), [[0]] * 3, 6, beams=1, stop=stop, length_penalty=penalty, **SOURCE)
    assert [texts[0].tokens for texts in found] == greedy(translator(), [[0]] * 3, 6, stop=stop, **SOURCE)


def test_a_beam_wide_enough_finds_the_best_of_all_texts() -> None:
    model = decoder(V=4, std=0.25)
    best = max(itertools.product(range(4), repeat=3), key=lambda text: log_probability(model, [1], list(text)))
    # As wide as the vocabulary is all that a first step offers; the third step's best is among its children's 4 best here.
    found = beam(model, [[1]], 3, beams=4)[0]
    assert tuple(found[0].tokens) == best


class Trap(Decoder):
    """First A (0.6) or B (0.4); after A all four tokens are alike, after B one is sure: B's text is the likelier one."""

    def forward(self, ids_BT, real_BT=None, segments_BT=None, cache=None):  # type: ignore[no-untyped-def] # noqa: ARG002
        table = torch.full((4, 4), 0.25)
        table[3] = torch.tensor([0.6, 0.4, 0.0, 0.0])
        table[1] = torch.tensor([0.01, 0.01, 0.97, 0.01])
        return table[ids_BT].log()


def test_a_beam_finds_what_greedy_misses() -> None:
    model = Trap(4, 8, layers=1, heads=1, positions="none")
    assert greedy(model, [[3]], 2)[0][0] == 0  # 0.6 x 0.25
    found = beam(model, [[3]], 2, beams=2)[0]
    assert found[0].tokens == [1, 2]
    assert found[0].log_probability == pytest.approx(math.log(0.4 * 0.97), abs=1e-6)
    assert found[1].log_probability == pytest.approx(math.log(0.6 * 0.25), abs=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.7])
@pytest.mark.parametrize("source", [False, True])
def test_scores_are_those_of_reading_the_text_again(source, penalty) -> None:
    model = translator() if source else decoder()
    prompts = [[0, 1], [0], [0, 2, 3]] if source else PROMPTS
    options = SOURCE if source else {}
    found = beam(model, prompts, 7, beams=4, stop=5, length_penalty=penalty, **options)
    for b, (prompt, texts) in enumerate(zip(prompts, found, strict=True)):
        assert len(texts) == 4
        assert len({tuple(text.tokens) for text in texts}) == 4
        assert [text.score for text in texts] == sorted((text.score for text in texts), reverse=True)
        alone = beam(
            model,
            [prompt],
            7,
            beams=4,
            stop=5,
            length_penalty=penalty,
            **{name: rows[b : b + 1] for name, rows in options.items()},
        )[0]
        assert [text.tokens for text in alone] == [text.tokens for text in texts]
        for text in texts:
            assert 5 not in text.tokens[:-1]
            assert len(text.tokens) == 7 or text.tokens[-1] == 5
            again = log_probability(
                model, prompt, text.tokens, **{name: rows[b : b + 1] for name, rows in options.items()}
            )
            assert text.log_probability == pytest.approx(again, abs=1e-4)
            assert text.score == pytest.approx(again / ((5 + len(text.tokens)) / 6) ** penalty, abs=1e-4)


# ---- refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(temperature=0.0), "use `greedy`"),
        (dict(top_k=0), "top_k at least 1"),
        (dict(top_p=1.5), "at most 1"),
        (dict(length=0), "at least 1 token"),
        (dict(prompts=[[1], []]), "start token"),
        (dict(length=33), "ask for at most 28"),
        (dict(generator=[seeded()]), "1 generators for 3 rows"),
        (dict(source_BS=torch.zeros(3, 4, dtype=torch.long)), "a Decoder takes none"),
    ],
)
def test_what_cannot_be_is_refused(options, says) -> None:
    with pytest.raises(ModelError, match=says):
        sample(decoder("learned"), **{"prompts": PROMPTS, "length": 4, **options})


def test_a_translator_needs_its_source_and_beams_have_bounds() -> None:
    with pytest.raises(ModelError, match="no `source_BS`"):
        greedy(translator(), [[0]], 4)
    with pytest.raises(ModelError, match="the 12 tokens"):
        beam(decoder(), PROMPTS, 4, beams=13)
