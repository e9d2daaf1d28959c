"""`wellfit learning-curve`: what it prints and writes, going on when repeated, and one paragraph for what a user can mend."""

import json
import sys

import pytest

from wellfit.cli import main

QUICK = ["wine", "--sizes", "12,all", "--seeds", "2", "--set", "training.epochs=2", "--set", "training.doctor=false"]


@pytest.fixture
def inside(monkeypatch, capsys, tmp_path):
    """(exit status, stdout, stderr) of the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["wellfit", "learning-curve", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return call


def test_it_prints_a_table_and_words_and_goes_on(inside, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    status, out, err = inside(*QUICK, "--out", "labels.svg", "--json", "labels.json")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[1][:3] == ["samples", "test", "accuracy"]
    assert [row[0] for row in rows[2:4]] == ["12", "128"]
    assert "labels" in out.split("\n\n")[1]
    assert "[4/4] 128 samples, seed 1: test accuracy" in err
    assert (tmp_path / "labels.svg").read_text().startswith("<?xml")
    told = json.loads((tmp_path / "labels.json").read_text())
    assert [point["samples"] for point in told["lines"][0]["points"]] == [12, 128]
    status, again, err = inside(*QUICK)
    assert status == 0
    assert again.splitlines()[1:4] == out.splitlines()[1:4]
    assert err.count("trained before") == 4
    assert (tmp_path / "runs" / "curve-wine" / "curve.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["wine", "--sizes", "12,many"], "`many` is no number of samples"),
        (["wine", "--sizes", "9999"], "there are 128 training samples"),
        (["wine", "--budget", "hours"], "it can be steps or epochs"),
        (["wine", "--beside", "scratch"], "begins without trained weights"),
        (["wine", "--out", "curve.txt"], "a picture is written as"),
        (["wine", "--json", "nowhere/x.json"], "there is no folder"),
        (["sunspots"], "windows of a series"),
        (["stdlib"], "windows of a running text"),
    ],
)
def test_bad_input_is_one_paragraph(inside, tmp_path, arguments, told) -> None:
    status, out, err = inside(*arguments)
    assert status == 2
    assert told in " ".join(err.split())
    assert "Traceback" not in err + out
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_between_two_runs_is_told(inside, monkeypatch) -> None:
    from wellfit import api

    fit = api.fit_recipe

    def second_time(recipe, **how):
        if how["folder"].name == "recipe-n128-seed0":
            raise KeyboardInterrupt
        return fit(recipe, **how)

    monkeypatch.setattr(api, "fit_recipe", second_time)
    status, _, err = inside(*QUICK)
    assert status == 130
    assert "The same command goes on" in err
    monkeypatch.setattr(api, "fit_recipe", fit)
    status, _, err = inside(*QUICK)
    assert status == 0
    assert err.count("trained before") == 1
