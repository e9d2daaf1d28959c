"""Bearing faults from vibration windows.

Stage 1: masked reconstruction on plenty of unlabelled windows.
Stage 2: a linear head on the frozen encoder, few labels.
Stage 3: everything, encoder at a tenth of the head's learning rate.
"""
import logging

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

logging.basicConfig(level=logging.INFO, format="%(message)s")
log = logging.getLogger("vibration")
CLASSES = ["healthy", "imbalance", "outer race", "inner race", "looseness"]
LEN, PATCH = 256, 8


def simulate(labels, rng):
    n = len(labels)
    t = np.arange(LEN) / LEN
    f0 = rng.uniform(5, 7, n)[:, None]                       # shaft turns in the window
    ph = rng.uniform(0, 2 * np.pi, (n, 4))
    shaft = 2 * np.pi * f0 * t
    base = 0.5 * np.sin(shaft + ph[:, :1]) + 0.3 * np.sin(2 * shaft + ph[:, 1:2])
    hum = 0.25 * np.sin(2 * np.pi * rng.uniform(28, 32, n)[:, None] * t + ph[:, 2:3])
    sev = rng.uniform(0.6, 1.4, n)[:, None]

    def impacts(ratio):
        """Ringing after each hit; ratio hits per shaft turn."""
        since = (f0 * ratio * t + ph[:, 3:4] / (2 * np.pi)) % 1.0 / (f0 * ratio)
        return np.exp(-since * 35) * np.sin(2 * np.pi * 45 * since)

    extra = np.select(
        [(labels == k)[:, None] for k in range(5)],
        [np.zeros((n, LEN)),
         0.9 * sev * np.sin(shaft + ph[:, :1]),
         1.3 * sev * impacts(1.8),
         1.3 * sev * impacts(2.7) * (0.55 + 0.45 * np.sin(shaft + ph[:, 1:2])),
         0.7 * sev * (np.sin(0.5 * shaft + ph[:, 1:2]) + 0.5 * np.sin(3 * shaft + ph[:, 3:4]))])
    x = base + hum + extra + rng.normal(0, 0.25, (n, LEN))
    return x.astype(np.float32)


class Encoder(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.patch = nn.Conv1d(1, d, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, d), nn.Conv1d(d, d, 5, padding=2), nn.GELU(), nn.Conv1d(d, d, 1))
            for _ in range(2))

    def forward(self, x):
        h = self.patch(x.unsqueeze(1))
        for b in self.blocks:
            h = h + b(h)
        return h


def masked_loss(encoder, decoder, x, gen):
    mask = torch.rand(len(x), LEN // PATCH, generator=gen) < 0.3
    full = mask.repeat_interleave(PATCH, 1)
    rec = decoder(encoder(x.masked_fill(full, 0.0))).flatten(1)
    return ((rec - x)[full] ** 2).mean()


def batches(n, size, gen):
    while True:
        perm = torch.randperm(n, generator=gen)
        for i in range(0, n - size + 1, size):
            yield perm[i:i + size]


def evaluate(encoder, head, x, y):
    encoder.eval(), head.eval()
    with torch.no_grad():
        logits = head(encoder(x))
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def main():
    rng = np.random.default_rng(8)
    torch.manual_seed(8)
    gen = torch.Generator().manual_seed(8)
    draw = lambda n: rng.choice(5, n, p=[0.32, 0.17, 0.17, 0.17, 0.17])
    y_un, y_tr, y_va, y_te = draw(4000), draw(900), draw(300), draw(1000)
    unlabelled = simulate(y_un, rng)
    mean, std = unlabelled.mean(), unlabelled.std()
    prep = lambda a: torch.from_numpy((a - mean) / std)
    x_un = prep(unlabelled)
    x_tr, x_va, x_te = (prep(simulate(y, rng)) for y in (y_tr, y_va, y_te))
    y_tr, y_va, y_te = (torch.from_numpy(y) for y in (y_tr, y_va, y_te))

    encoder = Encoder()
    decoder = nn.Sequential(nn.GELU(), nn.ConvTranspose1d(48, 1, PATCH, stride=PATCH))

    # ---- stage 1
    params = list(encoder.parameters()) + list(decoder.parameters())
    opt = torch.optim.AdamW(params, lr=3e-3, weight_decay=0.01)
    steps = 220
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps, pct_start=0.15)
    stream = batches(len(x_un), 64, gen)
    for step in range(1, steps + 1):
        loss = masked_loss(encoder, decoder, x_un[next(stream)], gen)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()
        if step % 55 == 0:
            with torch.no_grad():
                log.info("pretrain %3d  masked mse %.3f  valid %.3f", step, loss.item(),
                         masked_loss(encoder, decoder, x_va, gen).item())

    # ---- stage 2
    head = nn.Sequential(nn.GELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.LayerNorm(48), nn.Dropout(0.2), nn.Linear(48, 5))
    for p in encoder.parameters():
        p.requires_grad_(False)
    opt = torch.optim.AdamW(head.parameters(), lr=1e-2)
    stream = batches(len(x_tr), 40, gen)
    for step in range(1, 101):
        encoder.eval(), head.train()
        i = next(stream)
        with torch.no_grad():
            z = encoder(x_tr[i])
        loss = F.cross_entropy(head(z), y_tr[i])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    log.info("head only     valid loss %.3f acc %.3f", *evaluate(encoder, head, x_va, y_va))

    # ---- stage 3
    for p in encoder.parameters():
        p.requires_grad_(True)
    opt = torch.optim.AdamW([{"params": encoder.parameters(), "lr": 3e-4},
                             {"params": head.parameters(), "lr": 3e-3}], weight_decay=0.02)
    steps = 220
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1, (s + 1) / 20) * (1 - 0.95 * s / steps))
    for step in range(1, steps + 1):
        encoder.train(), head.train()
        i = next(stream)
        x = x_tr[i] * (1 + 0.1 * torch.randn(len(i), 1, generator=gen))
        x = torch.roll(x, int(torch.randint(LEN, (1,), generator=gen)), 1)
        loss = F.cross_entropy(head(encoder(x)), y_tr[i])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        sched.step()
        if step % 55 == 0:
            log.info("fine-tune %3d  train %.3f  valid loss %.3f acc %.3f", step, loss.item(),
                     *evaluate(encoder, head, x_va, y_va))
    _, acc = evaluate(encoder, head, x_te, y_te)
    base = (y_te == y_tr.mode().values).float().mean().item()
    log.info("test accuracy %.3f (majority %.3f)", acc, base)


if __name__ == "__main__":
    main()
