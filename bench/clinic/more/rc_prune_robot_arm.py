"""Inverse dynamics of a two-link arm: joint state -> torques.  Gradual magnitude pruning to 80 % (Zhu & Gupta)."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.utils.prune as prune
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset


def arm_torques(q, dq, ddq, m1=1.2, m2=0.9, l1=0.5, l2=0.4, g=9.81):
    c2, s2 = np.cos(q[:, 1]), np.sin(q[:, 1])
    h11 = (m1 + m2) * l1 ** 2 + m2 * l2 ** 2 + 2 * m2 * l1 * l2 * c2
    h12 = m2 * l2 ** 2 + m2 * l1 * l2 * c2
    h22 = m2 * l2 ** 2
    cor = m2 * l1 * l2 * s2
    t1 = h11 * ddq[:, 0] + h12 * ddq[:, 1] - cor * (2 * dq[:, 0] * dq[:, 1] + dq[:, 1] ** 2)
    t1 += (m1 + m2) * g * l1 * np.cos(q[:, 0]) + m2 * g * l2 * np.cos(q[:, 0] + q[:, 1])
    t2 = h12 * ddq[:, 0] + h22 * ddq[:, 1] + cor * dq[:, 0] ** 2 + m2 * g * l2 * np.cos(q[:, 0] + q[:, 1])
    return np.stack([t1, t2], 1)


rng = np.random.default_rng(12)
N = 9000
q = rng.uniform(-np.pi, np.pi, (N, 2))
dq = rng.normal(0, 1.5, (N, 2))
ddq = rng.normal(0, 3.0, (N, 2))
torque = arm_torques(q, dq, ddq)
torque += rng.normal(0, 0.05, torque.shape) * torque.std(0)
inputs = np.hstack([np.sin(q), np.cos(q), dq, ddq])

n_tr, n_va = 6500, 1000
sx, sy = StandardScaler().fit(inputs[:n_tr]), StandardScaler().fit(torque[:n_tr])
X = torch.tensor(sx.transform(inputs), dtype=torch.float32)
Y = torch.tensor(sy.transform(torque), dtype=torch.float32)
tr, va, te = slice(0, n_tr), slice(n_tr, n_tr + n_va), slice(n_tr + n_va, N)

torch.manual_seed(12)
model = nn.Sequential(nn.Linear(8, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))
targets = [(m, "weight") for m in model if isinstance(m, nn.Linear)][:2]      # leave the output layer dense
n_weights = sum(m.weight.numel() for m, _ in targets)

loader = DataLoader(TensorDataset(X[tr], Y[tr]), batch_size=128, shuffle=True, drop_last=True)
EPOCHS = 15
STEPS = EPOCHS * len(loader)
FINAL, START, STOP, EVERY = 0.80, int(0.25 * STEPS), int(0.7 * STEPS), 20

for m, name in targets:
    prune.identity(m, name)
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, STEPS, eta_min=1e-5)


def sparsity():
    return 1 - sum(m.weight_mask.sum().item() for m, _ in targets) / n_weights


def r2(part):
    model.eval()
    with torch.no_grad():
        err = ((model(X[part]) - Y[part]) ** 2).sum(0)
    model.train()
    return (1 - err / ((Y[part] - Y[part].mean(0)) ** 2).sum(0)).mean().item()


step = 0
for epoch in range(EPOCHS):
    total = 0.0
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
        total += loss.item()
        step += 1
        if START <= step <= STOP and (step - START) % EVERY == 0:
            done = (step - START) / (STOP - START)
            goal = FINAL * (1 - (1 - done) ** 3)
            extra = round(goal * n_weights) - round(sparsity() * n_weights)
            if extra > 0:
                prune.global_unstructured(targets, prune.L1Unstructured, amount=extra)
    print(f"epoch {epoch:2d}  train mse {total / len(loader):.4f}  val R2 {r2(va):.4f}  sparsity {sparsity():.2f}")

for m, name in targets:
    prune.remove(m, name)
zero = sum((m.weight == 0).sum().item() for m, _ in targets) / n_weights
ridge = Ridge().fit(X[tr], Y[tr]).score(X[te], Y[te])
print(f"test R2 {r2(te):.4f} at {zero:.0%} zeros   (ridge regression {ridge:.4f}, mean 0)")
