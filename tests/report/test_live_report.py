"""The report in a real browser: it can be hovered, zoomed, read by keys; findings and curves lead to each other; nothing leaves it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Watched, browser
from told_runs import Told, treated

from wellfit.events import Ended, Evaluated, Event, Paced, Started, Stepped, Vitals
from wellfit.recipe import Recipe
from wellfit.report import charts
from wellfit.report.page import page

EVIL = "<script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"
RECIPE = Recipe(name="digits-convnet", task="image-classification")
FINDINGS = [
    {
        "id": "overfitting", "severity": "warning", "onset_step": 300, "confidence": 0.8, "says": f"The loss parts. {EVIL}",
        "evidence": {"gap": 1.5, EVIL: EVIL}, "remedies": [{"words": "more data", "snippet": "x = 1"}],
        "symptoms": [{"id": "loss-increasing", "says": EVIL}],
    }
]  # fmt: skip
REVIEW = {
    "kind": "classes", "classes": ["a", EVIL], "confusion": [[9, 1], [2, 8]], "mistaken": [["a", EVIL, 1]], "samples": 20, "split": "test",
    "calibration": [[0.6, 0.5, 8], [0.95, 0.9, 12]], "calibration_error": 0.07,
    "worst": [{"target": EVIL, "output": "a", "sure": 0.9, "text": EVIL}, {"target": "a", "output": "b", "picture": "javascript:alert(1)"}],
}  # fmt: skip


def events(steps: int = 400) -> list[Event]:
    told: list[Event] = [Started(0, steps, 20, 1000, 1000, 1280, 100, 64, 64, 1, 1, "cpu", "fp32", 1.8e9)]
    for step in range(1, steps + 1):
        loss = math.nan if step == 200 else 2.3 * math.exp(-6 * step / steps) + 0.01
        told.append(Stepped(step, loss, 3.0, 1e-3))
        if step % 20 == 0:
            told.append(Paced(step, 0.5, 128.0, 0.1, 400_000_000))
            told.append(Evaluated(step, "valid", {"loss": 2 * loss, "accuracy": 1 - math.exp(-step / 100), EVIL: 0.5}))
            told += [Vitals(step, "layer", name, {"order": i, "grad_norm": 0.1 / step, "ratio": 1e-3, "weight_norm": 1.0}, {"kind": "weight"})
                     for i, name in enumerate(["first.weight", EVIL])]  # fmt: skip
    return [*told, Ended(steps, "finished", 10.0, 280, 0.1)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not charts.is_here():
        pytest.skip("vl-convert-python is not installed (extra charts)")
    folder = tmp_path_factory.mktemp("report")
    treated(folder)
    html = page(Told(folder, RECIPE, events(), {"code": EVIL}, {"classes": [EVIL]}, FINDINGS, REVIEW), live=True)
    assert len(html.encode()) < 2_000_000
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def opened(chromium: Any, report: Path, **context: Any) -> Watched:
    watched = Watched(chromium, report.as_uri(), **context)
    watched.page.goto(report.as_uri())
    watched.page.wait_for_selector("#chart-loss svg.marks path")
    watched.page.wait_for_selector("#heat svg.marks path")
    return watched


def test_curves_are_hovered_walked_and_zoomed(chromium: Any, report: Path) -> None:
    watched = opened(chromium, report)
    page, loss = watched.page, watched.page.locator("#chart-loss")
    assert page.evaluate("window.taken") is None
    loss.locator(".chart").scroll_into_view_if_needed()
    box = loss.locator(".chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
    hovered = loss.locator(".readout").inner_text()
    assert hovered.startswith("step ")
    middle = int(hovered.split(":")[0].removeprefix("step ").replace(",", ""))
    assert 180 < middle < 220
    assert "training" in hovered
    assert "validation" in hovered
    loss.locator(".chart").focus()
    for key, step in (("Home", 1), ("ArrowRight", 2), ("Shift+ArrowRight", 12), ("End", 400), ("ArrowLeft", 399)):
        page.keyboard.press(key)
        assert loss.locator(".readout").inner_text().startswith(f"step {step}:"), key
    assert "not finite" in _read(page, loss, 200)
    ends = "Array.from(document.querySelectorAll('#chart-learning-rate .role-axis-label text'), one => one.textContent).sort().join(' ')"
    before = page.evaluate(ends)
    page.keyboard.press("+")
    page.wait_for_function(f"{ends} !== {before!r}")
    page.keyboard.press("Escape")
    page.wait_for_function(f"{ends} === {before!r}")
    assert loss.locator(".readout").inner_text() == ""
    watched.harmless()
    watched.context.close()


def _read(page: Any, chart: Any, step: int) -> str:
    page.keyboard.press("Home")
    for _ in range((step - 1) // 10):
        page.keyboard.press("Shift+ArrowRight")
    for _ in range((step - 1) % 10):
        page.keyboard.press("ArrowRight")
    text: str = chart.locator(".readout").inner_text()
    assert text.startswith(f"step {step}:")
    return text


def test_before_and_after_are_hovered_beside_each_other(chromium: Any, report: Path) -> None:
    watched = opened(chromium, report)
    page, loss = watched.page, watched.page.locator("#chart-together-training-loss")
    page.wait_for_selector("#chart-together-training-loss svg.marks path")
    assert loss.locator("svg .mark-area path").count() == 2  # the band of each
    loss.locator(".chart").focus()
    page.keyboard.press("End")
    assert loss.locator(".readout").inner_text().startswith("step 6: before ")
    assert page.locator("#axis").count() == page.locator("#raw").count() == 1  # of the run's own curves
    watched.harmless()
    watched.context.close()


def test_scales_and_axes(chromium: Any, report: Path) -> None:
    watched = opened(chromium, report)
    page, loss = watched.page, watched.page.locator("#chart-loss")
    scale = loss.get_by_role("button", name="Logarithmic scale of Loss")
    assert scale.get_attribute("aria-pressed") == "true"  # it spans more than two decades
    scale.click()
    assert scale.get_attribute("aria-pressed") == "false"
    title = "#chart-loss .role-axis-title text"
    for axis, name in (("samples", "samples"), ("time", "seconds"), ("step", "step")):
        page.select_option("#axis", axis)
        page.wait_for_function(
            f"Array.from(document.querySelectorAll({title!r})).some(one => one.textContent === {name!r})"
        )
    for axis, end in (("samples", 400 * 64), ("step", 400)):  # every chart over the range of this axis, not of the last
        page.select_option("#axis", axis)
        page.wait_for_function(
            "end => Array.from(document.querySelectorAll('#charts .chart')).every(chart => Math.max(...Array.from("
            "chart.querySelectorAll('.role-axis-label text'), one => Number(one.textContent.replaceAll(',', ''))).filter(isFinite)) <= end) "
            "&& document.querySelectorAll('#charts .chart svg').length > 5",
            arg=end,
        )
    lines = "document.querySelectorAll('#chart-loss .mark-line path').length"
    raw = page.evaluate(lines)
    page.uncheck("#raw")
    page.wait_for_function(f"{lines} === {raw} - 1")
    page.select_option("#heat-of", "1")
    watched.harmless()
    watched.context.close()


def test_a_finding_leads_to_its_onset_and_back(chromium: Any, report: Path) -> None:
    watched = opened(chromium, report)
    page = watched.page
    page.get_by_role("button", name="show it on the curves").click()
    page.wait_for_function("document.querySelector('#chart-loss .readout').textContent.startsWith('step 300:')")
    assert page.evaluate("document.activeElement.closest('#chart-loss') !== null")
    page.locator("#chart-loss [aria-label='overfitting']").click()
    assert "chosen" in (page.locator("#finding-0").get_attribute("class") or "")
    assert page.evaluate("document.activeElement.id") == "finding-0"
    watched.harmless()
    watched.context.close()


@pytest.mark.parametrize("context", [
    {}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
], ids=["light", "dark", "phone"])  # fmt: skip
def test_it_reads_well(chromium: Any, report: Path, context: dict[str, Any]) -> None:
    watched = opened(chromium, report, **context)
    watched.accessible()
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert EVIL in page.locator("main").inner_text()
    assert page.locator("img[src^='javascript']").count() == 0
    watched.context.close()


def test_paper_has_the_drawn_figures(chromium: Any, report: Path) -> None:
    watched = opened(chromium, report)
    page = watched.page
    assert not page.locator(".drawn").last.is_visible()
    page.emulate_media(media="print")
    assert page.locator(".drawn").last.is_visible()
    assert not page.locator("#charts").is_visible()
    watched.context.close()


def test_without_scripts_the_drawn_figures_are_there(chromium: Any, report: Path) -> None:
    watched = Watched(chromium, report.as_uri(), java_script_enabled=False)
    watched.page.goto(report.as_uri())
    assert watched.page.locator(".drawn").last.is_visible()
    assert not watched.page.locator("#charts").is_visible()
    assert not watched.page.get_by_role("button", name="show it on the curves").is_visible()
    watched.context.close()
