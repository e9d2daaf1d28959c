"""A file is there whole or not at all."""

import pytest

from wellfit.errors import RunError
from wellfit.whole import whole, write


def test_what_is_written_takes_the_place_of_what_was(tmp_path):
    file = tmp_path / "told.json"
    write(file, "{}", "")
    write(file, "[\ud800]", "")
    assert file.read_text() == "[?]"
    assert list(tmp_path.iterdir()) == [file]


def test_what_was_stays_where_the_writing_fails(tmp_path):
    file = tmp_path / "told.json"
    write(file, "{}", "")

    def half() -> None:
        with whole(file, "") as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert file.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [file]


def test_what_the_system_refuses_is_told_with_the_remedy(tmp_path):
    folder = tmp_path / "not there"
    with pytest.raises(RunError, match=r"told.json cannot be written: No such file or directory. Name another file.$"):
        write(folder / "told.json", "{}", "Name another file.")
    write(folder / "told.json", "{}", "Name another file.", folder_too=True)
    with pytest.raises(RunError, match=r"cannot be written: Is a directory"):
        write(folder, "{}", "Name another file.")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_long_name_is_no_hindrance(tmp_path):
    file = tmp_path / ("n" * 250 + ".txt")
    write(file, "x", "")
    assert file.read_text() == "x"
