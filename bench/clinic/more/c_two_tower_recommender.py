"""Two-tower recommender on implicit feedback: one click against a few sampled negatives."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(7)
rng = np.random.default_rng(7)

N_USERS, N_ITEMS, N_TASTES = 300, 400, 6
NEGATIVES = 4
EPOCHS = 14
BATCH = 256

# ---------------------------------------------------------------- synthetic shop
taste = rng.dirichlet(np.full(N_TASTES, 0.3), size=N_USERS)
genre = rng.dirichlet(np.full(N_TASTES, 0.3), size=N_ITEMS)
price = np.exp(rng.normal(3.0, 0.8, size=N_ITEMS))
year = rng.integers(1980, 2024, size=N_ITEMS)
budget = rng.normal(0, 1, size=N_USERS)
affinity = 12 * taste @ genre.T - 1.0 * np.abs(budget[:, None] - (np.log(price) - 3.0)[None, :] / 0.8)
affinity -= np.log(np.exp(affinity).mean(0))  # no item is a bestseller
prob = np.exp(affinity)
prob /= prob.sum(1, keepdims=True)
pairs = np.array([(u, i) for u in range(N_USERS)
                  for i in rng.choice(N_ITEMS, size=36, replace=False, p=prob[u])])
rng.shuffle(pairs)

item_feats = np.stack([np.log(price), year], axis=1).astype(np.float32)
item_feats = (item_feats - item_feats.mean(0)) / item_feats.std(0)
item_feats = torch.tensor(item_feats, dtype=torch.float32)

n_val = len(pairs) // 5
val_pairs = torch.from_numpy(pairs[:n_val])
train_pairs = torch.from_numpy(pairs[n_val:])

val_neg = torch.from_numpy(rng.integers(0, N_ITEMS, size=(n_val, NEGATIVES)))


class Tower(nn.Module):
    def __init__(self, n, extra=0, dim=16, hidden=32, out=16):
        super().__init__()
        self.emb = nn.Embedding(n, dim)
        nn.init.normal_(self.emb.weight, std=0.6)
        self.mlp = nn.Sequential(nn.Linear(dim + extra, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, out))

    def forward(self, ids, feats=None):
        x = self.emb(ids)
        if feats is not None:
            x = torch.cat([x, feats], dim=-1)
        return self.mlp(x)


class TwoTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.users = Tower(N_USERS)
        self.items = Tower(N_ITEMS, extra=2)
        self.bias = nn.Embedding(N_ITEMS, 1)
        nn.init.zeros_(self.bias.weight)

    def forward(self, u, items):
        """u: (B,), items: (B, K) -> scores (B, K)"""
        a = self.users(u).unsqueeze(1)
        b = self.items(items, item_feats[items])
        return (a * b).sum(-1) + self.bias(items).squeeze(-1)


def loss_fn(scores):
    # the first column is the click, the others were sampled
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1.0
    return F.binary_cross_entropy_with_logits(scores, labels)


model = TwoTower()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=3e-5)

for epoch in range(EPOCHS):
    model.train()
    order = torch.randperm(len(train_pairs))
    total = 0.0
    for start in range(0, len(order), BATCH):
        batch = train_pairs[order[start:start + BATCH]]
        users, clicked = batch[:, 0], batch[:, 1:]
        negatives = torch.randint(0, N_ITEMS, (len(batch), NEGATIVES))
        scores = model(users, torch.cat([clicked, negatives], dim=1))
        loss = loss_fn(scores)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)

    model.eval()
    with torch.no_grad():
        scores = model(val_pairs[:, 0], torch.cat([val_pairs[:, 1:], val_neg], dim=1))
        val_loss = loss_fn(scores).item()
        auc = (scores[:, :1] > scores[:, 1:]).float().mean().item()
    print(f"epoch {epoch + 1:2d}  train {total / len(order):.4f}  val {val_loss:.4f}  auc {auc:.3f}")
