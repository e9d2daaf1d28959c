"""Matrix factorisation with biases on half-star ratings. 50,000 users, 8,000 items."""
import numpy as np
import torch
import torch.nn as nn

N_USERS, N_ITEMS, DIM, L2 = 50_000, 8_000, 4, 0.05


def make_ratings(n=520_000, seed=3):
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 0.6, N_USERS)
    popularity = 1.0 / (np.arange(N_ITEMS) + 50.0) ** 0.8
    rng.shuffle(popularity)
    u = rng.choice(N_USERS, n, p=activity / activity.sum())
    i = rng.choice(N_ITEMS, n, p=popularity / popularity.sum())
    # a user rates an item at most once
    pair = np.unique(u.astype(np.int64) * N_ITEMS + i)
    rng.shuffle(pair)
    u, i = pair // N_ITEMS, pair % N_ITEMS

    bu, bi = rng.normal(0, 0.45, N_USERS), rng.normal(0, 0.45, N_ITEMS)
    p, q = rng.normal(0, 1, (N_USERS, 2)), rng.normal(0, 1, (N_ITEMS, 2))
    taste = (p[u] * q[i]).sum(1) * 0.30
    r = 3.4 + bu[u] + bi[i] + taste + rng.normal(0, 0.45, len(u))
    r = np.clip(np.round(r * 2) / 2, 0.5, 5.0)
    return torch.from_numpy(u), torch.from_numpy(i), torch.from_numpy(r).float()


class MF(nn.Module):
    def __init__(self, mean):
        super().__init__()
        self.user = nn.Embedding(N_USERS, DIM)
        self.item = nn.Embedding(N_ITEMS, DIM)
        self.user_bias = nn.Embedding(N_USERS, 1)
        self.item_bias = nn.Embedding(N_ITEMS, 1)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, u, i):
        dot = (self.user(u) * self.item(i)).sum(1)
        return self.mean + dot + self.user_bias(u).squeeze(1) + self.item_bias(i).squeeze(1)

    def penalty(self, u, i):
        rows = torch.cat([self.user(u), self.item(i), self.user_bias(u), self.item_bias(i)], 1)
        return rows.pow(2).sum(1).mean()


def rmse(model, u, i, r):
    model.eval()
    with torch.no_grad():
        return (model(u, i) - r).pow(2).mean().sqrt().item()


def main():
    torch.manual_seed(3)
    u, i, r = make_ratings()
    n = len(r)
    n_val = n_test = n // 10
    # pairs were shuffled above, so slices are random splits
    test, val, train = slice(0, n_test), slice(n_test, n_test + n_val), slice(n_test + n_val, n)
    ut, it, rt = u[train], i[train], r[train]
    print(f"{len(rt)} train ratings, user ids {u.min().item()}..{u.max().item()}, item ids {i.min().item()}..{i.max().item()}")

    model = MF(rt.mean().item())
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    batch = 4096
    best, best_state = float("inf"), None
    for epoch in range(1, 7):
        model.train()
        order = torch.randperm(len(rt))
        running = 0.0
        for s in range(0, len(rt), batch):
            b = order[s:s + batch]
            mse = nn.functional.mse_loss(model(ut[b], it[b]), rt[b])
            loss = mse + L2 * model.penalty(ut[b], it[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
            running += mse.item() * len(b)
        v = rmse(model, u[val], i[val], r[val])
        print(f"epoch {epoch}  train rmse {(running / len(rt)) ** 0.5:.4f}  val rmse {v:.4f}")
        if v < best:
            best, best_state = v, {k: t.clone() for k, t in model.state_dict().items()}
        else:
            break  # val stopped improving

    model.load_state_dict(best_state)
    base = (r[test] - rt.mean()).pow(2).mean().sqrt().item()
    print(f"test RMSE {rmse(model, u[test], i[test], r[test]):.4f}  (global mean: {base:.4f})")


if __name__ == "__main__":
    main()
