"""The command line: what it prints, piped, and one paragraph with exit status 2 for what a user can mend."""

import subprocess
import sys

import numpy as np
import pytest

from commands import wellfit
from wellfit.cli import main

QUICK = ["--set", "training.epochs=2"]


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same in this process, for speed: (exit status, stdout, stderr)."""

    def call(*arguments: str, folder):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["wellfit", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = wellfit("train", "wine", *QUICK, "--folder", "runs/a", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_ends_in_words_and_says_where_it_is(trained) -> None:
    _, done = trained
    assert "Run:    runs/a" in done.stdout
    assert "Report: runs/a/report.html" in done.stdout
    assert "test accuracy" in done.stdout
    assert "logistic regression" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr, "piped output is plain"
    assert "\r" not in done.stderr


def test_runs_and_report(trained, inside) -> None:
    folder, _ = trained
    listed = inside("runs", folder=folder)[1]
    assert "finished" in listed
    assert "accuracy" in listed
    (folder / "runs" / "a" / "report.html").unlink()
    assert inside("report", "runs/a", folder=folder)[1].strip() == "runs/a/report.html"
    assert (folder / "runs" / "a" / "report.html").stat().st_size > 5_000
    assert "There is no folder elsewhere" in inside("runs", "elsewhere", folder=folder)[2]


def test_a_runs_recipe_trains_again(trained, inside) -> None:
    folder, _ = trained
    changes = ["--set", "training.epochs=1", "--set", "data.test_share=0"]
    assert inside("train", "runs/a", *changes, "--folder", "runs/b", folder=folder)[0] == 0


def test_explain(trained, inside) -> None:
    folder, _ = trained

    def told(*arguments: str) -> str:
        return inside("explain", *arguments, folder=folder)[1]

    whole = told("digits")
    assert "max_grad_norm = 1  (default)  Tames rare large steps" in whole
    assert "(the preset)" in whole
    one = told("optimizer.learning_rate")
    assert "Why:" in one
    assert "--set optimizer.learning_rate=VALUE" in one
    assert "Choices" not in one
    assert "constant, linear, cosine" in told("schedule.kind")
    assert "Which network." in told("model.kind")
    of_run = told("runs/a")
    assert "(derived)" in of_run
    assert "(you)" in of_run
    assert "kind = lion  (you)" in told("digits", "--set", "optimizer.kind=lion")


def test_version_and_module_agree() -> None:
    import wellfit as package

    assert wellfit("--version").stdout.strip() == package.__version__


def write(folder, name, content) -> None:
    (folder / name).write_text(content)


BAD = {
    "unknown preset": (["train", "digit"], "`digits`"),
    "unknown key": (["train", "digits", "--set", "training.epoch=3"], "`training.epochs`"),
    "unknown value": (["train", "digits", "--set", "optimizer.kind=adma"], "`adam`"),
    "zero epochs": (["train", "digits", "--set", "training.epochs=0"], "greater than 0"),
    "batch larger than data": (["train", "wine", "--set", "training.batch_size=5000"], "only 128 training samples"),
    "missing file": (["train", "digits", "--set", "data.source=nothing.csv"], "nothing is there"),
    "missing table": (["train", "nothing.csv"], "nothing is there"),
    "no target": (["train", "t.csv"], "data.target"),
    "nearest target": (["train", "t.csv", "--set", "data.target=yy"], "`y`"),
    "text among numbers": (["train", "text.csv", "--set", "data.target=y"], "text where a number belongs"),
    "gaps": (["train", "gaps.csv", "--set", "data.target=y"], "row 3"),
    "empty": (["train", "empty.csv", "--set", "data.target=y"], "is empty"),
    "no GPU": (["train", "digits", "--set", "hardware.device=cuda:9"], "this machine offers"),
    "not a run": (["resume", "t.csv"], "not a run folder"),
    "no run": (["resume", "runs/nothing"], "no run at"),
    "report of nothing": (["report", "nowhere"], "no run at"),
    "explain nothing": (["explain", "optimizer.learning_rat"], "`optimizer.learning_rate`"),
    "not YAML": (["train", "bad.yaml"], "not valid YAML"),
    "not writable": (["train", "wine", "--runs", "t.csv/runs"], "cannot be written"),
    "patience without validation": (["train", "wine", "--set", "data.valid_share=0", "--set", "evaluation.patience=3"], "validation"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_paragraph(tmp_path, inside, case: str) -> None:
    rows = "".join(f"{i},{i % 2}\n" for i in range(40))
    write(tmp_path, "t.csv", "a,y\n" + rows)
    write(tmp_path, "text.csv", "a,y\n" + rows + "many,1\n")
    write(tmp_path, "gaps.csv", "a,b,y\n1,2,0\n,3,1\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(40)))
    write(tmp_path, "empty.csv", "")
    write(tmp_path, "bad.yaml", "training: [")
    arguments, says = BAD[case]
    status, _, told = inside(*arguments, folder=tmp_path)
    assert status == 2
    assert says in told
    assert "Traceback" not in told
    assert told.strip().count("\n") == 0, told
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_no_validation_is_said_loudly(tmp_path, inside) -> None:
    status, _, told = inside(
        "train", "wine", *QUICK, "--set", "data.valid_share=0", "--set", "data.test_share=0", folder=tmp_path
    )
    assert status == 0
    assert "no validation set" in told
    assert "data.valid_share" in told


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, inside, monkeypatch) -> None:
    from wellfit.cli import show

    def denied(*_):
        raise PermissionError(13, "Permission denied", "/data/closed")

    monkeypatch.setattr(show, "chosen", denied)
    assert inside("train", "digits", folder=tmp_path) == (
        2,
        "",
        "wellfit: /data/closed cannot be read: Permission denied.\n",
    )


def test_one_side_of_pairs_is_told_from_a_preset(tmp_path, inside) -> None:
    (tmp_path / "train.en").write_text("a\nb\n")
    status, _, told = inside("train", "train", "--set", "data.text=en", "--set", "data.target=de", folder=tmp_path)
    assert status == 2
    assert "train.en is one side of pairs, but the other, train.de" in told


def test_ctrl_c_outside_the_loop_says_so(tmp_path, inside, monkeypatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wellfit.api.fit_recipe", stopped)
    status, _, told = inside("train", "wine", folder=tmp_path)
    assert status == 130
    assert "wellfit: stopped." in told


def test_an_error_leaves_with_its_status_and_no_traceback() -> None:
    done = wellfit("train", "digits", "--set", "training.epochs=0")
    assert done.returncode == 2
    assert done.stderr.startswith("wellfit: `training.epochs` is 0")
    assert "Traceback" not in done.stderr


def test_a_full_disk_keeps_what_was_saved(tmp_path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        model = [
            "--set",
            "model={kind: mlp, widths: [256, 128]}",
            "--set",
            "training.epochs=9",
            "--set",
            "checkpoints.keep=5",
        ]
        done = wellfit("train", "digits", *model, "--folder", str(small / "run"))
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr
        assert "wellfit resume" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
        resumed = wellfit("resume", str(small / "run"))
        assert resumed.returncode == 0, resumed.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_npz_from_the_command_line(tmp_path, inside) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=draw.integers(0, 255, (80, 8, 8)), labels=draw.integers(0, 2, 80))
    assert inside("train", "a.npz", *QUICK, folder=tmp_path)[0] == 0
