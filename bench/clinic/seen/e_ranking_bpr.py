# Recommender with implicit feedback: embeddings + small MLP, BPR loss, sampled negatives.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
rng = np.random.default_rng(3)
torch.manual_seed(3)

# ---- synthetic log of (user, product number) -------------------------------------------------
n_users, n_products, n_clicks, d_true = 500, 150, 40, 4
taste = rng.normal(size=(n_users, d_true))
style = rng.normal(size=(n_products, d_true))
utility = 2.5 * taste @ style.T / np.sqrt(d_true) + 0.5 * rng.normal(size=n_products)
product_no = np.sort(rng.choice(10**13, size=n_products, replace=False))   # shop-wide numbers
clicks = np.argsort(-(utility + rng.gumbel(size=utility.shape)), axis=1)[:, :n_clicks]
clicks = rng.permuted(clicks, axis=1)                    # no meaning in the order of a user's clicks
log = [(u, product_no[i]) for u in range(n_users) for i in clicks[u]]

# ---- ids, split: the last two clicks of every user are held out -------------------------------
catalogue, items = np.unique([p for _, p in log], return_inverse=True)
n_items = len(catalogue)
items = torch.tensor(items).view(n_users, n_clicks)
train_items, val_items, test_items = items[:, :-2], items[:, -2], items[:, -1]
users = torch.arange(n_users)
pairs = torch.stack([users.repeat_interleave(train_items.shape[1]), train_items.reshape(-1)], dim=1)
seen = torch.zeros(n_users, n_items, dtype=torch.bool)
seen[pairs[:, 0], pairs[:, 1]] = True
clicked = seen.clone()
clicked[users, val_items] = True


# ---- model -----------------------------------------------------------------------------------
class Ranker(nn.Module):
    def __init__(self, n_users, n_items, dim=16):
        super().__init__()
        self.user = nn.Embedding(n_users, dim)
        self.item = nn.Embedding(n_items, dim)
        nn.init.normal_(self.user.weight, std=0.1)
        nn.init.normal_(self.item.weight, std=0.1)
        self.drop = nn.Dropout(0.3)
        self.mlp = nn.Sequential(nn.Linear(3 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, u, i):
        pu, qi = self.user(u), self.item(i)
        z = self.drop(torch.cat([pu, qi, 4 * pu * qi], dim=-1))
        return (pu * qi).sum(-1) + self.mlp(z).squeeze(-1)


def bpr(pos, neg):
    return -F.logsigmoid(pos - neg).mean()


def sample_negatives(u, mask):
    neg = torch.randint(n_items, u.shape)
    for _ in range(5):
        bad = mask[u, neg]
        neg[bad] = torch.randint(n_items, (int(bad.sum()),))
    return neg


model = Ranker(n_users, n_items)
optimizer = torch.optim.Adam(model.parameters(), lr=0.007, weight_decay=7e-4)
batch_size, epochs = 768, 14
val_neg = sample_negatives(users.repeat(10), clicked)    # fixed, so that the numbers are comparable


def validate(target, known):
    model.eval()
    with torch.no_grad():
        pos = model(users.repeat(10), target.repeat(10))
        loss = bpr(pos, model(users.repeat(10), val_neg)).item()
        scores = model(users[:, None].expand(-1, n_items), torch.arange(n_items).expand(n_users, -1))
        scores = scores.masked_fill(known, float("-inf"))
        hits = (scores.topk(10, dim=1).indices == target[:, None]).any(1).float().mean().item()
    model.train()
    return loss, hits


# ---- training --------------------------------------------------------------------------------
model.train()
for epoch in range(epochs):
    perm = torch.randperm(len(pairs))
    total = 0.0
    for start in range(0, len(pairs), batch_size):
        batch = pairs[perm[start:start + batch_size]]
        u, i = batch[:, 0], batch[:, 1]
        j = sample_negatives(u, seen)
        loss = bpr(model(u, i), model(u, j))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(u)
    val_loss, val_hr = validate(val_items, seen)
    print(f"epoch {epoch + 1:2d} train bpr {total / len(pairs):.4f} val bpr {val_loss:.4f} HR@10 {val_hr:.3f}")

test_loss, test_hr = validate(test_items, clicked)
popular = seen.sum(0).float().expand(n_users, -1).masked_fill(clicked, -1.0)
pop_hr = (popular.topk(10, dim=1).indices == test_items[:, None]).any(1).float().mean().item()
print(f"test bpr {test_loss:.4f} HR@10 {test_hr:.3f} (most popular: {pop_hr:.3f})")
