"""Siamese network: are two handwritten digits the same class?  Contrastive loss with a margin."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
SEED = 5
torch.manual_seed(SEED)
rng = np.random.RandomState(SEED)

MARGIN = 1.0
BATCH = 64
STEPS = 500
EVAL_EVERY = 50


class Tower(nn.Module):
    def __init__(self, dim_in=64, dim_hidden=96, dim_out=16, p=0.1):
        super().__init__()
        self.l1 = nn.Linear(dim_in, dim_hidden)
        self.l2 = nn.Linear(dim_hidden, dim_hidden)
        self.drop = nn.Dropout(p)
        self.out = nn.Linear(dim_hidden, dim_out)

    def forward(self, x):
        h = F.relu(self.l1(x))
        h = self.drop(F.relu(self.l2(h)))
        return self.out(h)


class Siamese(nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.tower = tower

    def forward(self, a, b):
        ea, eb = self.tower(a), self.tower(b)
        return torch.sqrt(((ea - eb) ** 2).sum(dim=1) + 1e-6)


def contrastive_loss(dist, same):
    pull = same * dist.pow(2)
    push = (1 - same) * F.relu(MARGIN - dist).pow(2)
    return (pull + push).mean()


class PairSampler:
    """Half of the pairs show the same digit, half show two different ones."""

    def __init__(self, X, y, rng):
        self.X, self.y, self.rng = X, y, rng
        self.by_class = {c: np.flatnonzero(y == c) for c in np.unique(y)}

    def sample(self, n, p_same=0.5):
        first = self.rng.randint(0, len(self.X), size=n)
        same = self.rng.rand(n) < p_same
        second = np.empty(n, dtype=np.int64)
        for k, i in enumerate(first):
            if same[k]:
                others = self.by_class[self.y[i]]
                second[k] = self.rng.choice(others[others != i])
            else:
                j = self.rng.randint(len(self.X))
                while self.y[j] == self.y[i]:
                    j = self.rng.randint(len(self.X))
                second[k] = j
        to = lambda idx: torch.tensor(self.X[idx], dtype=torch.float32)
        return to(first), to(second), torch.tensor(same, dtype=torch.float32)


digits = load_digits()
X = (digits.data - digits.data.mean()) / digits.data.std()
y = digits.target
Xtr, Xva, ytr, yva = train_test_split(X, y, test_size=0.25, stratify=y, random_state=SEED)
train_pairs = PairSampler(Xtr, ytr, rng)
val_a, val_b, val_same = PairSampler(Xva, yva, np.random.RandomState(99)).sample(600)

model = Siamese(Tower())
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)

recent = []
for step in range(1, STEPS + 1):
    a, b, same = train_pairs.sample(BATCH)
    dist = model(a, b)
    loss = contrastive_loss(dist, same)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    recent.append(loss.item())

    if step % EVAL_EVERY == 0:
        model.eval()
        with torch.no_grad():
            vd = model(val_a, val_b)
            vloss = contrastive_loss(vd, val_same)
        model.train()
        auc = roc_auc_score(val_same.numpy(), -vd.nan_to_num(0).numpy())
        print(f"step {step:4d} train {np.mean(recent):.4f} val {vloss.item():.4f} auc {auc:.3f}")
        recent = []
