"""One tiny run of each task, a few steps each, on files that are written here: enough to be exported, served and predicted with."""

import functools
import json
import random
import tempfile
from pathlib import Path

from wellfit import api
from wellfit.recipe import Recipe
from wellfit.run import Run

FEW = {"training.steps": 3, "training.doctor": False, "training.batch_size": 8, "data.test_share": 0}
SMALL = {"model.width": 16, "model.layers": 1, "data.context": 16}
WORDS = ["it", "is", "not", "a", "good", "or", "bad", "film", "but", "very", "long", "and", "so", "on"]


@functools.cache
def run(name: str) -> Run:
    """The run of that name, trained when it is first asked for, without yardsticks."""
    place = Path(tempfile.mkdtemp())
    settings = RUNS[name](place)
    return api.fit_recipe(Recipe(), set=FEW | settings, folder=place / name, quiet=True, yardsticks=False)


def _texts(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 9))) for _ in range(count)]


def _digits(_: Path) -> dict:
    return {"data.source": "digits", "model": {"kind": "convnet", "channels": (8,)}, "data.test_share": 0.1}


def _rows(place: Path, target: str, other: str, missing: str) -> dict:
    lines = [f"{i % 7},{'abc'[i % 3]},{i % 7 + 10 * (i % 3)},{'yes' if i % 3 else '<b>|no'}" for i in range(90)]
    (place / "secret").mkdir()
    (place / "secret" / "rows.csv").write_text("n,town,y,answer\n" + "\n".join(lines) + "\n")
    more = {
        "data.target": target,
        "data.ignore": [other],
        "data.missing": missing,
        "model": {"kind": "mlp", "widths": (8,)},
    }
    return {"data.source": str(place / "secret" / "rows.csv"), **more}


def _text(place: Path) -> dict:
    lines = [f"{text},{'yes' if 'good' in text else 'no'}" for text in _texts(60)]
    (place / "films.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return {
        "data.source": str(place / "films.csv"),
        "task": "text-classification",
        "model": {"kind": "encoder"},
        **SMALL,
    }


def _vectors(place: Path) -> dict:
    lines = [f"{a},{b}" for a, b in zip(_texts(40), reversed(_texts(80)), strict=False)]
    (place / "pairs.csv").write_text("first,second\n" + "\n".join(lines) + "\n")
    columns = {"data.text": "first", "data.other": "second"}
    return {
        "data.source": str(place / "pairs.csv"),
        "task": "sentence-embeddings",
        "model": {"kind": "bag", "width": 16},
        **columns,
    }


def _writer(place: Path) -> dict:
    (place / "long.txt").write_text(" ".join(_texts(150)))
    return {
        "data.source": str(place / "long.txt"),
        "task": "text-generation",
        "data.tokens": "char",
        "model": {"kind": "decoder"},
        **SMALL,
    }


def _chat(place: Path) -> dict:
    rows = [{"prompt": text, "completion": " ".join(reversed(text.split()))} for text in _texts(60)]
    (place / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = {"data.tokens": "char", "model": {"kind": "decoder"}, **SMALL, "data.context": 64}
    return {"data.source": str(place / "chat.jsonl"), "task": "text-generation", **more}


def _rewriter(place: Path) -> dict:
    lines = [f"{text},{' '.join(reversed(text.split()))}" for text in _texts(60)]
    (place / "turned.csv").write_text("text,turned\n" + "\n".join(lines) + "\n")
    more = {
        "data.text": "text",
        "data.target": "turned",
        "data.tokens": "word",
        "model": {"kind": "encoder-decoder"},
        **SMALL,
    }
    return {"data.source": str(place / "turned.csv"), "task": "seq-to-seq", **more}


def _tags(place: Path) -> dict:
    sentences = [
        "\n".join(f"{word} {'X' if word in 'good bad' else 'Y'}" for word in text.split()) for text in _texts(60)
    ]
    (place / "tags.conll").write_text("\n\n".join(sentences) + "\n")
    return {"data.source": str(place / "tags.conll"), "model": {"kind": "encoder"}, **SMALL}


def _series(place: Path) -> dict:
    lines = [f"2020-{1 + i // 28:02d}-{1 + i % 28:02d},{i % 7 + 0.1 * i:.2f}" for i in range(28)]
    days = [f"{date},{value.split(',')[1]}" for date, value in zip(_days(200), lines * 8, strict=False)]
    (place / "daily.csv").write_text("day,sold\n" + "\n".join(days) + "\n")
    more = {
        "data.horizon": 3,
        "data.history": 14,
        "data.season": 7,
        "data.time": "day",
        "data.target": "sold",
        "data.transform": "none",
    }
    return {
        "data.source": str(place / "daily.csv"),
        "task": "forecasting",
        "model": {"kind": "recurrent", "units": 8},
        **more,
    }


def _days(count: int) -> list[str]:
    import datetime

    return [str(datetime.date(2020, 1, 1) + datetime.timedelta(i)) for i in range(count)]


RUNS = {
    "digits": _digits,
    "classes": lambda place: _rows(place, "answer", "y", "mean"),
    "numbers": lambda place: _rows(place, "y", "answer", "error"),
    "text": _text,
    "vectors": _vectors,
    "writer": _writer,
    "chat": _chat,
    "rewriter": _rewriter,
    "tags": _tags,
    "series": _series,
}
