# Explicit-feedback matrix factorisation: users x items, biases + dot product, minibatch Adam.
import numpy as np
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(1)
rs = np.random.RandomState(1)

# ---- ratings with popularity skew, rounded to half stars
N_USERS, N_ITEMS, K = 500, 300, 4
P = rs.randn(N_USERS, K) * .55
Q = rs.randn(N_ITEMS, K) * .55
bu, bi = rs.randn(N_USERS) * .3, rs.randn(N_ITEMS) * .4
pop = 1 / (np.arange(N_ITEMS) + 15.) ** .6
pop /= pop.sum()
pairs = np.concatenate([np.stack([np.full(m, u), rs.choice(N_ITEMS, m, replace=False, p=pop)], 1)
                        for u, m in enumerate(rs.randint(45, 130, N_USERS))])
rating = 3.4 + bu[pairs[:, 0]] + bi[pairs[:, 1]] + (P[pairs[:, 0]] * Q[pairs[:, 1]]).sum(1) + .35 * rs.randn(len(pairs))
rating = np.clip(np.round(rating * 2) / 2, .5, 5).astype("float32")

fold = rs.rand(len(pairs))
part = {"train": fold < .8, "valid": (fold >= .8) & (fold < .9), "test": fold >= .9}
users = {k: torch.from_numpy(pairs[m, 0]).long() for k, m in part.items()}
items = {k: torch.from_numpy(pairs[m, 1]).long() for k, m in part.items()}
stars = {k: torch.from_numpy(rating[m]) for k, m in part.items()}
print({k: len(v) for k, v in stars.items()})


class MF(nn.Module):
    def __init__(self, nu, ni, k, mu):
        super().__init__()
        self.user, self.item = nn.Embedding(nu, k), nn.Embedding(ni, k)
        self.user_b, self.item_b = nn.Embedding(nu, 1), nn.Embedding(ni, 1)
        self.register_buffer("mu", torch.tensor(mu))
        for e in (self.user, self.item):
            nn.init.normal_(e.weight, std=.1)
        for e in (self.user_b, self.item_b):
            nn.init.zeros_(e.weight)

    def forward(self, u, i):
        dot = (self.user(u) * self.item(i)).sum(-1)
        return self.mu + dot + self.user_b(u).squeeze(-1) + self.item_b(i).squeeze(-1)

    def penalty(self, u, i):
        return (self.user(u) ** 2).sum(-1).mean() + (self.item(i) ** 2).sum(-1).mean()


model = MF(N_USERS, N_ITEMS, 6, float(stars["train"].mean()))
optimizer = torch.optim.Adam(model.parameters(), lr=.01)
decay = torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 9], gamma=.3)


def rmse(which):
    with torch.no_grad():
        return ((model(users[which], items[which]) - stars[which]) ** 2).mean().sqrt().item()


n = len(stars["train"])
for epoch in range(11):
    perm = torch.randperm(n)
    for s in range(0, n, 512):
        j = perm[s:s + 512]
        u, i, r = users["train"][j], items["train"][j], stars["train"][j]
        err = (model(u, i) - r).pow(2).mean()
        loss = err + .03 * model.penalty(u, i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decay.step()
    print(f"[{epoch + 1:02d}] rmse train {rmse('train'):.3f} valid {rmse('valid'):.3f}")

# ---- biases only, ridge-damped, as the thing to beat
mu = stars["train"].mean().item()
ib, ub = np.zeros(N_ITEMS), np.zeros(N_USERS)
tu, ti, tr = (x["train"].numpy() for x in (users, items, stars))
for _ in range(10):
    ib = np.bincount(ti, tr - mu - ub[tu], N_ITEMS) / (np.bincount(ti, minlength=N_ITEMS) + 3)
    ub = np.bincount(tu, tr - mu - ib[ti], N_USERS) / (np.bincount(tu, minlength=N_USERS) + 3)
te = mu + ub[users["test"]] + ib[items["test"]] - stars["test"].numpy()
print(f"test rmse: mf {rmse('test'):.3f}  biases {np.sqrt((te ** 2).mean()):.3f}  mean {stars['test'].std().item():.3f}  (noise .35 + rounding)")
