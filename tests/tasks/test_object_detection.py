"""Object detection: scores that do not depend on the batches, training that repeats itself, and what predict tells."""

import numpy as np
import pytest
import torch

from wellfit import api, tasks
from wellfit.errors import DataError, RecipeError
from wellfit.events import Evaluated, Stepped
from wellfit.tasks.object_detection import Detection, average_precision
from wellfit.train.evaluate import evaluate

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("torchvision")
pytest.importorskip("torchmetrics")
pytest.importorskip("pycocotools")

QUICK = {
    "training.steps": 8,
    "training.log_every": 4,
    "evaluation.every": 4,
    "data.valid_share": 0.02,
    "data.test_share": 0.02,
}


def plain(boxes, labels, scores=None):
    return {"boxes": boxes, "labels": labels} | ({} if scores is None else {"scores": scores})


def test_average_precision() -> None:
    true = plain([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1])
    assert average_precision([(plain(true["boxes"], [0, 1], [0.9, 0.8]), true)]) == pytest.approx(
        {"map50": 1, "map": 1}
    )
    one = average_precision([(plain([[0, 0, 10, 7]], [0], [0.9]), true)])
    assert one["map50"] == pytest.approx(0.5)  # IoU 0.7 for one class, nothing for the other
    assert one["map"] == pytest.approx(0.5 * 5 / 10, abs=0.01)
    assert np.isnan(average_precision([(plain([], [], []), plain([], []))])["map50"])
    assert (
        average_precision([(plain([[1, 1, 5, 5]], [0], [0.9]), plain([], [])), (plain([], [], []), true)])["map"] == 0
    )


class Fixed(torch.nn.Module):
    """Finds what it is told, a little beside it."""

    def judge(self, images, targets):
        found = [
            {"boxes": t["boxes"] + 1, "labels": t["labels"], "scores": torch.full((len(t["labels"]),), 0.5)}
            for t in targets
        ]
        return torch.tensor([float(image.sum()) for image in images]), found


def test_scores_do_not_depend_on_the_batches() -> None:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 9, (1, 8, 8), generator=draw) for _ in range(7)]
    targets = [
        {"boxes": torch.rand(n, 4, generator=draw) + torch.tensor([0, 0, 9, 9]), "labels": torch.arange(n)}
        for n in range(7)
    ]
    scores = [
        evaluate(Fixed(), Detection(), [(images[i : i + size], targets[i : i + size]) for i in range(0, 7, size)])
        for size in (1, 3, 7)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["loss"] == pytest.approx(sum(float(image.sum()) for image in images) / 7)


@pytest.mark.parametrize("kind", ["faster-rcnn", "detr"])
def test_a_run_learns_repeats_itself_and_predicts(tmp_path, kind) -> None:
    model = {
        "model": {"kind": kind, "width": 32},
        **({"model.queries": 12, "model.stride": 8} if kind == "detr" else {}),
    }
    runs = [api.fit_recipe("digits-on-canvas", set=QUICK | model, folder=tmp_path / name, quiet=True) for name in "ab"]
    numbers = [[e for e in run.events() if isinstance(e, Stepped | Evaluated)] for run in runs]
    assert numbers[0] == numbers[1]
    steps = [event.loss for event in numbers[0] if isinstance(event, Stepped)]
    assert np.mean(steps[-2:]) < np.mean(steps[:2])
    scores = runs[0].scores("test")
    assert set(scores) >= {"loss", "map50", "map"}
    assert np.isfinite(list(scores.values())).all()
    run = runs[0]
    assert run.recipe.evaluation.metric == "map50"
    assert run.recipe.evaluation.goal == "max"
    again = tasks.KINDS["object-detection"].network(run.recipe, run.task)
    again.load_state_dict(run.model.state_dict())
    pixels = np.zeros((90, 128), np.uint8)
    pixels[20:60, 30:60] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (told,) = tasks.KINDS["object-detection"].predict(again, run.task, [tmp_path / "wide.png"], threshold=0.0)
    assert set(told) == {"input", "boxes", "classes", "scores"}
    assert len(told["boxes"]) == len(told["classes"]) == len(told["scores"]) > 0
    assert told["scores"] == sorted(told["scores"], reverse=True)
    assert all(0 <= x1 <= x2 <= 128 and 0 <= y1 <= y2 <= 90 for x1, y1, x2, y2 in told["boxes"])
    assert set(told["classes"]) <= set("0123456789")
    (tmp_path / "alone").mkdir()
    (tmp_path / "wide.png").rename(tmp_path / "alone" / "wide.png")
    (found,) = tasks.KINDS["object-detection"].predict(again, run.task, [tmp_path / "alone"], threshold=0.0)
    assert found == told | {"input": found["input"]}, "a folder stands for its pictures"
    with pytest.raises(DataError, match="nothing is there"):
        tasks.KINDS["object-detection"].predict(again, run.task, [tmp_path / "no.png"])


def test_accumulation_changes_nothing(tmp_path) -> None:
    losses = []
    for parts in (1, 4):
        changes = QUICK | {"training.steps": 2, "training.gradient_accumulation_steps": parts, "training.doctor": False}
        run = api.fit_recipe("digits-on-canvas", set=changes, folder=tmp_path / str(parts), quiet=True)
        losses.append([event.loss for event in run.events() if isinstance(event, Stepped)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_loss_of_ones_own_is_refused(tmp_path) -> None:
    with pytest.raises(RecipeError, match="brings its own loss"):
        api.fit_recipe("digits-on-canvas", set={"loss.kind": "focal"}, root=tmp_path, quiet=True)
