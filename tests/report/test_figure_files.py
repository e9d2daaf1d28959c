"""Whether a picture can be written is known before an hour of training, and it appears whole or not at all."""

import importlib.util
from pathlib import Path

import pytest

from wellfit.errors import MissingExtra, RecipeError, RunError
from wellfit.report import files
from wellfit.report.files import check_picture, has_matplotlib, write_figure


def test_what_can_be_written_is_checked_before(tmp_path, monkeypatch) -> None:
    check_picture(None, "Drawing")
    with pytest.raises(RecipeError, match=r"a picture is written as \.png, \.svg, \.pdf"):
        check_picture(tmp_path / "a.txt", "Drawing")
    with pytest.raises(RunError, match="there is no folder"):
        check_picture(tmp_path / "nowhere" / "a.png", "Drawing")
    assert has_matplotlib() == (importlib.util.find_spec("matplotlib") is not None)
    monkeypatch.setattr(files, "has_matplotlib", lambda: False)
    check_picture(None, "Drawing")
    with pytest.raises(MissingExtra, match="Drawing the curve needs the package `matplotlib`"):
        check_picture(tmp_path / "a.png", "Drawing the curve")


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_written_as_its_ending_says(tmp_path, ending, begins) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    from wellfit.report.pictures import figure

    out = tmp_path / f"a{ending}"
    assert write_figure(figure(1, 1), out) == out
    assert out.read_bytes().startswith(begins)
    assert [*tmp_path.iterdir()] == [out]


class Torn:
    """Stops in the middle, as on a full disk."""

    def savefig(self, path, format) -> None:
        Path(path).write_text(f"half a {format}")
        raise OSError(28, "No space left on device")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"before")
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        write_figure(Torn(), out)
    assert out.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [out]
    (tmp_path / "b.png").mkdir()
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    from wellfit.report.pictures import figure

    with pytest.raises(RunError, match="cannot be written"):
        write_figure(figure(1, 1), tmp_path / "b.png")
    with pytest.raises(RecipeError, match="a picture is written as"):
        write_figure(figure(1, 1), tmp_path / "a")
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]
