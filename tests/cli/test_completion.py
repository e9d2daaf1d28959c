"""Tab completion, through the mechanism that the shell uses, without torch."""

import json
import subprocess
import sys

import pytest

from journals import made
from wellfit.cli.completion import FORMATS, LIVES, SORTED
from wellfit.cli.screens import SORTS
from wellfit.integrations.trackers import KINDS
from wellfit.recipe import presets

ASKED = {
    "preset": "train di", "every preset": "train ", "run": "resume ", "run below": "show other/", "field": "train digits --set training.ep",
    "group": "train --set optim", "values": "train --set optimizer.kind=ad", "kinds": "check wine --set model.kind=",
    "one field": "train --set training.epochs", "nothing": "train --set nonsense", "format": "export runs/a out --format ",
    "tracker": "train --track ", "tracked": "track runs/a ml", "sort": "runs --sort s", "topic": "explain evaluation.pat",
    "file": "train m", "picture": "draw de", "command": "tr",
}  # fmt: skip
ASK = """
import contextlib, io, json, os, sys
from wellfit.cli import main
answers = {}
for name, line in json.loads(sys.argv.pop()).items():
    os.environ.update(_WELLFIT_COMPLETE="complete_bash", COMP_WORDS="wellfit " + line, COMP_CWORD=str(line.count(" ") + 1))
    sys.argv = ["wellfit"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    answers[name] = out.getvalue().split("\\n") if out.getvalue() else []
answers["torch"] = "torch" in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def offered(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("completion")
    made(folder / "runs", name="a")
    made(folder / "runs", name="b\x1b[31m")
    made(folder / "other", name="c")
    (folder / "mine.yaml").write_text("data: {source: wine}\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK, json.dumps(ASKED)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        name: [one.strip() for one in answer if one.strip()] if isinstance(answer, list) else answer
        for name, answer in json.loads(done.stdout).items()
    }


def test_presets_runs_and_files(offered) -> None:
    assert offered["preset"] == ["diabetes", "digits", "digits-on-canvas"]
    assert set(offered["every preset"]) == {*presets(), "mine.yaml", "runs/a"}
    assert offered["run"] == ["runs/a"]
    assert offered["run below"] == ["other/c"]
    assert offered["file"] == ["mnist", "mine.yaml"]


def test_fields_and_their_values(offered) -> None:
    assert "optimizer.learning_rate=" in offered["group"]
    assert all(one.startswith("optimizer.") for one in offered["group"])
    assert offered["field"] == ["training.epochs=null", "training.epochs="]
    assert offered["one field"] == offered["field"]
    assert set(offered["values"]) >= {"optimizer.kind=adam", "optimizer.kind=adamw", "optimizer.kind=adafactor"}
    assert {"model.kind=convnet", "model.kind=vit"} <= set(offered["kinds"])
    assert offered["nothing"] == []
    assert offered["topic"] == ["evaluation.patience"]


def test_words_that_an_option_takes(offered) -> None:
    assert offered["format"] == list(FORMATS)
    assert offered["tracker"] == list(LIVES) == list(KINDS)
    assert offered["tracked"] == ["mlflow"]
    assert offered["sort"] == ["state", "steps", "score"]
    assert set(SORTED) == set(SORTS)
    assert offered["picture"] == ["depth"]
    assert {"train", "trace", "track"} <= set(offered["command"])


def test_nothing_heavy_is_loaded_for_it(offered) -> None:
    assert offered["torch"] is False
