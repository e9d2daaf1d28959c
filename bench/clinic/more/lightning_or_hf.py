"""Sort short support messages into three queues with a tiny BERT and the transformers Trainer."""
import tempfile

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

torch.set_num_threads(1)
set_seed(0)

VOCAB = 400
N_CLASSES = 3
CLS, PAD = 1, 0
rng = np.random.default_rng(0)

# every queue has its own words, which appear among words that everyone uses
topic_words = rng.permutation(np.arange(10, VOCAB))[:60].reshape(N_CLASSES, 20)
common_words = np.setdiff1d(np.arange(10, VOCAB), topic_words)


def make_messages(n):
    rows = []
    for _ in range(n):
        label = int(rng.integers(N_CLASSES))
        length = int(rng.integers(8, 15))
        words = rng.choice(common_words, length)
        where = rng.choice(length, 3, replace=False)
        words[where] = rng.choice(topic_words[label], 3)
        rows.append({"input_ids": [CLS] + words.tolist(), "label": label})
    return rows


def collate(rows):
    width = max(len(r["input_ids"]) for r in rows)
    ids = torch.full((len(rows), width), PAD)
    for i, r in enumerate(rows):
        ids[i, :len(r["input_ids"])] = torch.tensor(r["input_ids"])
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "labels": torch.tensor([r["label"] for r in rows]),
    }


def accuracy(result):
    return {"accuracy": float((result.predictions.argmax(-1) == result.label_ids).mean())}


train_rows = make_messages(960)
eval_rows = make_messages(240)

config = BertConfig(
    vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=160, num_labels=N_CLASSES, pad_token_id=PAD,
)
model = BertForSequenceClassification(config)

args = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    num_train_epochs=8,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=120,
    learning_rate=3e-3,
    warmup_steps=20,
    weight_decay=0.01,
    eval_strategy="epoch",
    logging_steps=30,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    seed=0,
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=train_rows,
    eval_dataset=eval_rows,
    data_collator=collate,
    compute_metrics=accuracy,
)
trainer.train()
print("final", trainer.evaluate())
