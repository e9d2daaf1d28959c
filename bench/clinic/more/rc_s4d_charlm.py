"""Character language model with diagonal state-space layers (S4D-Lin) on the standard library's own source."""
import argparse
import math
import random
import sysconfig
from collections import Counter
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F


class S4D(nn.Module):
    def __init__(self, d, n=6):
        super().__init__()
        dt = torch.exp(torch.rand(d) * (math.log(0.5) - math.log(0.01)) + math.log(0.01))
        self.log_dt = nn.Parameter(dt.log())
        self.log_a = nn.Parameter(torch.log(0.5 * torch.ones(d, n)))
        self.a_imag = nn.Parameter(math.pi * torch.arange(n).float().repeat(d, 1))
        self.c = nn.Parameter(torch.randn(d, n, 2) * 0.5 ** 0.5)
        self.skip = nn.Parameter(torch.randn(d))

    def kernel(self, length):
        a = torch.complex(-self.log_a.exp(), self.a_imag)
        dt = self.log_dt.exp()[:, None]
        da = a * dt
        c = torch.view_as_complex(self.c) * (torch.exp(da) - 1) / a
        powers = torch.exp(da[:, :, None] * torch.arange(length))
        return 2 * torch.einsum("dn,dnl->dl", c, powers).real

    def forward(self, u):                      # u: batch, d, length
        length = u.size(2)
        k = torch.fft.rfft(self.kernel(length), 2 * length)
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * length) * k, 2 * length)[..., :length]
        return y + u * self.skip[:, None]


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.ssm = S4D(d)
        self.mix = nn.Linear(d, 2 * d)

    def forward(self, x):
        h = self.ssm(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + F.glu(self.mix(F.gelu(h)), -1)


class CharLM(nn.Module):
    def __init__(self, vocab, d=64, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocab, d)
        self.blocks = nn.ModuleList([Block(d) for _ in range(layers)])
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, vocab)

    def forward(self, ids):
        x = self.embed(ids)
        for b in self.blocks:
            x = b(x)
        return self.head(self.norm(x))


def load_corpus(rng):
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.glob("*.py") if 8_000 < p.stat().st_size < 40_000 and not p.name.startswith("_"))
    rng.shuffle(files)
    text = [p.read_text(encoding="utf-8", errors="ignore") for p in files]
    n_test = len(text) // 10
    return "\n".join(text[2 * n_test:]), "\n".join(text[n_test:2 * n_test]), "\n".join(text[:n_test])


def bigram_bits(train, test, v):
    table = torch.full((v, v), 0.1)
    table.index_put_((train[:-1], train[1:]), torch.ones(len(train) - 1), accumulate=True)
    logp = (table / table.sum(1, keepdim=True)).log2()
    return -logp[test[:-1], test[1:]].mean().item()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=240)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--length", type=int, default=96)
    ap.add_argument("--lr", type=float, default=8e-3)
    args = ap.parse_args()
    rng = random.Random(2)
    torch.manual_seed(2)

    train_txt, valid_txt, test_txt = load_corpus(rng)
    chars = ["\0"] + [c for c, k in Counter(train_txt).most_common() if k >= 20]
    index = {c: i for i, c in enumerate(chars)}
    to_ids = lambda s: torch.tensor([index.get(c, 0) for c in s])
    train, valid, test = to_ids(train_txt), to_ids(valid_txt), to_ids(test_txt)
    print(f"{len(train)} training characters, {len(chars)} symbols")

    model = CharLM(len(chars))
    ssm = [p for n, p in model.named_parameters() if n.rsplit(".", 1)[-1] in ("log_dt", "log_a", "a_imag")]
    ids = {id(p) for p in ssm}
    rest = [p for p in model.parameters() if id(p) not in ids]
    opt = torch.optim.AdamW([{"params": rest, "lr": args.lr, "weight_decay": 0.01},
                             {"params": ssm, "lr": 1e-3, "weight_decay": 0.0}])
    warm = 20
    sched = torch.optim.lr_scheduler.LambdaLR(
        opt, lambda s: (s + 1) / warm if s < warm else
        0.02 + 0.49 * (1 + math.cos(math.pi * (s - warm) / (args.steps - warm))))

    def bits(data, limit=60):
        model.eval()
        n = min(limit, (len(data) - 1) // args.length)
        pick = torch.linspace(0, len(data) - args.length - 2, n).long()
        x = torch.stack([data[i:i + args.length + 1] for i in pick.tolist()])
        with torch.no_grad():
            out = model(x[:, :-1])
        model.train()
        return F.cross_entropy(out.flatten(0, 1), x[:, 1:].flatten()).item() / math.log(2)

    for step in range(1, args.steps + 1):
        start = torch.randint(len(train) - args.length - 1, (args.batch,)).tolist()
        x = torch.stack([train[i:i + args.length + 1] for i in start])
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        if step % 60 == 0:
            print(f"step {step}  train {loss.item() / math.log(2):.3f} bits  valid {bits(valid):.3f} bits")

    p = torch.bincount(train, minlength=len(chars)).float()
    unigram = -((p / p.sum()).clamp_min(1e-9).log2())[test].mean().item()
    print(f"test bits per character {bits(test, 200):.3f}  (bigram table {bigram_bits(train, test, len(chars)):.3f}, "
          f"unigram {unigram:.3f})")


if __name__ == "__main__":
    main()
