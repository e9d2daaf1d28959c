"""A notebook shows what wellfit made: executed for real, and every kind of thing, with names that mean mischief."""

import math
import re
from html.parser import HTMLParser

import pytest

import wellfit
from journals import BEGAN, FINDING, KILLED, WHOLE, made, started, stepped, valid
from wellfit.doctor.finding import Finding, Remedy, find
from wellfit.events import Ended, Evaluated, Noted, Paced, Stepped
from wellfit.plan.hardware import GPUS
from wellfit.recipe import Change, Recipe
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.memory import MemoryPlan, Way
from wellfit.report.micro_batches import BatchSearch
from wellfit.report.micro_batches import Tried as Size
from wellfit.report.notebook import Live, html, live
from wellfit.report.progress import Progress
from wellfit.report.rates import Rate, RateSearch
from wellfit.report.treatment import Cure, Tried
from wellfit.run import Run

EVIL = '<script>alert("x")</script>&`<b>`'
VOID = {"meta", "br", "circle", "path"}


class Balanced(HTMLParser):
    """Tags that are open, scripts and handlers that should not be there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")], attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def sound(text: str) -> str:
    """HTML that is whole, has no script and fetches nothing."""
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "iframe", "img", "link", "b"}
    assert "://" not in re.sub(r"<code>.*?</code>", "", text)
    assert text.startswith("<style>")
    return text


COMPARISON = Comparison(
    EVIL, "accuracy", "max", "test", 100, (0, 1, 2),
    (Arm(EVIL, EVIL, {0: 0.5, 1: 0.6, 2: 0.55}), Arm("b", f"x={EVIL}", {0: 0.9, 1: 0.91, 2: 0.92})),
)  # fmt: skip


def cure(run: Run, recipe: Recipe | None) -> Cure:
    tried = (Tried("smaller-rate", EVIL, (Change("optimizer.learning_rate", 1, EVIL),), 0.1, None, EVIL),)
    left = {"id": EVIL, "says": EVIL}
    return Cure(run, (left,), tried, EVIL, "loss", "test", 10, 5, recipe, COMPARISON if recipe else None, left=(left,))


def things(tmp_path) -> dict[str, object]:
    events = [
        started(), *stepped(1, 2), Noted(1, EVIL), Evaluated(2, "valid", {EVIL: 0.5, "accuracy": 0.4}),
        Evaluated(2, "test", {"accuracy": 0.5}, of=EVIL), Evaluated(2, "test", {"accuracy": 0.4}), Ended(2, EVIL, 1.0),
    ]  # fmt: skip
    bad = {
        **FINDING,
        "id": EVIL,
        "says": EVIL,
        "evidence": {EVIL: EVIL, "n": 1e9},
        "remedies": [{"words": EVIL, "snippet": EVIL}],
    }
    evil = made(tmp_path, events, name="evil", findings=(bad,))
    recipe = Recipe(name=EVIL).override({"data.source": EVIL})
    ways = (Way(EVIL, 10**9, EVIL, True),)
    return {
        "run": made(tmp_path, WHOLE, findings=(FINDING,)), "evil run": evil, "killed": made(tmp_path, KILLED, name="killed"),
        "empty": made(tmp_path, [], name="empty"), "recipe": recipe, "preset": Recipe.load("digits"),
        "finding": Finding(EVIL, "error", 3, 0.5, EVIL, {EVIL: 1.0}, (Remedy(EVIL, EVIL),), place=EVIL),
        "known finding": find("overfitting", 2, "The gap grows.", {"gap": math.nan}),
        "plan": MemoryPlan(EVIL, False, {}, 10, 10, {"weights": 10**11}, EVIL, gpu=GPUS[0], ways=ways, notes=(EVIL,)),
        "comparison": COMPARISON, "cure": cure(evil, recipe), "no cure": cure(evil, None),
        "rates": RateSearch(EVIL, "adamw", 100, 10, "validation", (0, 1), 1e-3, (Rate(1e-3, {0: 1.0, 1: math.inf}),), (), 1e-3, EVIL, None, 2.0, 50),
        "batches": BatchSearch(EVIL, 64, 1, 64, EVIL, 10**9, (Size(1, 64, None, False),), (), None, False, {}, notes=(EVIL,)),
    }  # fmt: skip


def test_everything_shows_itself_and_names_are_only_names(tmp_path) -> None:
    for name, thing in things(tmp_path).items():
        text = sound(thing._repr_html_())  # type: ignore[attr-defined]
        assert text == text.replace("<script", ""), name
        if name not in ("run", "killed", "empty", "preset", "known finding"):
            assert "&lt;script&gt;" in text, name
    with pytest.raises(TypeError, match="does not show a int"):
        html(3)


def test_a_run_shows_its_result_curves_findings_and_how_to_go_on(tmp_path) -> None:
    run = made(tmp_path, WHOLE, findings=(FINDING,))
    text = wellfit.html(run)
    for part in (
        "70.0 % test accuracy after 2 epochs; best at step 3", "<svg", "logistic regression, test", "75.0 %",
        "warning: overfitting", "from step 3, 80 % sure", "→ Stop earlier.", "<code>valid</code>", "wellfit train",
    ):  # fmt: skip
        assert part in text, part
    ids = re.findall(r'id="([^"]+)"', text + wellfit.html(run))
    assert len(ids) == len(set(ids)), "two outputs of one notebook share no id"
    assert "It was killed, or its machine stopped." in wellfit.html(made(tmp_path, KILLED, name="killed"))
    (run.folder / "recipe.yaml").write_text("")
    assert "is empty" in run._repr_html_()


def test_a_recipe_begins_with_what_is_not_a_default() -> None:
    text = Recipe.load("digits").override(["optimizer.kind=lion"])._repr_html_()
    assert text.index("optimizer.kind") < text.index("model.channels") < text.index("<details>")
    assert text.index("<details>") < text.index("max_grad_norm") < text.index("Tames rare large steps")


# ---- the curve that grows


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(events: list, seconds: float) -> list[str]:
    """What was drawn, the clock moving on by so much before each flush."""
    drawn: list[str] = []
    clock = Clock()

    def display(text: str):
        drawn.append(text)
        return drawn.append

    one = Live(display, clock=clock)
    for event in events:
        clock.now += seconds if isinstance(event, Paced) else 0
        one(event)
    return [sound(text) for text in drawn]


def test_it_is_drawn_at_most_once_a_second_and_at_the_end() -> None:
    events = [
        started(steps=100),
        *(event for i in range(1, 101) for event in stepped(i)),
        Ended(100, "finished", 5.0, 90, 0.1),
    ]
    assert len(watched(events, 0.001)) == 2
    assert len(watched(events, 0.5)) == pytest.approx(51, abs=2)
    last = watched(events, 2.0)[-1]
    assert "Finished at step 100 after 5.0 seconds. The best step was 90." in last
    assert "step 50 of 100, 8 samples/s" in watched(events, 2.0)[50]


def test_it_shows_both_losses_the_main_score_and_notes() -> None:
    events = [
        started(steps=20),
        Noted(0, EVIL),
        *stepped(1, 2),
        valid(2, 0.7, 0.5),
        *stepped(3, 4),
        valid(4, 0.6, 0.75),
    ]
    last = watched([*events, Ended(4, "interrupted", 1.0)], 2.0)[-1]
    assert "validation loss 0.6, validation accuracy 75.0 %" in last
    assert last.count("<svg") == 2
    assert "Interrupted at step 4" in last
    assert "&lt;script&gt;" in last


def test_long_odd_and_redone_courses_stay_small() -> None:
    long = [started(steps=50_000), *(Stepped(i, 1 / i, 1.0, 0.1) for i in range(1, 50_001)), Paced(50_000, 1, 1, 0, 0)]
    assert len(watched([*long, Ended(50_000, "finished", 1.0)], 2.0)[-1]) < 40_000
    odd = [
        started(),
        *(Stepped(i, value, value, value) for i, value in enumerate((math.nan, math.inf, -1e308, 0.0), 1)),
    ]
    assert "Failed" in watched([*odd, valid(4, math.nan, math.inf), Ended(4, "loss-not-finite", 1.0)], 2.0)[-1]
    again = Live(lambda _: lambda _: None)
    for event in [started(), *stepped(1, 2, 3), valid(3, 1.0, 0.1), started(1, went_back=True)]:
        again(event)
    assert [step for step, _ in again._losses] == [1]
    assert again._scores["loss"] == []
    assert BEGAN


def test_outside_of_a_notebook_it_is_a_line() -> None:
    assert isinstance(live(), Progress)


# ---- a notebook, for real

CELLS = (
    "import torch, wellfit\ntorch.set_num_threads(1)",
    "run = wellfit.fit_recipe('wine', set={'training.epochs': 3, 'training.log_every': 2}, folder='runs/a', yardsticks=False)",
    "quiet = wellfit.fit_recipe('wine', set={'training.epochs': 1}, folder='runs/b', quiet=True, yardsticks=False)",
    "run",
    "run.recipe",
    "wellfit.memory_plan(torch.nn.Linear(4, 2), (torch.randn(8, 4), torch.zeros(8).long()), 'cross-entropy')",
    "wellfit.watch.__name__ and __import__('wellfit.doctor.finding', fromlist=['find']).find('overfitting', 2, 'It grows.', {})",
    "again = wellfit.fit_recipe('wine', set={'training.epochs': 3, 'training.log_every': 2}, folder='runs/c', quiet=True, yardsticks=False)",
    "a, b = run.best_weights(), again.best_weights()\nprint(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a))",
)  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return book.cells


def shown(cell) -> list[str]:
    return [sound(output["data"]["text/html"]) for output in cell.outputs if "text/html" in output.get("data", {})]


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_draws_a_training_in_place(cells) -> None:
    outputs = cells[1].outputs
    assert [output.output_type for output in outputs] == ["display_data"], "one output, replaced as it grows; no lines"
    (last,) = shown(cells[1])
    assert "Finished at step" in last
    assert last.count("<svg") == 2
    assert cells[2].outputs == []


@pytest.mark.filterwarnings("ignore")
def test_a_notebook_shows_runs_recipes_plans_and_findings(cells) -> None:
    for cell, part in zip(
        cells[3:7], ("test accuracy after 3 epochs", "Recipe wine", "It fits on", "overfitting"), strict=True
    ):
        (text,) = shown(cell)
        assert part in text
    assert cells[8].outputs[0]["text"] == "True\n", "the same weights as without the curve"
