"""Translation, sentence vectors and tags: scores against closed forms and references, training, resume and prediction."""

import math
import os
import signal

import pytest
import torch
import torch.nn.functional as F

from wellfit import api
from wellfit.data.source import load
from wellfit.data.tagged import spans
from wellfit.events import Evaluated, Stepped
from wellfit.recipe import Data, Recipe
from wellfit.tasks import KINDS
from wellfit.tasks.sentence_embeddings import Contrastive, Retrieval, searched, spearman
from wellfit.tasks.seq_to_seq import compared
from wellfit.tasks.token_classification import Spans

SMALL = {"model.kind": "encoder", "model.width": 32, "model.layers": 1, "model.heads": 2, "training.doctor": False}


def predicted(run, inputs, **choices):
    kind = KINDS[run.recipe.task]
    model = kind.network(run.recipe, run.task)
    model.load_state_dict(run.best_weights())
    return kind.predict(model, run.task, inputs, **choices)


def ends_with_the_same_bits(settings, tmp_path, at) -> bool:
    whole = api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "whole", quiet=True)

    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    changed = {**settings, "training.log_every": 1}
    part = api.fit_recipe(Recipe(), set=changed, folder=tmp_path / "part", observers=[stop], quiet=True)
    assert part.ended().reason == "interrupted"
    again = api.resume(tmp_path / "part", quiet=True)
    both = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in both)


def yardsticks(run) -> dict[str, dict[str, float]]:
    return {e.of: dict(e.metrics) for e in run.events() if isinstance(e, Evaluated) and e.split == "test"}


# ---- translation


