"""Ordinal regression (cumulative logits, CORAL style) on questionnaire answers.

Each respondent answers 20 Likert items (0..4, some left blank = 5) and we predict a five-level
severity grade made by a rater.  Early stopping on validation MAE, best weights restored.
"""
import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from sklearn.metrics import cohen_kappa_score
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.set_num_threads(1)
SEED, ITEMS, LEVELS = 12, 20, 5


def make_survey(n, seed):
    g = np.random.default_rng(seed)
    traits = g.normal(size=(n, 3))
    load = g.normal(size=(3, ITEMS)) * (g.random((3, ITEMS)) < .5) + .4 * g.normal(size=(3, ITEMS))
    raw = traits @ load + .7 * g.normal(size=(n, ITEMS))
    answers = np.stack([np.digitize(c, np.quantile(c, [.2, .45, .7, .9])) for c in raw.T], 1)
    answers[g.random((n, ITEMS)) < .06] = 5                       # blank
    severity = traits[:, 0] + .5 * traits[:, 1] + .5 * traits[:, 0] * traits[:, 2] + .3 * g.normal(size=n)
    grade = np.digitize(severity, np.quantile(severity, [.4, .65, .82, .93]))
    return answers, grade


class OrdinalNet(nn.Module):
    """One score, K-1 ordered cut points (softplus gaps keep them ordered)."""

    def __init__(self, dim=8):
        super().__init__()
        self.item = nn.Embedding(ITEMS * 6, dim)
        self.register_buffer("shift", torch.arange(ITEMS) * 6)
        self.norm = nn.LayerNorm(ITEMS * dim)
        self.body = nn.Sequential(nn.Linear(ITEMS * dim, 48), nn.GELU(), nn.Dropout(.3), nn.Linear(48, 1))
        self.first = nn.Parameter(torch.tensor(-1.))
        self.gaps = nn.Parameter(torch.zeros(LEVELS - 2))

    def cuts(self):
        return torch.cat([self.first[None], self.first + F.softplus(self.gaps).cumsum(0)])

    def forward(self, answers):
        h = self.item(answers + self.shift).flatten(1)
        return self.body(self.norm(h)) - self.cuts()              # (B, K-1): logit P(y > k)


def ordinal_loss(logits, y):
    above = (y[:, None] > torch.arange(LEVELS - 1)).float()
    return F.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1).mean()


@torch.no_grad()
def predict(model, loader):
    model.eval()
    out = [((model(a) > 0).sum(1), y, ordinal_loss(model(a), y) * len(y)) for a, y in loader]
    p, y, l = zip(*out)
    p, y = torch.cat(p), torch.cat(y)
    return p, y, (p - y).abs().float().mean().item(), (sum(l) / len(y)).item()


def main():
    torch.manual_seed(SEED)
    answers, grade = make_survey(6000, SEED)
    data = TensorDataset(torch.from_numpy(answers), torch.from_numpy(grade))
    gen = torch.Generator().manual_seed(SEED)
    train, valid, test = random_split(data, [4200, 800, 1000], generator=gen)
    loaders = [DataLoader(train, 100, shuffle=True, generator=gen), DataLoader(valid, 400), DataLoader(test, 500)]
    model = OrdinalNet()
    opt = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=.05)
    best, keep, wait = float("inf"), None, 0
    for epoch in range(18):
        model.train()
        seen = []
        for a, y in loaders[0]:
            opt.zero_grad()
            loss = ordinal_loss(model(a), y)
            loss.backward()
            opt.step()
            seen.append(loss.item())
        _, _, mae, vloss = predict(model, loaders[1])
        print(f"{epoch:2d} train {np.mean(seen):.3f} valid {vloss:.3f} mae {mae:.3f}")
        if vloss < best:
            best, keep, wait = vloss, copy.deepcopy(model.state_dict()), 0
        else:
            wait += 1
            if wait == 3:
                break
    model.load_state_dict(keep)
    p, y, mae, _ = predict(model, loaders[2])
    onehot = np.eye(6)[answers].reshape(len(answers), -1)
    ridge = Ridge(10.).fit(onehot[train.indices], grade[train.indices])
    rp = np.clip(np.rint(ridge.predict(onehot[test.indices])), 0, 4).astype(int)
    yt = grade[test.indices]
    print(f"test mae {mae:.3f} (ridge {np.abs(rp - yt).mean():.3f}, median {np.abs(np.median(grade[train.indices]) - yt).mean():.3f})"
          f"  kappa {cohen_kappa_score(p, y, weights='quadratic'):.3f} (ridge {cohen_kappa_score(rp, yt, weights='quadratic'):.3f})")


if __name__ == "__main__":
    main()
