# Day-ahead style load forecast: 3 quantiles for the next 12 hours from the last 48.
# Overlapping windows; the split is by time, no window crosses a border.
import math
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import Dataset, DataLoader

torch.set_num_threads(1)
torch.manual_seed(0)
HIST, AHEAD, QS = 48, 12, (0.1, 0.5, 0.9)


def hourly_load(hours=24 * 220, seed=3):
    g = np.random.default_rng(seed)
    t = np.arange(hours)
    weekday = (t // 24) % 7
    daily = np.where(weekday < 5, 1.0, .55) * (np.sin(2 * np.pi * (t % 24 - 8) / 24) + .4 * np.sin(4 * np.pi * (t % 24 - 3) / 24))
    ar = np.zeros(hours)
    spread = .08 + .22 * ((t % 24 > 9) & (t % 24 < 20))          # noisier by day
    for i in range(1, hours):
        ar[i] = .9 * ar[i - 1] + spread[i] * g.standard_t(6)
    return t, (520 + 90 * daily + 45 * ar).astype(np.float32)


class Windows(Dataset):
    def __init__(self, t, y, lo, hi, mean, std, stride=1):
        self.starts = range(lo, hi - HIST - AHEAD + 1, stride)
        self.y = torch.from_numpy((y - mean) / std)
        hod, dow = 2 * math.pi * (t % 24) / 24, 2 * math.pi * ((t // 24) % 7) / 7
        self.cal = torch.tensor(np.stack([np.sin(hod), np.cos(hod), np.sin(dow), np.cos(dow)], 1), dtype=torch.float32)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, i):
        s = self.starts[i]
        m, e = s + HIST, s + HIST + AHEAD
        return {"past": self.y[s:m], "when": self.cal[m - 1], "future": self.y[m:e]}


class QuantileNet(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.inp = nn.Linear(HIST + 4, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in range(2))
        self.out = nn.Linear(width, AHEAD * len(QS))

    def forward(self, past, when):
        last = past[:, -1:]
        h = self.inp(torch.cat([past - last, when], 1))
        for b in self.blocks:
            h = h + b(h)
        step, gap1, gap2 = self.out(h).view(-1, len(QS), AHEAD).unbind(1)
        mid = step + last                                         # the middle one, others cannot cross it
        sp = nn.functional.softplus
        return torch.stack([mid - sp(gap1), mid, mid + sp(gap2)], 1)


def pinball(pred, y):
    q = torch.tensor(QS).view(1, -1, 1)
    d = y.unsqueeze(1) - pred
    return torch.maximum(q * d, (q - 1) * d).mean()


t, y = hourly_load()
a, b = int(len(y) * .7), int(len(y) * .85)
mean, std = y[:a].mean(), y[:a].std()
train_set = Windows(t, y, 0, a, mean, std)
valid_set = Windows(t, y, a, b, mean, std)
test_set = Windows(t, y, b, len(y), mean, std)
train_dl = DataLoader(train_set, batch_size=64, shuffle=True, drop_last=True)

model = QuantileNet()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=4e-3, total_steps=8 * len(train_dl))


def score(ds):
    model.eval()
    with torch.no_grad():
        batch = next(iter(DataLoader(ds, batch_size=len(ds))))
        p = model(batch["past"], batch["when"])
        return pinball(p, batch["future"]).item(), [(batch["future"] < p[:, i]).float().mean().item() for i in range(3)], batch


for epoch in range(8):
    model.train()
    run = 0
    for batch in train_dl:
        opt.zero_grad(set_to_none=True)
        loss = pinball(model(batch["past"], batch["when"]), batch["future"])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        run += loss.item()
    print("epoch", epoch, "train %.4f" % (run / len(train_dl)), "valid %.4f" % score(valid_set)[0])

loss, cover, batch = score(test_set)
naive = batch["past"][:, 24:24 + AHEAD]                            # same hours yesterday, with spread of its past errors
d = y[24:a] - y[:a - 24]
off = torch.tensor(np.quantile(d / std, QS), dtype=torch.float32)
print("test pinball %.4f  yesterday %.4f  climatology %.4f" % (
    loss, pinball(naive[:, None] + off[None, :, None], batch["future"]).item(),
    pinball(torch.tensor(np.quantile((y[:a] - mean) / std, QS), dtype=torch.float32).view(1, 3, 1).expand(len(naive), 3, AHEAD), batch["future"]).item()))
print("share below q10/q50/q90:", np.round(cover, 3))
