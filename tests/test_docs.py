"""The pages of docs/: their code is executed, what is generated is up to date, and the site is built with warnings as errors.

Of a page, the commands (```console) and the programs (```python) are executed in one folder, in their order, each program page by
page in one process. What takes longer than a test may (```sh) is read: the command, the preset and the settings must exist.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

import commands
from wellfit.cli import app
from wellfit.recipe import Recipe, paths, presets
from wellfit.tasks import KINDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*(DOCS / "tasks").glob("*.md"), *(DOCS / "extending").glob("*.md")]
    + [
        DOCS / name
        for name in ("index.md", "start.md", "loop.md", "defaults.md", "doctor.md", "pages.md", "delivery.md")
    ]
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def said(text: str) -> list[str]:
    """The commands of a block, with no remarks."""
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in text.splitlines() if line.strip()]


def code(language: str) -> list[Path]:
    return [page for page in PAGES if any(kind == language for kind, _ in blocks(page))]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the data that the pages name."""
    draw = np.random.default_rng(0)
    rows = {"rooms": draw.integers(1, 6, 120), "city": draw.choice(["Rom", "Ulm"], 120)}
    pd.DataFrame(rows | {"price": draw.normal(100, 20, 120)}).to_csv(tmp_path / "prices.csv", index=False)
    days = pd.date_range("2025-01-01", periods=200).strftime("%Y-%m-%d")
    pd.DataFrame({"day": days, "visitors": draw.poisson(50, 200)}).to_csv(tmp_path / "visitors.csv", index=False)
    return tmp_path


def test_every_task_has_its_page_and_something_is_executed() -> None:
    assert {page.stem for page in (DOCS / "tasks").glob("*.md")} == set(KINDS)
    assert len(code("console")) >= 12
    assert len(code("python")) >= 5
    languages = {kind for page in PAGES for kind, _ in blocks(page)}
    assert languages <= {"console", "python", "sh", "yaml", "text"}  # nothing that looks like code and is not looked at


@pytest.mark.parametrize("page", code("console"), ids=lambda page: page.stem)
def test_the_commands_of_a_page(page: Path, place: Path) -> None:
    for kind, text in blocks(page):
        for command in said(text) if kind == "console" else []:
            words = shlex.split(command)
            assert words[0] == "wellfit", command
            done = commands.wellfit(*words[1:], folder=place)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", code("python"), ids=lambda page: page.stem)
def test_the_programs_of_a_page(page: Path, place: Path) -> None:
    programs = [text for kind, text in blocks(page) if kind == "python"]
    process = commands.forks.Process(target=executed, args=(programs, str(place)))
    process.start()
    process.join(200)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    told = place / "told.txt"
    assert process.exitcode == 0, (
        f"{page.name}: {'too slow' if late else told.read_text() if told.exists() else 'died'}"
    )


def executed(programs: list[str], folder: str) -> None:
    """In a process of its own: one after another, with names of their own, warnings being errors."""
    import warnings

    import torch

    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for number, program in enumerate(programs, start=1):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(program, f"program {number}", "exec"), {"__name__": f"program_{number}"})
        except BaseException:
            Path("told.txt").write_text(f"program {number}\n{traceback.format_exc()}")
            sys.exit(1)


def test_what_takes_long_can_be_given() -> None:
    """Commands, options' settings and presets of the lines that are not executed."""
    known = get_command(app).commands
    looked_at = 0
    for page in PAGES:
        for kind, text in blocks(page):
            for line in said(text) if kind == "sh" else []:
                words = shlex.split(line)
                if words[0] != "wellfit":
                    continue
                looked_at += 1
                assert words[1] in known, line
                options = {name for parameter in known[words[1]].params for name in parameter.opts}
                assert {word for word in words[2:] if word.startswith("--")} <= options, line
                settings = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--set"]
                if words[1] == "train":
                    recipe = Recipe.load(words[2]) if words[2] in presets() else Recipe()
                    recipe.override(settings)
    assert looked_at >= 8


def test_names_of_settings_exist() -> None:
    """Whatever stands in backticks and looks like the path of a setting is one."""
    groups = {path.split(".")[0] for path in paths() if "." in path}
    looks_like_one = re.compile(rf"`((?:{'|'.join(groups)})\.[a-z0-9_.]*[a-z0-9])")
    for page in PAGES:
        for name in looks_like_one.findall(page.read_text(encoding="utf-8")):
            assert name in paths() or re.fullmatch(r"[a-z]+\.(yaml|jsonl?|csv|npz|txt)", name), f"{page.name}: {name}"


def test_tests_that_are_named_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", page.read_text("utf-8"))}
    assert len(named) >= 20
    for name in named:
        file, _, function = name.partition("::")
        assert not function or f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), name
        assert (ROOT / file).is_file(), name


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_of_defaults_is_up_to_date() -> None:
    made = module(DOCS / "defaults_make.py")
    assert made.PAGE.read_text(encoding="utf-8") == made.page(), "python docs/defaults_make.py"
    told = made.page()
    assert [path for path in Recipe().flat() if path != "model" and f"- `{path}` = " not in told] == []


def test_the_loop_is_shown_whole() -> None:
    """Each line of `fit` is in one piece of the page, in order."""
    source = (ROOT / "src" / "wellfit" / "train" / "fit.py").read_text(encoding="utf-8").splitlines()
    text = (DOCS / "loop.md").read_text(encoding="utf-8")
    shown: list[str] = []
    for block in re.findall(r"^```\{literalinclude\} ../src/wellfit/train/fit.py\n(.*?)^```$", text, re.S | re.M):
        marks = {name: mark.strip('"') for name, mark in re.findall(r"^:([a-z-]+): (.*)$", block, re.M)}
        begin = next(i for i, line in enumerate(source) if marks["start-at"] in line)
        end = next(
            (i for i, line in enumerate(source) if i > begin and marks.get("end-before", "\0") in line), len(source)
        )
        shown += source[begin:end]
    first = next(i for i, line in enumerate(source) if line.startswith("def fit("))
    assert shown == source[first:]


def test_the_site_is_built(tmp_path: Path) -> None:
    for name in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(name, reason="the documentation is built with pip install 'wellfit[docs]'")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "trees"),
        str(DOCS),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        assert (tmp_path / "site" / page.relative_to(DOCS)).with_suffix(".html").exists()
    pages = [path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 80
    fetched = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//")
    assert not [page for page in pages if fetched.search(page)]
