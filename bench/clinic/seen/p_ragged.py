"""Irregular vital-sign records: each patient has 4..28 visits, three float channels,
some channels missing at some visits.  Predict deterioration (binary) and next-day score (float)."""
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

torch.set_num_threads(1)


@dataclass
class Patient:
    t: np.ndarray        # hours since admission
    x: np.ndarray        # (L, 3), NaN where not measured
    bad: float
    score: float


def simulate(n, seed):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        L = rng.integers(4, 29)
        t = np.cumsum(rng.exponential(2.8, L))
        slope, amp, phase = rng.normal(0, 0.06), rng.gamma(2, 0.5), rng.uniform(0, 6.28)
        hr = 80 + 60 * slope * t / (1 + t / 40) + rng.normal(0, 3, L)
        bp = 120 + 8 * amp * np.sin(t / 4 + phase) + rng.normal(0, 3, L)
        temp = 37 + 0.3 * rng.normal(size=L) + (slope > 0.05) * 0.4
        x = np.stack([hr, bp, temp], 1)
        risk = 28 * slope + 1.3 * (amp - 1)
        x[rng.random(x.shape) < 0.2] = np.nan
        out.append(Patient(t, x, float(rng.random() < 1 / (1 + np.exp(-risk))), 30 * slope + amp + rng.normal(0, .3)))
    return out


class Records(Dataset):
    def __init__(self, patients, mean, std):
        self.rows = []
        for p in patients:
            seen = ~np.isnan(p.x)
            z = np.where(seen, (p.x - mean) / std, 0.0)
            dt = np.log1p(np.diff(p.t, prepend=p.t[0]))[:, None]
            feats = np.concatenate([z, seen, dt, p.t[:, None] / 80], 1).astype(np.float32)
            self.rows.append((torch.from_numpy(feats), p.bad, p.score))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class BucketSampler(Sampler):
    """Batches of similar length, in random order."""

    def __init__(self, lengths, size):
        self.lengths, self.size = np.asarray(lengths), size

    def __iter__(self):
        key = self.lengths + np.random.uniform(0, 4, len(self.lengths))
        groups = np.array_split(np.argsort(key), len(self))
        np.random.shuffle(groups)
        return iter([g.tolist() for g in groups])

    def __len__(self):
        return len(self.lengths) // self.size


def collate(rows):
    seqs, bad, score = zip(*rows)
    lens = torch.tensor([len(s) for s in seqs])
    x = pad_sequence(seqs, batch_first=True)
    mask = torch.arange(x.shape[1])[None] < lens[:, None]
    return {"x": x, "mask": mask, "bad": torch.tensor(bad), "score": torch.tensor(score, dtype=torch.float32)}


class AttnGRU(nn.Module):
    def __init__(self, d=8, h=40):
        super().__init__()
        self.gru = nn.GRU(d, h, batch_first=True)
        self.query = nn.Linear(h, 2)
        self.heads = nn.Sequential(nn.LayerNorm(2 * h), nn.Linear(2 * h, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 2))

    def forward(self, x, mask, **_):
        packed = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        a = self.query(h).masked_fill(~mask[..., None], float("-inf")).softmax(1)
        pooled = torch.einsum("bth,btk->bkh", h, a).flatten(1)
        logit, score = self.heads(pooled).unbind(1)
        return {"logit": logit, "score": score}


if __name__ == "__main__":
    torch.manual_seed(1); np.random.seed(1)
    tr, va, te = simulate(2400, 1), simulate(500, 2), simulate(800, 3)
    stacked = np.concatenate([p.x for p in tr])
    mean, std = np.nanmean(stacked, 0), np.nanstd(stacked, 0)
    sets = [Records(p, mean, std) for p in (tr, va, te)]
    loader = DataLoader(sets[0], batch_sampler=BucketSampler([len(r[0]) for r in sets[0].rows], 64), collate_fn=collate)
    whole = [collate(s.rows) for s in sets]
    sm, ss = whole[0]["score"].mean(), whole[0]["score"].std()
    net = AttnGRU()
    opt = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02)
    sch = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)
    for ep in range(6):
        net.train()
        running = []
        for b in loader:
            o = net(**b)
            loss = F.binary_cross_entropy_with_logits(o["logit"], b["bad"]) + F.smooth_l1_loss(o["score"], (b["score"] - sm) / ss)
            opt.zero_grad(); loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            opt.step()
            running.append(loss.item())
        sch.step()
        net.eval()
        with torch.no_grad():
            o = net(**whole[1])
        print({"epoch": ep, "loss": round(float(np.mean(running)), 3), "val_auc": round(roc_auc_score(whole[1]["bad"], o["logit"]), 3),
               "val_rmse": round((o["score"] * ss + sm - whole[1]["score"]).pow(2).mean().sqrt().item(), 3)})

    def summary(ps):   # hand-made features for a classical yardstick
        filled = [np.where(np.isnan(p.x), mean, p.x) for p in ps]
        return np.array([np.r_[f.mean(0), f.std(0), p.t[-1]] for f, p in zip(filled, ps)])
    mu, sd = summary(tr).mean(0), summary(tr).std(0)
    lr = LogisticRegression(max_iter=500).fit((summary(tr) - mu) / sd, [p.bad for p in tr])
    with torch.no_grad():
        o = net(**whole[2])
    y = whole[2]
    print("test auc %.3f (summary-feature logistic %.3f)" % (roc_auc_score(y["bad"], o["logit"]),
          roc_auc_score(y["bad"], lr.decision_function((summary(te) - mu) / sd))))
    print("test rmse %.3f (predict mean %.3f)" % ((o["score"] * ss + sm - y["score"]).pow(2).mean().sqrt(), (y["score"] - sm).pow(2).mean().sqrt()))
