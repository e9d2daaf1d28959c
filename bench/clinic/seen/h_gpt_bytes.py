"""A tiny byte-level GPT, trained on the source code of Python's standard library."""
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)

TRAIN_MODULES = ["argparse", "optparse", "configparser", "tarfile", "mailbox"]
VALID_MODULES = ["shutil", "textwrap", "calendar"]
VOCAB = 128  # plain ASCII

@dataclass
class Config:
    context: int = 32
    width: int = 80
    heads: int = 4
    layers: int = 1
    dropout: float = 0.05
    micro_batch: int = 12
    accumulate: int = 2
    steps: int = 160
    warmup: int = 16
    lr: float = 1e-2
    clip: float = 1.0
    eval_every: int = 16

def read_modules(names):
    library = Path(os.__file__).parent
    raw = b"\n".join((library / f"{name}.py").read_bytes() for name in names)
    return torch.tensor([b for b in raw if b < VOCAB], dtype=torch.long)

class CausalAttention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads = cfg.heads
        self.qkv = nn.Linear(cfg.width, 3 * cfg.width)
        self.proj = nn.Linear(cfg.width, cfg.width)
        self.register_buffer("mask", torch.tril(torch.ones(cfg.context, cfg.context)).bool())

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.mask[:t, :t], float("-inf"))
        out = scores.softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(b, t, c))

class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(cfg.width), nn.LayerNorm(cfg.width)
        self.attn = CausalAttention(cfg)
        self.mlp = nn.Sequential(nn.Linear(cfg.width, 3 * cfg.width), nn.GELU(), nn.Linear(3 * cfg.width, cfg.width))
        self.drop = nn.Dropout(cfg.dropout)

    def forward(self, x):
        x = x + self.drop(self.attn(self.ln1(x)))
        return x + self.drop(self.mlp(self.ln2(x)))

class GPT(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok = nn.Embedding(VOCAB, cfg.width)
        self.pos = nn.Embedding(cfg.context, cfg.width)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.layers)])
        self.norm = nn.LayerNorm(cfg.width)
        self.head = nn.Linear(cfg.width, VOCAB, bias=False)
        self.apply(self.init_weights)
        for block in self.blocks:  # residual branches start at zero
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp[-1].weight)

    def init_weights(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.08)

    def forward(self, idx):
        h = self.tok(idx) + self.pos(torch.arange(idx.shape[1]))
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))

def random_windows(data, cfg, generator):
    while True:
        at = torch.randint(0, len(data) - cfg.context - 1, (cfg.micro_batch,), generator=generator)
        chunk = torch.stack([data[i:i + cfg.context + 1] for i in at])
        yield chunk[:, :-1], chunk[:, 1:]

def lm_loss(logits, targets):
    return F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))

@torch.no_grad()
def perplexity(model, data, cfg, windows=40):
    model.eval()
    chunk = torch.stack([data[i:i + cfg.context + 1] for i in range(0, len(data) - 100, len(data) // windows)])
    loss = lm_loss(model(chunk[:, :-1]), chunk[:, 1:]).item()
    model.train()
    return loss, math.exp(min(loss, 20))

def rate_at(step, cfg):
    if step < cfg.warmup:
        return (step + 1) / cfg.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - cfg.warmup) / (cfg.steps - cfg.warmup)))

def train(cfg):
    torch.manual_seed(1234)
    train_data, valid_data = read_modules(TRAIN_MODULES), read_modules(VALID_MODULES)
    batches = random_windows(train_data, cfg, torch.Generator().manual_seed(5))
    model = GPT(cfg)
    opt = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.98), weight_decay=0.05)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: rate_at(s, cfg))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(train_data):,} training bytes")
    recent = 0.0
    for step in range(1, cfg.steps + 1):
        opt.zero_grad(set_to_none=True)
        for _ in range(cfg.accumulate):
            inputs, targets = next(batches)
            loss = lm_loss(model(inputs), targets) / cfg.accumulate
            loss.backward()
            recent += loss.item() / cfg.eval_every
        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        opt.step()
        sched.step()
        if step % cfg.eval_every == 0:
            val, ppl = perplexity(model, valid_data, cfg)
            print(f"step {step:3d}  train {recent:.3f}  valid {val:.3f}  perplexity {ppl:.2f}")
            recent = 0.0
    return model

if __name__ == "__main__":
    train(Config())
