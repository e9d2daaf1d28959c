"""Shared by all tests: one thread, so that timings and bits do not depend on the machine's load, and real data by path."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """Real data sets that lie beside the project and are never part of it; tests that want them skip aloud without."""
    folder = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set WELLFIT_DATA to use it")
    return folder


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "it", "is", "very", "not"]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory):
    """The folder of a BERT of two small layers with a vocabulary of a dozen words and places for 32 tokens."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    (path / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    return path
