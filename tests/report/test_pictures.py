"""Pictures show what was computed, and what cannot be drawn is said."""

import pytest
import torch

from wellfit.cli import drawing
from wellfit.errors import ModelError, RecipeError, RunError
from wellfit.models.attention import attention_maps
from wellfit.models.transformer import Decoder

matplotlib = pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
from wellfit.report import pictures  # noqa: E402


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
    errors = {line.get_label(): line.get_ydata() for line in pictures.approximation().axes[0].lines}
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
