"""Texts are classified and written, killed and resumed to the same bits, and their scores are what they are called."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from wellfit import api
from wellfit.events import Stepped
from wellfit.recipe import Recipe
from wellfit.tasks import KINDS
from wellfit.tasks.text_generation import Surprise

SMALL = {"width": 32, "layers": 1, "heads": 2}
QUIET = {"training.doctor": False}
GOOD, BAD = ("fine", "great", "lovely", "superb"), ("awful", "dull", "poor", "bad")


def reviews(path: Path, count: int = 400) -> Path:
    draw = torch.Generator().manual_seed(0)
    rows = ["text,label"]
    for i in range(count):
        words = [("the", "a", "film", "plot", "cast")[int(torch.randint(0, 5, (1,), generator=draw))] for _ in range(6)]
        words[int(torch.randint(0, 6, (1,), generator=draw))] = (GOOD if i % 2 else BAD)[i // 2 % 4]
        rows.append(f"{' '.join(words)},{'good' if i % 2 else 'bad'}")
    path.write_text("\n".join(rows) + "\n")
    return path


def resumed(settings: dict[str, Any], tmp_path: Path, at: int) -> bool:
    """Whether a run that was asked to stop at a step and went on ends with the bits of one that was not."""
    whole = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "whole", quiet=True)

    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    observers = [stop]
    part = api.fit_recipe(
        Recipe(), set={**settings, "training.log_every": 1}, folder=tmp_path / "part", observers=observers, quiet=True
    )
    assert part.ended().reason == "interrupted"
    again = api.resume(tmp_path / "part", quiet=True)
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_texts_are_told_apart(tmp_path) -> None:
    settings = {"data.source": str(reviews(tmp_path / "reviews.csv")), "data.text": "text", "data.test_share": 0.2,
                "model": {"kind": "encoder", **SMALL}, **QUIET,
                "training.epochs": 6, "training.batch_size": 16, "optimizer.learning_rate": 3e-3}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path / "runs", quiet=True)
    assert run.recipe.data.tokens == "word", "what reading decided is in the recipe"
    assert run.scores("test")["accuracy"] > 0.95
    kind = KINDS["text-classification"]
    model = kind.network(run.recipe, run.task)
    model.load_state_dict(run.best_weights())
    told = kind.predict(model, run.task, ["a superb film", "the plot is dull", ""])
    assert [one["class"] for one in told[:2]] == ["good", "bad"]
    assert all(0.5 <= one["confidence"] <= 1 for one in told)


def test_a_padded_text_is_told_as_if_it_were_alone(tmp_path) -> None:
    settings = {
        "data.source": str(reviews(tmp_path / "reviews.csv")),
        "data.text": "text",
        "model": {"kind": "encoder", **SMALL},
        **QUIET,
        "training.steps": 5,
    }
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path / "runs", quiet=True)
    kind = KINDS["text-classification"]
    model = kind.network(run.recipe, run.task)
    model.load_state_dict(run.best_weights())
    alone = kind.predict(model, run.task, ["a superb film"])
    beside = kind.predict(
        model, run.task, ["a superb film", "the plot of the film is a dull and poor plot of the film"]
    )
    assert alone[0] == beside[0]


def test_both_kinds_go_on_to_the_same_bits(tmp_path) -> None:
    texts = {
        "data.source": str(reviews(tmp_path / "reviews.csv")),
        "data.text": "text",
        "model": {"kind": "encoder", **SMALL},
        **QUIET,
        "training.steps": 30,
    }
    assert resumed(texts, tmp_path / "texts", at=17)
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 80)
    writing = {
        "data.source": str(tmp_path / "a.txt"),
        "data.context": 16,
        "model": {"kind": "decoder", **SMALL},
        **QUIET,
        "training.steps": 30,
        "training.batch_size": 16,
    }
    assert resumed(writing, tmp_path / "writing", at=23)


def test_text_is_learnt_and_goes_on(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("abcdefgh" * 400)
    settings = {"data.source": str(tmp_path / "a.txt"), "data.context": 16, "model": {"kind": "decoder", **SMALL}, **QUIET,
                "training.steps": 120, "training.batch_size": 16,
                "optimizer.learning_rate": 5e-3}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path / "runs", quiet=True)
    scores = run.scores()
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]), rel=1e-4)
    assert scores["perplexity"] < 1.1
    kind = KINDS["text-generation"]
    model = kind.network(run.recipe, run.task)
    model.load_state_dict(run.best_weights())
    first = kind.predict(model, run.task, ["cde", "ab"], length=6, temperature=0.1)
    assert [one["text"] for one in first] == ["fghabc", "cdefgh"]
    assert first == kind.predict(model, run.task, ["cde", "ab"], length=6, temperature=0.1), (
        "the same seed, the same text"
    )


def test_bits_per_byte_do_not_depend_on_the_cut() -> None:
    """Four bytes in two tokens, each of probability 1/4: four bits over four bytes."""
    metric = Surprise(torch.tensor([1.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    sums = metric.sums(torch.zeros(1, 2, 4), torch.tensor([[0, 1]]))
    assert metric.scores(sums)["bits_per_byte"] == pytest.approx(1.0)
    assert metric.scores(sums)["perplexity"] == pytest.approx(4.0)


def test_snippets_of_the_standard_library_are_told_apart(tmp_path) -> None:
    settings = {"training.steps": 60, "training.doctor": False, "optimizer.learning_rate": 1e-3}
    run = api.fit_recipe("stdlib-kinds", set=settings, root=tmp_path, quiet=True)
    assert run.scores()["accuracy"] > 0.6