@pytest.fixture
def reversed_digits(tmp_path):
    """Numbers written in words, to be written backwards."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "digits.jsonl"
    rows = [torch.randint(0, 10, (4,), generator=draw).tolist() for _ in range(600)]
    pairs = [(" ".join(words[i] for i in row), " ".join(words[i] for i in reversed(row))) for row in rows]
    path.write_text("\n".join(f'{{"a": "{a}", "b": "{b}"}}' for a, b in pairs))
    return path


def test_pairs_are_learnt_and_written(tmp_path, reversed_digits) -> None:
    pytest.importorskip("sacrebleu")
    settings = {**SMALL, "task": "seq-to-seq", "model.kind": "encoder-decoder",
                "data.source": str(reversed_digits), "data.tokens": "word", "data.test_share": 0.1,
                "training.epochs": 15, "training.batch_size": 16, "optimizer.learning_rate": 2e-3, "model.width": 64}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path, quiet=True)
    scores = yardsticks(run)
    assert scores["model"]["bleu"] > 80
    assert scores["model"]["bleu"] > scores["most similar training pair"]["bleu"]
    assert scores["model"]["perplexity"] < 1.3
    told = predicted(run, ["one two three four", "nine eight seven six"])
    assert [one["text"] for one in told] == ["four three two one", "six seven eight nine"]
    assert all(one["score"] <= 0 for one in told)


def test_pairs_resume_to_the_same_bits(tmp_path, reversed_digits) -> None:
    pytest.importorskip("sacrebleu")
    settings = {**SMALL, "task": "seq-to-seq", "model.kind": "encoder-decoder",
                "data.source": str(reversed_digits), "data.tokens": "word", "training.epochs": 2,
                "training.batch_size": 50}  # fmt: skip
    assert ends_with_the_same_bits(settings, tmp_path, at=5)


def test_texts_are_compared_by_sacrebleu_and_rouge() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    written, references = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "a dog barks"]
    found = compared(written, references, shortens=True)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, [references]).score)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score)
    # ROUGE-1: 5 of 6 words either way; 2 of 2 and 2 of 3.
    assert found["rouge1"] == pytest.approx(100 * (5 / 6 + 0.8) / 2)
    assert set(compared(written, references, shortens=False)) == {"bleu", "chrf"}
    assert math.isnan(compared([], [], shortens=False)["bleu"])


# ---- vectors


def test_the_contrastive_loss_is_cross_entropy_of_cosines() -> None:
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(5, 2, 8), dim=-1)
    cosines = vectors[:, 0] @ vectors[:, 1].T / 0.1
    apart = torch.stack([torch.arange(5), torch.arange(5)], 1)
    right = torch.arange(5)
    expected = (
        F.cross_entropy(cosines, right, reduction="sum") + F.cross_entropy(cosines.T, right, reduction="sum")
    ) / 2
    assert torch.allclose(Contrastive(0.1)(vectors, apart), expected)
    smooth = sum(F.cross_entropy(c, right, reduction="sum", label_smoothing=0.2) for c in (cosines, cosines.T)) / 2
    assert torch.allclose(Contrastive(0.1, 0.2)(vectors, apart), smooth)


def test_the_same_text_is_no_wrong_answer() -> None:
    """Pair 1's second text is pair 0's: neither may push the other away."""
    vectors = F.normalize(torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)), dim=-1).requires_grad_()
    groups = torch.tensor([[0, 0], [1, 0], [2, 2]])
    loss = Contrastive(0.1)(vectors, groups)
    cosines = vectors[:, 0] @ vectors[:, 1].T / 0.1
    blocked = cosines.masked_fill(torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool(), -torch.inf)
    right = torch.arange(3)
    expected = (
        F.cross_entropy(blocked, right, reduction="sum") + F.cross_entropy(blocked.T, right, reduction="sum")
    ) / 2
    assert torch.allclose(loss, expected)
    loss.backward()
    assert torch.isfinite(vectors.grad).all()


def test_search_counts_ties_against_the_model() -> None:
    apart = torch.stack([torch.arange(4), torch.arange(4)], 1)
    eye = torch.eye(4)
    assert searched(lambda r, c: eye[r] @ eye[c].T, apart) == {"recall_at_1": 1.0, "mrr": 1.0}
    same = torch.ones(4, 4) / 2
    assert searched(lambda r, c: same[r] @ same[c].T, apart) == {"recall_at_1": 0.0, "mrr": 0.25}
    # The partners of text 0 are the second texts 0 and 1, the latter of which stands there twice.
    groups = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 2]])
    vectors = torch.stack([eye[[1, 1, 1, 2]], eye[[0, 1, 1, 2]]], 1)
    sums = [Retrieval().sums(part, g) for part, g in ((vectors[:1], groups[:1]), (vectors[1:], groups[1:]))]
    joined = {name: sums[0][name] + sums[1][name] for name in sums[0]}
    assert Retrieval().scores(joined) == {"recall_at_1": 1.0, "mrr": 1.0}


def test_spearman_is_of_ranks() -> None:
    assert spearman([0.1, 0.2, 0.9], [1, 4, 5]) == pytest.approx(1)
    assert math.isnan(spearman([0.5, 0.5], [1, 2]))


def test_vectors_of_pairs_that_belong_together(tmp_path) -> None:
    """Colours are said in one language and asked for in another; which belong together is to be learnt."""
    pytest.importorskip("pandas")
    here, there = (
        ["red", "green", "blue", "black", "white", "pink"],
        ["rot", "gruen", "blau", "schwarz", "weiss", "rosa"],
    )
    things = dict(zip(["house", "tree", "car", "dog"], ["Haus", "Baum", "Auto", "Hund"], strict=True))
    sizes = dict(zip(["big", "small", "old", "new"], ["gross", "klein", "alt", "neu"], strict=True))
    rows = [
        f'{{"a": "{s} {c} {t}", "b": "{sizes[s]} {d} {things[t]}"}}'
        for c, d in zip(here, there, strict=True) for t in things for s in sizes
    ]  # fmt: skip
    path = tmp_path / "colours.jsonl"
    path.write_text("\n".join(rows))
    settings = {**SMALL, "task": "sentence-embeddings", "data.source": str(path), "data.test_share": 0.25, "training.epochs": 40,
                "training.batch_size": 16, "optimizer.learning_rate": 3e-3}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path, quiet=True)
    scores = yardsticks(run)
    assert scores["model"]["recall_at_1"] > 0.9
    assert scores["TF-IDF cosine of words"]["recall_at_1"] < 0.1, "the words of the two sides have nothing in common"
    assert run.recipe.evaluation.metric == "mrr"
    vectors = predicted(run, ["big red dog", "old blue house"])
    assert sum(x * x for x in vectors[0]["vector"]) == pytest.approx(1, abs=1e-5)
    found = predicted(run, ["big red dog"], among=["alt blau Haus", "gross rot Hund", "klein rosa Auto"], most=2)
    assert found[0]["similar"][0]["text"] == "gross rot Hund"
    assert len(found[0]["similar"]) == 2


def test_vectors_resume_to_the_same_bits(tmp_path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "scored.csv"
    path.write_text("".join(f"a man has {i} dogs,a man has {i * i % 7} cats,{i % 5}\n" for i in range(80)))
    settings = {
        **SMALL,
        "task": "sentence-embeddings",
        "data.source": str(path),
        "training.epochs": 4,
        "training.batch_size": 16,
    }
    assert ends_with_the_same_bits(settings, tmp_path, at=7)


# ---- tags

CASES = [
    (["B-PER", "I-PER", "O", "B-LOC"], [("PER", 0, 2), ("LOC", 3, 4)]),
    (["I-PER", "I-PER", "O", "I-LOC", "B-LOC"], [("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 5)]),  # IOB1
    (["B-PER", "I-LOC", "I-LOC"], [("PER", 0, 1), ("LOC", 1, 3)]),  # another type begins another span
    (["B-PER", "B-PER"], [("PER", 0, 1), ("PER", 1, 2)]),
    (["B-X", "I-X", "E-X", "S-X", "O"], [("X", 0, 3), ("X", 3, 4)]),  # BIOES
    (["E-X", "I-X", "S-X", "I-X"], [("X", 0, 1), ("X", 1, 2), ("X", 2, 3), ("X", 3, 4)]),
    (["O", "O"], []),
]


@pytest.mark.parametrize(("tags", "expected"), CASES)
def test_spans_are_conllevals(tags, expected) -> None:
    assert spans(tags) == expected


def test_span_scores_are_seqevals() -> None:
    """Random tags of every scheme, cut into batches at random, against the reference."""
    metrics = pytest.importorskip("seqeval.metrics")
    classes = ("O", *(f"{p}-{t}" for p in "BIES" for t in ("PER", "LOC")))
    draw = torch.Generator().manual_seed(0)
    metric, sums, actual, predicted_tags = Spans(classes), {}, [], []
    for size in (1, 7, 30):
        lengths = torch.randint(1, 12, (size,), generator=draw)
        real = torch.arange(12)[None] < lengths[:, None]
        targets = torch.randint(0, len(classes), (size, 12), generator=draw)
        said = torch.where(
            torch.rand(size, 12, generator=draw) < 0.6, targets, torch.randint(0, 9, (size, 12), generator=draw)
        )
        for row in range(size):
            n = int(lengths[row])
            actual.append([classes[i] for i in targets[row, :n]])
            predicted_tags.append([classes[i] for i in said[row, :n]])
        outputs = F.one_hot(said, len(classes)).float()
        for name, value in metric.sums(outputs, targets.masked_fill(~real, -100)).items():
            sums[name] = sums.get(name, 0) + value
    found = metric.scores(sums)
    assert found["f1"] == pytest.approx(metrics.f1_score(actual, predicted_tags))
    assert found["precision"] == pytest.approx(metrics.precision_score(actual, predicted_tags))
    assert found["recall"] == pytest.approx(metrics.recall_score(actual, predicted_tags))
    assert found["token_accuracy"] == pytest.approx(metrics.accuracy_score(actual, predicted_tags))
    assert 0.1 < found["f1"] < 0.9


@pytest.fixture
def places(tmp_path):
    """Cities of one or two words after "in"; the same words elsewhere are no city."""
    draw = torch.Generator().manual_seed(0)
    lines = []
    for _ in range(300):
        a, b = (("Rom", "Ulm", "Bern", "Bad Ems", "New York")[i] for i in torch.randint(0, 5, (2,), generator=draw))
        lines += [f"{w} O" for w in ("we", "met")] + [f"{w} O" for w in a.split()] + ["in O"]
        lines += [f"{w} {'B' if i == 0 else 'I'}-LOC" for i, w in enumerate(b.split())] + [""]
    path = tmp_path / "places.conll"
    path.write_text("\n".join(lines))
    return path


def test_tags_are_learnt(tmp_path, places) -> None:
    settings = {**SMALL, "data.source": str(places), "data.test_share": 0.2, "training.epochs": 10, "training.batch_size": 16,
                "optimizer.learning_rate": 3e-3}  # fmt: skip
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path, quiet=True)
    scores = yardsticks(run)
    assert scores["model"]["f1"] > 0.95
    assert scores["most frequent tag of each word"]["f1"] < 0.8, "the word alone does not tell"
    told = predicted(run, ["we met Ulm in New York", ["we", "met", "Rom", "in", "Bern"]])
    assert told[0]["tags"] == ["O", "O", "O", "O", "B-LOC", "I-LOC"]
    assert told[0]["spans"] == [{"type": "LOC", "text": "New York"}]
    assert told[1]["spans"] == [{"type": "LOC", "text": "Bern"}]


def test_tags_resume_to_the_same_bits(tmp_path, places) -> None:
    settings = {**SMALL, "data.source": str(places), "training.epochs": 2, "training.batch_size": 32}
    assert ends_with_the_same_bits(settings, tmp_path, at=9)


def test_padding_changes_no_score(places) -> None:
    """Loss, weight and scores of a batch are those of its sentences one by one."""
    loaded = load(Data(source=str(places)), None)
    recipe = Recipe().override({"model": {"kind": "encoder", "width": 32, "heads": 2}, "loss.kind": "cross-entropy"})
    torch.manual_seed(0)
    built = KINDS["token-classification"].build(recipe, loaded)
    built.model.eval()
    with torch.no_grad():
        whole = loaded.train.batch(torch.arange(8))
        parts = [loaded.train.batch(torch.tensor([i])) for i in range(8)]
        assert sum(built.task.weight(p) for p in parts) == built.task.weight(whole)
        total = sum(built.task.loss(built.model, p) for p in parts)
        assert torch.allclose(built.task.loss(built.model, whole), total, rtol=1e-4)


def test_texts_have_a_yardstick(tmp_path) -> None:
    pytest.importorskip("pandas")
    path = tmp_path / "reviews.csv"
    lines = [f"the film is {('good', 'bad')[i % 2]} number {i},{('yes', 'no')[i % 2]}" for i in range(120)]
    path.write_text("text,label\n" + "\n".join(lines))
    settings = {**SMALL, "data.source": str(path), "data.text": "text", "data.test_share": 0.2, "training.steps": 2}
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path / "runs", quiet=True)
    assert yardsticks(run)["TF-IDF + logistic regression"]["accuracy"] == 1.0
