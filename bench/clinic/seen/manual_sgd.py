# two-layer network for the breast cancer data, everything by hand
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer

torch.set_num_threads(1)
g = torch.Generator().manual_seed(9)

data = load_breast_cancer()
X = torch.tensor(data.data, dtype=torch.float32)
Y = torch.tensor(data.target)
perm = torch.randperm(len(X), generator=g)
X, Y = X[perm], Y[perm]
Xtr, Ytr = X[:440], Y[:440]
Xva, Yva = X[440:], Y[440:]
m, s = Xtr.mean(0), Xtr.std(0)
Xtr, Xva = (Xtr - m) / s, (Xva - m) / s

n_hidden = 24
W1 = torch.randn(30, n_hidden, generator=g) * (2 / 30) ** 0.5
b1 = torch.zeros(n_hidden)
W2 = torch.randn(n_hidden, 2, generator=g) * (1 / n_hidden) ** 0.5
b2 = torch.zeros(2)
params = [W1, b1, W2, b2]
for p in params:
    p.requires_grad_(True)


def forward(x):
    h = torch.relu(x @ W1 + b1)
    return h @ W2 + b2


lr = 0.05
decay = 1e-3
for step in range(1, 601):
    ix = torch.randint(0, len(Xtr), (32,), generator=g)
    logits = forward(Xtr[ix])
    loss = F.cross_entropy(logits, Ytr[ix])

    for p in params:
        p.grad = None
    loss.backward()
    with torch.no_grad():
        for p in params:
            p -= lr * (p.grad + decay * p)

    if step % 60 == 0:
        with torch.no_grad():
            tr = F.cross_entropy(forward(Xtr), Ytr)
            out = forward(Xva)
            va = F.cross_entropy(out, Yva)
            acc = (out.argmax(1) == Yva).float().mean()
        print(f"{step:4d}: train {tr.item():.4f} val {va.item():.4f} acc {acc.item():.3f}")
