"""What can be had of texts without a network: whoever trains one should know what counting words does.

Texts are classified by logistic regression on TF-IDF of words and pairs of words, tuned by cross-validation (Wang & Manning 2012
showed how hard that is to beat). Sentences are compared by the cosine of TF-IDF, of words or of groups of letters. A word gets the
tag that it has most often in training. A text is answered as the most similar training source was. All learn from the training and
validation parts together (the network only learns from the former, so this favours them) and are scored on the test part, with
the same code as the network.

    >>> yardsticks(loaded)
    [Baseline(name='TF-IDF + logistic regression', scores={'accuracy': 0.81, 'f1': 0.81})]
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from wellfit.data.arrays import Loaded
from wellfit.tasks import token_classification
from wellfit.tasks.baseline import MOST_ROWS, Baseline
from wellfit.tasks.metrics import Classification
from wellfit.tasks.sentence_embeddings import searched, spearman
from wellfit.tasks.seq_to_seq import compared

FOLDS = 3
STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # inverse regularisation; TF-IDF rows have length 1, so these are the usual ones


def yardsticks(loaded: Loaded) -> list[Baseline]:
    """Those for a task of texts, scored on its test part; empty where there is none."""
    found = OF.get(loaded.task)
    return found(loaded) if found is not None and "test" in loaded.texts else []


def _learnt_from(loaded: Loaded) -> list[list[Any]]:
    """The columns of the training and validation parts, one after another."""
    parts = [loaded.texts[part] for part in ("train", "valid") if part in loaded.texts]
    return [[one for part in parts for one in part[i]] for i in range(2)]


def _classified(loaded: Loaded) -> list[Baseline]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    texts, labels = _learnt_from(loaded)
    if len(texts) > MOST_ROWS:
        chosen = np.random.default_rng(0).choice(len(texts), MOST_ROWS, replace=False)
        texts, labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
    folds = StratifiedKFold(max(2, min(FOLDS, int(np.bincount(labels).min()))), shuffle=True, random_state=0)
    # One-letter words count too: "a", "i", and in code most names.
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"\b\w+\b")
    model = GridSearchCV(
        make_pipeline(features, LogisticRegression(max_iter=2000)), {"logisticregression__C": STRENGTHS}, cv=folds
    )
    model.fit(texts, labels)
    tested, actual = loaded.texts["test"]
    predicted = one_hot(torch.from_numpy(model.predict(tested)).long(), len(loaded.classes))
    metric = Classification()
    return [Baseline("TF-IDF + logistic regression", metric.scores(metric.sums(predicted, torch.tensor(actual))))]


def _compared(loaded: Loaded) -> list[Baseline]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    first, second = _learnt_from(loaded)
    a, b, scores = loaded.texts["test"]
    kinds = {
        "TF-IDF cosine of words": TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b"),
        "TF-IDF cosine of letters": TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5)),
    }
    found = []
    for name, features in kinds.items():
        features.fit([*first, *second])
        left, right = features.transform(a), features.transform(b)
        if scores is None:

            def similarity(rows: Tensor, candidates: Tensor, left: Any = left, right: Any = right) -> Tensor:
                return torch.from_numpy((left[rows.numpy()] @ right[candidates.numpy()].T).toarray())

            found.append(Baseline(name, searched(similarity, loaded.test.targets)))
        else:
            cosines = np.asarray(left.multiply(right).sum(1)).ravel().tolist()
            found.append(Baseline(name, {"spearman": spearman(cosines, scores)}))
    return found


def _tagged(loaded: Loaded) -> list[Baseline]:
    sentences, said = _learnt_from(loaded)
    counts: dict[str, Counter[str]] = {}
    for words, tags in zip(sentences, said, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    usual = Counter(tag for tags in said for tag in tags).most_common(1)[0][0]
    number = {tag: i for i, tag in enumerate(loaded.classes)}
    metric = token_classification.suited(loaded.classes)
    sums: dict[str, Any] = {}
    for words, tags in zip(*loaded.texts["test"], strict=True):
        guessed = [counts[word].most_common(1)[0][0] if word in counts else usual for word in words]
        predicted = one_hot(torch.tensor([[number[tag] for tag in guessed]]), len(number))
        for name, value in metric.sums(predicted, torch.tensor([[number[tag] for tag in tags]])).items():
            sums[name] = sums[name] + value if name in sums else value
    return [Baseline("most frequent tag of each word", metric.scores(sums))]


def _rewritten(loaded: Loaded) -> list[Baseline]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    sources, targets = _learnt_from(loaded)
    wanted = [(i, text) for i, text in enumerate(loaded.test.references) if text is not None]
    features = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\b\w+\b|[^\w\s]")
    known = features.fit_transform(sources)
    asked = features.transform([loaded.texts["test"][0][i] for i, _ in wanted])
    nearest = np.asarray((asked @ known.T).argmax(1)).ravel().tolist()
    written = [targets[i] for i in nearest]
    return [
        Baseline(
            "most similar training pair", compared(written, [text for _, text in wanted], loaded.columns["shortens"])
        )
    ]


OF: dict[str, Callable[[Loaded], list[Baseline]]] = {
    "text-classification": _classified,
    "sentence-embeddings": _compared,
    "token-classification": _tagged,
    "seq-to-seq": _rewritten,
}
