"""The live page in a real browser: runs appear, grow and go while one looks; whatever a folder holds, it is only shown."""

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed (extra serve)")
pytest.importorskip("vl_convert", reason="vl-convert-python is not installed (extra charts)")

from browser import Watched, browser
from fastapi.testclient import TestClient

from wellfit.errors import RecipeError, RunError
from wellfit.events import Ended, Evaluated, Event, Paced, Started, Stepped, encode
from wellfit.listening import bound
from wellfit.recipe import Recipe
from wellfit.report import live

EVIL = "<img src=x onerror=taken=1>"
FINDING = {
    "id": "overfitting", "severity": "warning", "onset_step": 30, "confidence": 0.8, "says": f"It parts. {EVIL}", "evidence": {},
    "remedies": [{"words": "more data"}],
}  # fmt: skip


def made(
    root: Path, name: str, steps: int = 60, *, over: bool = True, began: float = 1.79e9, findings: tuple[dict, ...] = ()
) -> Path:
    folder = root / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "environment.json").write_text("{}")
    (folder / "task.json").write_text("{}")
    told: list[Event] = [Started(0, steps, 20, 1000, 1000, 1280, 100, 64, 64, 1, 1, "cpu", "fp32", began)]
    told += grown(0, steps)
    told += [Ended(steps, "finished", 10.0, steps, 0.1)] if over else []
    (folder / "events.jsonl").write_text("".join(encode(event) + "\n" for event in told))
    (folder / "findings.jsonl").write_text("".join(json.dumps(finding) + "\n" for finding in findings))
    (folder / "recipe.yaml").write_text(Recipe(name="digits", task="image-classification").dump())
    return folder


def grown(first: int, last: int) -> list[Event]:
    told: list[Event] = []
    for step in range(first + 1, last + 1):
        told.append(Stepped(step, 2.3 * math.exp(-step / 40), 3.0, 1e-3))
        if step % 20 == 0:
            told += [
                Paced(step, 0.01, 6400.0, 0.1, 10**8),
                Evaluated(step, "valid", {"loss": 1.0, "accuracy": step / 100}),
            ]
    return told


def client(root: Path, **how: Any) -> TestClient:
    return TestClient(live.application(root, **how), base_url="http://127.0.0.1")


# ---- what it answers


