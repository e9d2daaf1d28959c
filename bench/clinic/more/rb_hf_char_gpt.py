"""Small GPT-2 from a config (no download), character level, on the text of Python's help topics."""
import math
import random
import tempfile
from collections import Counter

import torch
from pydoc_data.topics import topics
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, default_data_collator, set_seed

BLOCK = 48
set_seed(0)

# The help topics quote each other, so keep every paragraph once before splitting.
paragraphs = list(dict.fromkeys(p.strip() for t in topics.values() for p in t.split("\n\n")))
paragraphs = [p for p in paragraphs if len(p) > 80]
random.Random(0).shuffle(paragraphs)
n_val = len(paragraphs) // 10
val_text = "\n\n".join(paragraphs[:n_val])
train_text = "\n\n".join(paragraphs[n_val:])

# rare characters share one <unk> id
counts = Counter(train_text)
chars = sorted(c for c, n in counts.items() if n >= 20)
stoi = {c: i + 1 for i, c in enumerate(chars)}
vocab_size = len(chars) + 1


def blocks(text):
    ids = [stoi.get(c, 0) for c in text]
    out = dict.fromkeys(tuple(ids[i:i + BLOCK]) for i in range(0, len(ids) - BLOCK + 1, BLOCK))
    return [{"input_ids": list(b), "labels": list(b)} for b in out]


train_ds, val_ds = blocks(train_text), blocks(val_text)[:200]
print(f"{len(train_ds)} training blocks, {len(val_ds)} held-out blocks, {vocab_size} characters")

config = GPT2Config(
    vocab_size=vocab_size, n_positions=BLOCK, n_embd=80, n_layer=2, n_head=4,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)
model = GPT2LMHeadModel(config)

args = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    max_steps=400,
    per_device_train_batch_size=16,
    per_device_eval_batch_size=100,
    learning_rate=4e-3,
    warmup_steps=30,
    lr_scheduler_type="cosine",
    weight_decay=0.01,
    eval_strategy="steps",
    eval_steps=200,
    logging_steps=50,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    seed=0,
)

trainer = Trainer(
    model=model,
    args=args,
    train_dataset=train_ds,
    eval_dataset=val_ds,
    data_collator=default_data_collator,
)
trainer.train()
held_out = trainer.evaluate()["eval_loss"]

# baseline: character frequencies of the training text
freq = torch.ones(vocab_size)
for b in train_ds:
    freq += torch.bincount(torch.tensor(b["input_ids"]), minlength=vocab_size)
logp = (freq / freq.sum()).log()
targets = torch.cat([torch.tensor(b["input_ids"][1:]) for b in val_ds])
unigram = -logp[targets].mean().item()
print(f"held-out loss {held_out:.4f} nats/char (perplexity {math.exp(held_out):.2f}); "
      f"character frequencies {unigram:.4f} (perplexity {math.exp(unigram):.2f})")
