"""Small BERT from scratch with the Hugging Face Trainer: sentiment of templated product reviews
with negation.  Everything offline: vocabulary, tokenizer and data are made here."""
import os
import random
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_DISABLED"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed)

torch.set_num_threads(1)
set_seed(42)
rng = random.Random(42)

POS = "great lovely excellent solid fast pleasant sturdy bright".split()
NEG = "awful broken slow flimsy noisy ugly dim useless".split()
NOUN = "phone lamp chair kettle radio bike camera jacket screen pen".split()
INTENS = ["", "very", "really", "quite"]
OPEN = ["the", "this", "my new", "our old"]
FILL = ["i bought it last week", "it came by post", "my sister has one too", "we use it at home", ""]


def review():
    """A filler and a clause; 'not' flips the polarity, and three labels of a hundred are wrong."""
    pos = rng.random() < 0.5
    neg = rng.random() < 0.25
    word = rng.choice(POS if pos else NEG)
    clause = [rng.choice(OPEN), rng.choice(NOUN), "is", "not" if neg else "", rng.choice(INTENS), word]
    parts = [" ".join(clause), rng.choice(FILL)]
    rng.shuffle(parts)
    label = int(pos != neg)
    if rng.random() < 0.03:
        label = 1 - label
    return " ".join(" ".join(parts).split()), label


seen, data = set(), []
while len(data) < 2500:                      # distinct sentences only, so that no test text was trained on
    text, label = review()
    if text not in seen:
        seen.add(text)
        data.append((text, label))
train_rows, eval_rows = data[:2000], data[2000:]

words = sorted({w for t, _ in train_rows for w in t.split()})
vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + words)}


class ReviewDataset(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        text, label = self.rows[i]
        ids = [2] + [vocab.get(w, 1) for w in text.split()] + [3]
        return {"input_ids": ids, "labels": label}


def collate(features):
    width = max(len(f["input_ids"]) for f in features)
    pad = [width - len(f["input_ids"]) for f in features]
    return {"input_ids": torch.tensor([f["input_ids"] + [0] * p for f, p in zip(features, pad)]),
            "attention_mask": torch.tensor([[1] * len(f["input_ids"]) + [0] * p for f, p in zip(features, pad)]),
            "labels": torch.tensor([f["labels"] for f in features])}


def compute_metrics(eval_pred):
    logits, labels = eval_pred
    preds = np.argmax(logits, axis=-1)
    return {"accuracy": float((preds == labels).mean())}


config = BertConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                    intermediate_size=64, max_position_embeddings=32, num_labels=2,
                    hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, pad_token_id=0)
model = BertForSequenceClassification(config)

with tempfile.TemporaryDirectory() as tmp:
    args = TrainingArguments(output_dir=tmp, num_train_epochs=3, per_device_train_batch_size=16,
                             per_device_eval_batch_size=200, learning_rate=1.5e-3, weight_decay=0.01,
                             warmup_steps=30, lr_scheduler_type="linear", eval_strategy="epoch",
                             save_strategy="no", logging_steps=25, report_to="none", use_cpu=True,
                             disable_tqdm=True, seed=42)
    trainer = Trainer(model=model, args=args, train_dataset=ReviewDataset(train_rows),
                      eval_dataset=ReviewDataset(eval_rows), data_collator=collate,
                      compute_metrics=compute_metrics)
    trainer.train()
    print(trainer.evaluate())
print("majority", max(np.mean([l for _, l in eval_rows]), 1 - np.mean([l for _, l in eval_rows])))