def test_how_runs_stand_and_what_one_holds(tmp_path: Path) -> None:
    made(tmp_path, "a", findings=(FINDING,))
    made(tmp_path, "b", 20, over=False)
    web = client(tmp_path)
    told = {run["name"]: run for run in web.get("/api/runs").json()["runs"]}
    assert told["a"] | {"began": 0} == {
        "name": "a", "state": "finished", "step": 60, "steps": 60, "began": 0, "metric": "accuracy", "score": "60.0 % validation accuracy",
        "value": 0.6, "findings": {"error": 0, "warning": 1, "advice": 0},
    }  # fmt: skip
    assert told["b"]["state"] == "killed"
    answer = web.get("/api/runs/a")
    body = answer.json()
    assert [chart["title"] for chart in body["charts"]][:2] == ["Loss", "Validation accuracy"]
    assert body["findings"][0] == {
        "id": "overfitting", "severity": "warning", "step": 30, "says": FINDING["says"], "remedy": "more data",
    }  # fmt: skip
    assert web.get("/api/runs/a", headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    with (tmp_path / "b" / "events.jsonl").open("a") as journal:
        journal.write(encode(Stepped(21, 0.5, 1.0, 1e-3)) + "\n" + encode(Stepped(22, 0.25, 1.0, 1e-3))[:20])
    assert web.get("/api/runs/b").json()["charts"][0]["series"][0]["points"][-1] == [21, 0.5]
    with (tmp_path / "b" / "events.jsonl").open("a") as journal:
        journal.write(encode(Stepped(22, 0.25, 1.0, 1e-3))[20:] + "\n")
    assert web.get("/api/runs/b").json()["charts"][0]["series"][0]["points"][-1] == [22, 0.25]
    assert "Not ended" in web.get("/api/runs/b").json()["headline"]
    report = web.get("/report/a")
    assert "What the doctor found" in report.text
    assert "<img src=x" not in report.text
    shutil.rmtree(tmp_path / "a")
    assert web.get("/api/runs/a").status_code == 404
    assert [run["name"] for run in web.get("/api/runs").json()["runs"]] == ["b"]


def test_hostile_folders_are_only_shown(tmp_path: Path) -> None:
    root, secret = tmp_path / "runs", tmp_path / "secret"
    made(tmp_path, "secret", 20)
    made(root, EVIL.replace("/", ""), 20)
    torn = made(root, "torn", 20)
    (torn / "events.jsonl").write_bytes(
        b"\xff\xfe{[" + b"x" * 50_000_000 + b"\n" + encode(Stepped(1, math.nan, math.inf, 1e-3)).encode() + b"\n"
    )
    (torn / "findings.jsonl").write_text('{"id": 1}\n[]\n{"id": "x", "severity": "fatal", "says": "y"}\n')
    broken = made(root, "broken", 20)
    (broken / "recipe.yaml").write_text("- not\n- a recipe\n")
    (root / "out").symlink_to(secret)
    leads = made(root, "leads", 20)
    (leads / "events.jsonl").unlink()
    (leads / "events.jsonl").symlink_to(secret / "events.jsonl")
    web = client(root)
    told = {run["name"]: run["state"] for run in web.get("/api/runs").json()["runs"]}
    assert told["out"] == told["leads"] == "leads out"
    for name in ("out", "leads"):
        assert "not followed" in web.get(f"/api/runs/{name}").json()["detail"]
        assert web.get(f"/report/{name}").status_code == 404
    assert web.get("/api/runs/broken").status_code == 404
    assert len(web.get("/api/runs/torn").content) < 20_000
    assert web.get("/report/torn").status_code == 200
    for path in (
        "../secret",
        "..%2Fsecret",
        "%2e%2e%2fsecret",
        ".hidden",
        "a/../../secret",
        "torn/recipe.yaml",
        "torn%2Frecipe.yaml",
    ):
        assert web.get(f"/api/runs/{path}").status_code == 404, path
        assert web.get(f"/report/{path}").status_code == 404, path


def test_who_may_ask(tmp_path: Path) -> None:
    made(tmp_path, "a", 20)
    web = client(tmp_path)
    assert web.get("/api/runs", headers={"Host": "evil.example"}).status_code == 421
    for kind in ("post", "put", "delete"):
        assert getattr(web, kind)("/api/runs").status_code == 405
    closed = client(tmp_path, token="long enough")
    assert closed.get("/").status_code == closed.get("/api/runs").status_code == 401
    assert closed.get("/api/runs", headers={"Authorization": "Bearer long enough"}).status_code == 200
    assert closed.get("/?token=long enough").status_code == 200
    assert closed.get("/api/runs").status_code == 200  # by the cookie that came with the page
    with pytest.raises(RecipeError, match="--token"):
        live.look(tmp_path, host="0.0.0.0")


def test_many_runs_are_told_at_once(tmp_path: Path) -> None:
    whole = made(tmp_path, "run-000", 400)
    for number in range(1, 300):
        shutil.copytree(whole, tmp_path / f"run-{number:03}", copy_function=os.link)
    web = client(tmp_path)
    began = time.process_time()
    first = web.get("/api/runs").json()
    assert len(first["runs"]) == 300
    assert time.process_time() - began < 1.5
    while not first["whole"]:
        first = web.get("/api/runs").json()
    assert {run["state"] for run in first["runs"]} == {"finished"}


# ---- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    import uvicorn

    listens = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(live.application(tmp_path), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listens]})
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{listens.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    listens.close()


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#runs tbody tr label").all_inner_texts()
    return found


def test_runs_come_grow_and_go(chromium: Any, served: tuple[Path, str]) -> None:
    root, home = served
    watched = Watched(chromium, home)
    page = watched.page
    page.goto(home)
    page.locator("#empty").wait_for()
    watched.accessible()
    made(root, "first", 20, over=False, findings=(FINDING,))
    page.wait_for_selector("#chart-loss svg.marks path")  # the first that comes is shown
    assert names(page) == ["first"]
    with (root / "first" / "events.jsonl").open("a") as journal:
        journal.write("".join(encode(event) + "\n" for event in grown(20, 40)))
    page.wait_for_function("document.querySelector('#runs .step').textContent.startsWith('40')")
    page.locator("#chart-loss .chart").focus()
    page.wait_for_function(
        "() => { const page = window.live.state.page; page.charts.get('loss').walk(Infinity); "
        "return document.querySelector('#chart-loss .readout').textContent.startsWith('step 40:'); }"
    )
    assert page.locator("#findings .finding").count() == 1
    page.locator("#findings").get_by_role("button").click()
    page.wait_for_function("document.querySelector('#chart-loss .readout').textContent.startsWith('step 30:')")
    assert page.evaluate("window.taken") is None
    watched.accessible()
    shutil.rmtree(root / "first")
    page.wait_for_function("document.querySelectorAll('#runs tbody tr').length === 0")
    assert not page.locator("#charts").is_visible()
    watched.harmless()
    watched.context.close()


def test_by_keys_alone_filtered_sorted_and_laid_over_each_other(chromium: Any, served: tuple[Path, str]) -> None:
    root, home = served
    for number, name in enumerate(("apple", "banana", EVIL)):
        made(root, name, 20 + 20 * number, began=1.79e9 + number)
    watched = Watched(chromium, home, color_scheme="dark")
    page = watched.page
    page.goto(home)
    page.wait_for_selector("#chart-loss svg.marks path")
    assert names(page) == [EVIL, "banana", "apple"]
    assert page.evaluate("window.taken") is None
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("an")
    page.wait_for_function("document.querySelectorAll('#runs tbody tr').length === 1")
    assert page.locator("#count").inner_text() == "1 of 3 runs"
    while page.evaluate("document.activeElement.type") != "checkbox":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('#chart-loss .mark-line path').length === 4")  # two of each
    assert page.locator("#chart-loss .legend span").all_inner_texts() == ["training", "validation"]
    watched.accessible()
    page.fill("#filter", "")
    page.locator("#runs thead button[data-by=name]").click()
    assert names(page) == sorted(names(page))
    page.locator("#none").click()
    assert not page.locator("#charts").is_visible()
    watched.harmless()
    watched.context.close()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no folder"):
        live.look(tmp_path / "none", port=0)
