"""Every command and every program in the README is executed, in a folder as its reader would have it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import datasets

import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = [
    line.removeprefix("$ ").split("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("$ ")
]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = [line.split("#")[0].strip() for line in re.findall(r"^    ((?:make|pip) .*)$", README, re.M)]


SCRIPT = """
import torch
torch.manual_seed(0)
x, y = torch.randn(256, 8), torch.arange(256) % 2
x[:, 0] += 3 * y
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(40):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def execute(command: list[str], folder: Path, *, bare: bool = True, **more) -> str:
    """What it says. Not `bare`: forked from a process that has the libraries loaded."""
    if not bare:
        said = commands.wellfit(*command[1:], folder=folder)
        assert said.returncode == 0, f"{command}: {said.stdout}{said.stderr}"
        return said.stdout
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["OMP_NUM_THREADS"] = "1"  # small networks gain nothing from more, and a busy machine loses
    if "pip" not in command:  # whose own warnings are not ours
        environment["PYTHONWARNINGS"] = "error"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False, **more
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_there_is_something_to_execute() -> None:
    assert len(CONSOLE) >= 10
    assert len(PROGRAMS) == 4
    extras = [
        "pip install '.[vision,tabular]'",
        "pip install '.[text,series]'",
        "pip install '.[pictures,hub]'",
        "pip install '.[charts,trackers]'",
        "pip install '.[onnx,serve]'",
        "pip install '.[finetune]'",
    ]
    assert ["make demo", "make test", "pip install .", *extras] == SHELL


@pytest.mark.timeout(1800)
def test_the_console(tmp_path) -> None:
    draw = np.random.default_rng(0)
    for name in ("roses", "tulips"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(
                tmp_path / "flowers" / name / f"{i}.jpg"
            )
    rows = {
        "rooms": draw.integers(1, 6, 200),
        "city": draw.choice(["Rom", "Ulm"], 200),
        "price": draw.normal(100, 20, 200),
    }
    pd.DataFrame(rows).to_csv(tmp_path / "prices.csv", index=False)
    wine = datasets.load_wine(as_frame=True).data
    wine.head(3).to_csv(tmp_path / "new.csv", index=False)
    words = draw.choice(["good", "fine", "film", "plot", "dull"], (200, 8))
    texts = [" ".join(row) for row in words]
    labels = ["well" if "good" in text else "not" for text in texts]
    pd.DataFrame({"review": texts, "verdict": labels}).to_csv(tmp_path / "reviews.csv", index=False)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "mine.yaml").write_text("data: {source: wine}\ntraining: {epochs: 2}\n")
    verbs: set[str] = (
        set()
    )  # each once from a bare interpreter, which imports what it needs itself, warnings being errors
    for command in map(shlex.split, CONSOLE):
        execute(command, tmp_path, bare=command[1] not in verbs)
        verbs.add(command[1])
    assert (tmp_path / "runs" / "first" / "report.html").exists()
    assert len(list((tmp_path / "runs").iterdir())) >= 6


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_the_programs(tmp_path, number: int) -> None:
    execute([sys.executable, "-c", PROGRAMS[number]], tmp_path)


def test_make_demo() -> None:
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("`make` has not set up .venv here, and setting it up is not a test's business")
    assert "test accuracy" in execute(["make", "demo"], ROOT)


def test_what_pip_installs_is_whole(tmp_path) -> None:
    """Without its dependencies and with the build tools that are here, so that nothing is downloaded."""
    execute(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--target",
            str(tmp_path / "site"),
            ".",
        ],
        ROOT,
    )
    package = tmp_path / "site" / "wellfit"
    for file in ("py.typed", "recipes/digits.yaml", "report/page.html", "train/fit.py"):
        assert (package / file).exists(), file
    assert list((tmp_path / "site").glob("wellfit-*/licenses/LICENSE"))
