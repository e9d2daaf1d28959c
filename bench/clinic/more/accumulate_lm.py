"""A character language model with tied embeddings; gradients are accumulated over uneven small batches."""
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(1)
random.seed(1)

MICRO = 8        # sentences per small batch
ACCUM = 4        # small batches per optimizer step
EPOCHS = 8
IGNORE = -100

WHO = ["the cat", "a bird", "my brother", "the old farmer", "she", "nobody", "the doctor"]
DOES = ["sees", "buys", "paints", "forgets", "likes", "carries"]
WHAT = ["a red house", "the river", "two apples", "my green coat", "bread", "an umbrella", "it"]
WHEN = ["", " today", " in the morning", " every single week", " at night"]


def sentence():
    return f"{random.choice(WHO)} {random.choice(DOES)} {random.choice(WHAT)}{random.choice(WHEN)}."


everything = sorted({sentence() for _ in range(8000)})
random.shuffle(everything)
train_text, val_text = everything[:970], everything[970:1130]
chars = ["<pad>", "<s>"] + sorted(set("".join(everything)))
index = {c: i for i, c in enumerate(chars)}


def encode(sentences):
    rows = [[index["<s>"]] + [index[c] for c in s] for s in sentences]
    width = max(len(r) for r in rows)
    x = torch.zeros(len(rows), width - 1, dtype=torch.long)
    y = torch.full((len(rows), width - 1), IGNORE)
    for i, r in enumerate(rows):
        x[i, :len(r) - 1] = torch.tensor(r[:-1])
        y[i, :len(r) - 1] = torch.tensor(r[1:])
    return x, y


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 3 * dim), nn.GELU(), nn.Linear(3 * dim, dim))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        att = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(att.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))


class CharLM(nn.Module):
    def __init__(self, vocab, dim=48, layers=2, longest=200):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.pos = nn.Embedding(longest, dim)
        self.blocks = nn.Sequential(*[Block(dim, 4) for _ in range(layers)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        nn.init.normal_(self.emb.weight, std=0.05)
        nn.init.normal_(self.pos.weight, std=0.05)
        self.head.weight = self.emb.weight

    def forward(self, x):
        h = self.emb(x) + self.pos(torch.arange(x.size(1)))
        return self.head(self.norm(self.blocks(h)))


def summed_loss(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE, reduction="sum")


model = CharLM(len(chars))
steps_in_all = EPOCHS * -(-len(train_text) // (MICRO * ACCUM))
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
scheduler = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda s: min(1.0, (s + 1) / 20) * max(0.02, 1 - s / steps_in_all))
val_x, val_y = encode(val_text)

for epoch in range(EPOCHS):
    model.train()
    random.shuffle(train_text)
    epoch_loss = epoch_tokens = 0
    micro_batches = [encode(train_text[i:i + MICRO]) for i in range(0, len(train_text), MICRO)]
    for first in range(0, len(micro_batches), ACCUM):
        window = micro_batches[first:first + ACCUM]
        n_tokens = sum((y != IGNORE).sum().item() for _, y in window)
        optimizer.zero_grad()
        for x, y in window:
            loss = summed_loss(model, x, y) / n_tokens
            loss.backward()
            epoch_loss += loss.item() * n_tokens
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        epoch_tokens += n_tokens

    model.eval()
    with torch.no_grad():
        val = summed_loss(model, val_x, val_y).item() / (val_y != IGNORE).sum().item()
    print(f"epoch {epoch} train {epoch_loss / epoch_tokens:.4f} val {val:.4f} nats per character")
