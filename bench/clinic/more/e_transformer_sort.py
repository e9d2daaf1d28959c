"""A small decoder-only transformer that learns to sort digit sequences: "7 2 9 = 2 7 9 <eos>"."""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)

PAD, SEP, EOS = 10, 11, 12          # 0..9 are the digits
VOCAB = 13
IGNORE = -100


@dataclass
class Config:
    d_model: int = 48
    heads: int = 4
    layers: int = 2
    dropout: float = 0.0
    min_len: int = 3
    max_len: int = 6
    micro_batch: int = 24
    accumulate: int = 2
    steps: int = 200                # optimizer steps
    warmup: int = 20
    lr: float = 4e-3
    smoothing: float = 0.05
    eval_every: int = 20
    seed: int = 5


def make_batch(n, cfg, gen):
    """Rows: x1..xk SEP sorted(x)1..k EOS PAD...; the loss looks only at what comes after SEP."""
    width = 2 * cfg.max_len + 2
    tokens = torch.full((n, width), PAD)
    labels = torch.full((n, width), IGNORE)
    lengths = torch.randint(cfg.min_len, cfg.max_len + 1, (n,), generator=gen)
    for r, k in enumerate(lengths.tolist()):
        x = torch.randint(0, 10, (k,), generator=gen)
        row = torch.cat([x, torch.tensor([SEP]), x.sort().values, torch.tensor([EOS])])
        tokens[r, :len(row)] = row
        labels[r, k + 1:len(row)] = row[k + 1:]
    return tokens[:, :-1], labels[:, 1:]       # input, next token


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg.heads
        self.norm1, self.norm2 = nn.LayerNorm(cfg.d_model), nn.LayerNorm(cfg.d_model)
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model)
        self.out = nn.Linear(cfg.d_model, cfg.d_model)
        self.ff = nn.Sequential(nn.Linear(cfg.d_model, 3 * cfg.d_model), nn.GELU(), nn.Linear(3 * cfg.d_model, cfg.d_model))
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, x, mask):
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        att = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        att = att.masked_fill(mask, float("-inf")).softmax(-1)
        x = x + self.drop(self.out((att @ v).transpose(1, 2).reshape(b, t, d)))
        return x + self.drop(self.ff(self.norm2(x)))


class Sorter(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, cfg.d_model)
        self.pos = nn.Embedding(2 * cfg.max_len + 2, cfg.d_model)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.layers)])
        self.norm = nn.LayerNorm(cfg.d_model)
        self.head = nn.Linear(cfg.d_model, VOCAB)
        for emb in (self.tok, self.pos):
            nn.init.normal_(emb.weight, std=0.1)

    def forward(self, tokens):
        t = tokens.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool).triu(1)
        x = self.tok(tokens) + self.pos(torch.arange(t))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


class Trainer:
    def __init__(self, cfg):
        self.cfg = cfg
        torch.manual_seed(cfg.seed)
        self.gen = torch.Generator().manual_seed(cfg.seed)
        self.model = Sorter(cfg)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr, weight_decay=0.01)
        self.sched = torch.optim.lr_scheduler.LambdaLR(self.opt, self.lr_factor)
        self.val = make_batch(192, cfg, torch.Generator().manual_seed(999))

    def lr_factor(self, step):
        if step < self.cfg.warmup:
            return (step + 1) / self.cfg.warmup
        progress = min(1.0, (step - self.cfg.warmup) / (self.cfg.steps - self.cfg.warmup))
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))

    def loss(self, tokens, labels):
        logits = self.model(tokens)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORE,
                               label_smoothing=self.cfg.smoothing)

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        tokens, labels = self.val
        loss = self.loss(tokens, labels).item()
        # write the answer freely, one token at a time, on a part of the held-out rows
        rows = 48
        known = labels[:rows, :-1] != IGNORE
        seq = tokens[:rows].clone()
        seq[:, 1:][known] = PAD                 # hide the answers
        for t in range(self.cfg.min_len, seq.shape[1] - 1):
            nxt = self.model(seq)[:, t].argmax(-1)
            fill = labels[:rows, t] != IGNORE
            seq[fill, t + 1] = nxt[fill]
        right = ((seq[:, 1:] == labels[:rows, :-1]) | ~known).all(1).float().mean().item()
        self.model.train()
        return loss, right

    def fit(self):
        cfg = self.cfg
        self.model.train()
        for step in range(1, cfg.steps + 1):
            total = 0.0
            self.opt.zero_grad(set_to_none=True)
            for _ in range(cfg.accumulate):
                loss = self.loss(*make_batch(cfg.micro_batch, cfg, self.gen))
                (loss / cfg.accumulate).backward()
                total += loss.item() / cfg.accumulate
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.opt.step()
            self.sched.step()
            if step % cfg.eval_every == 0:
                val_loss, exact = self.evaluate()
                print(f"step {step:4d} | train {total:.4f} | val {val_loss:.4f} | exact {exact:.3f}")


if __name__ == "__main__":
    Trainer(Config()).fit()
