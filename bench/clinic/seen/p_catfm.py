"""Click prediction from a purely categorical table.

Every row is six integer codes (user segment, device, hour, advertiser, slot,
page topic).  All fields share ONE embedding matrix, with per-field offsets, in
the manner of a factorization machine plus a small MLP on top (DeepFM).
"""
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(11)

FIELDS = dict(segment=40, device=5, hour=24, advertiser=60, slot=8, topic=25)
CARDS = list(FIELDS.values())


def simulate(n, rng):
    """Codes are drawn with a long tail; clicks follow main effects + pair effects."""
    cols = []
    for c in CARDS:
        p = 1.0 / np.arange(1, c + 1) ** 0.6
        cols.append(rng.choice(c, size=n, p=p / p.sum()))
    X = np.stack(cols, 1)
    main = [rng.normal(0, 0.35, c) for c in CARDS]
    z = sum(w[X[:, j]] for j, w in enumerate(main))
    taste_u, taste_t = rng.normal(size=(40, 2)), rng.normal(size=(25, 2))
    z = z + 0.9 * (taste_u[X[:, 0]] * taste_t[X[:, 5]]).sum(1)
    dev_adv = rng.normal(size=(5, 60))
    z = z + 0.5 * dev_adv[X[:, 1], X[:, 3]] - 1.2
    return X, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(np.float32), z


class DeepFM(nn.Module):
    def __init__(self, cards, dim=8, hidden=48):
        super().__init__()
        self.register_buffer("offset", torch.tensor([0] + cards[:-1]).cumsum(0))
        self.factors = nn.Embedding(sum(cards), dim)
        self.linear = nn.Embedding(sum(cards), 1)
        nn.init.normal_(self.factors.weight, std=0.1)
        nn.init.zeros_(self.linear.weight)
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = nn.Sequential(nn.Linear(dim * len(cards), hidden), nn.ReLU(), nn.Dropout(0.2),
                                  nn.Linear(hidden, 1))

    def forward(self, codes):
        idx = codes + self.offset
        v = self.factors(idx)                                   # (B, F, D)
        pair = 0.5 * (v.sum(1) ** 2 - (v ** 2).sum(1)).sum(1)
        return self.bias + self.linear(idx).sum((1, 2)) + pair + self.deep(v.flatten(1)).squeeze(1)


X, y, z = simulate(30000, np.random.default_rng(5))
ntr, nva = 22000, 26000
Xt, yt = torch.from_numpy(X).long(), torch.from_numpy(y)
train = DataLoader(TensorDataset(Xt[:ntr], yt[:ntr]), batch_size=256, shuffle=True, drop_last=True)

net = DeepFM(CARDS)
opt = torch.optim.AdamW([
    {"params": [net.factors.weight, net.linear.weight], "lr": 5e-3, "weight_decay": 2e-2},
    {"params": [net.bias, *net.deep.parameters()], "lr": 2e-3, "weight_decay": 1e-2},
])
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=6)
criterion = nn.BCEWithLogitsLoss()


def evaluate(lo, hi):
    net.eval()
    with torch.no_grad():
        p = torch.sigmoid(net(Xt[lo:hi])).numpy()
    net.train()
    return log_loss(y[lo:hi], p), roc_auc_score(y[lo:hi], p)


for epoch in range(6):
    total = 0.0
    for codes, click in train:
        opt.zero_grad()
        loss = criterion(net(codes), click)
        loss.backward()
        opt.step()
        total += loss.item()
    sched.step()
    print("epoch %d train %.4f  valid logloss %.4f auc %.4f" % (epoch, total / len(train), *evaluate(ntr, nva)))

enc = OneHotEncoder(handle_unknown="ignore").fit(X[:ntr])
lr = LogisticRegression(max_iter=300, C=1.0).fit(enc.transform(X[:ntr]), y[:ntr])
p_lr = lr.predict_proba(enc.transform(X[nva:]))[:, 1]
base = np.full(len(y) - nva, y[:ntr].mean())
print("test: DeepFM %.4f / %.4f" % evaluate(nva, len(y)))
print("test: logistic %.4f / %.4f   constant %.4f   oracle %.4f" % (
    log_loss(y[nva:], p_lr), roc_auc_score(y[nva:], p_lr), log_loss(y[nva:], base),
    log_loss(y[nva:], 1 / (1 + np.exp(-z[nva:])))))
