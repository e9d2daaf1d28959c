"""Pictures show what was computed, and what cannot be drawn is said."""

import pytest
import torch

from wellfit import api
from wellfit.cli import drawing
from wellfit.errors import DataError, ModelError, RecipeError, RunError
from wellfit.models.attention import attention_maps
from wellfit.models.transformer import Decoder
from wellfit.recipe import Recipe

matplotlib = pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
from wellfit.report import pictures  # noqa: E402
from wellfit.report.attention import looked  # noqa: E402


def test_vanishing_shows_what_was_measured() -> None:
    """A plain recurrent net forgets by many orders of magnitude what gates still know."""
    axes = pictures.vanishing(T=20, units=8).axes[0]
    kept = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert kept["RNN"][0] < 1e-2 * kept["LSTM, forget bias 1"][0]
    assert axes.lines[0].get_xdata()[0] == 19


def test_depth_shows_the_gradient_that_does_not_arrive() -> None:
    curves, slopes = pictures.depth(layers=20, steps=12).axes
    first = {line.get_label(): line.get_ydata()[0] for line in slopes.lines}
    assert first["plain"] < 1e-3 * first["with both"]
    assert len(curves.lines) == 4


def test_approximation_falls_with_width_where_it_bends() -> None:
    axes = pictures.approximation().axes[0]
    errors = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4", "8", "16", "32", "64"]
    assert errors["tanh"][-1] < 1e-3 * errors["tanh"][0]
    assert errors["identity"][-1] > 0.5 * errors["identity"][0]


def test_attention_is_drawn_as_it_is() -> None:
    torch.manual_seed(0)
    maps = attention_maps(Decoder(20, 16, layers=2, heads=2), torch.tensor([[4, 5, 6]]))
    figure = pictures.attention(maps, ["a", "b", "c"])
    assert len(figure.axes) == 4
    drawn = torch.tensor(figure.axes[3].images[0].get_array().data)
    assert torch.equal(drawn, next(iter(reversed(maps.values())))[0, 1].detach())
    assert drawn[0, 1] == 0, "no token looks ahead"
    assert len([text for axes in figure.axes for text in axes.texts]) == 4 * 9, "few shares are written out"
    assert figure.axes[0].get_title().startswith("layer 1, head 1: at ")
    many = pictures.attention({"a": torch.full((1, 1, 12, 12), 1 / 12)}, [" "] * 12)
    assert len(many.axes) == 2, "many have a bar of colours"
    assert "at 12.0 tokens" in many.axes[0].get_title()
    assert many.axes[0].get_xticklabels()[0].get_text() == "␣"
    with pytest.raises(ModelError, match="no attention"):
        pictures.attention({}, [])


def test_a_picture_is_written_where_it_is_asked_for(tmp_path, capsys) -> None:
    drawing.drawn("approximation", [], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.svg")
    with pytest.raises(RecipeError, match="no picture called 'vanish'"):
        drawing.drawn("vanish", [], None)
    with pytest.raises(RecipeError, match="a picture is written as"):
        drawing.drawn("vanishing", [], tmp_path / "a.txt")
    with pytest.raises(RecipeError, match="of a run and a text"):
        drawing.drawn("attention", ["runs/a"], None)
    with pytest.raises(RunError, match="cannot be written"):
        drawing.drawn("approximation", [], tmp_path / "nowhere" / "a.png")


def small(tmp_path, name: str, **settings):
    """A run of two steps on forty pairs of words."""
    rows = [f'{{"a": "{x} {y}", "b": "{y} {x}", "c": "{x}"}}' for x in ("one", "two") for y in ("red", "blue")] * 10
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    common = {"data.source": str(tmp_path / "t.jsonl"), "data.text": "a", "data.tokens": "word", "data.valid_share": 0.2,
              "training.steps": 2, "training.batch_size": 8, "training.doctor": False}  # fmt: skip
    return api.fit_recipe(
        Recipe(), set={**common, **settings}, folder=tmp_path / name, quiet=True, yardsticks=False
    ).folder


NETWORK = {"model.width": 16, "model.layers": 2, "model.heads": 2}
CLASSES = {"task": "text-classification", "data.target": "c", "data.ignore": ["b"]}


def test_attention_of_a_translator_is_the_decoders_on_the_source(tmp_path, capsys) -> None:
    pytest.importorskip("sacrebleu")
    pairs = {"task": "seq-to-seq", "data.target": "b", "data.ignore": ["c"], "model.kind": "encoder-decoder"}
    run = small(tmp_path, "pairs", **pairs, **NETWORK)
    seen = looked(run, "one red")
    assert all(weights.shape == (1, 2, len(seen.rows), 2) for weights in seen.maps.values())
    assert all(torch.allclose(weights.sum(-1), torch.ones(())) for weights in seen.maps.values())
    assert len(seen.maps) == 2
    assert seen.columns == ("one", "red")
    assert (seen.tokens, seen.seen) == (2, 2)
    assert "Cross-attention" in seen.title
    with pytest.raises(DataError, match="knows no word"):
        looked(run, "qqq")
    with pytest.raises(RecipeError, match="The text is empty"):
        looked(run, " ")
    drawing.drawn("attention", [str(run), "one", "red"], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert not capsys.readouterr().err


def test_attention_of_a_text_is_on_itself_and_says_what_is_not_seen(tmp_path, capsys) -> None:
    run = small(tmp_path, "classes", **CLASSES, **{"model.kind": "encoder", "data.context": 4}, **NETWORK)
    seen = looked(run, "one red two blue one red")
    assert seen.rows == seen.columns
    assert seen.columns == ("one", "red", "two", "blue")
    assert (seen.tokens, seen.seen) == (6, 4)
    assert all(weights.shape == (1, 2, 4, 4) for weights in seen.maps.values())
    drawing.drawn("attention", [str(run), "one red two blue one red"], tmp_path / "a.png")
    assert "The text has 6 tokens and the model sees 4; the others are not drawn." in capsys.readouterr().err


def test_a_bag_of_words_and_a_model_of_numbers_have_no_attention(tmp_path) -> None:
    bag = small(tmp_path, "bag", **CLASSES, **{"model.kind": "bag"})
    with pytest.raises(RunError, match="bag of words, which has no attention"):
        looked(bag, "one")
    steps = {"training.steps": 2, "training.epochs": None, "training.doctor": False}
    wine = api.fit_recipe("wine", set=steps, folder=tmp_path / "w", quiet=True, yardsticks=False)
    with pytest.raises(RunError, match="whose model reads no text"):
        drawing.drawn("attention", [str(wine.folder), "one"], tmp_path / "a.png")
