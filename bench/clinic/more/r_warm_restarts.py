# SGDR on digits: momentum 0.95, peak rate 0.15, three cycles (40, 80, 160 ... in steps), ends at lr 0.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.svm import SVC

torch.set_num_threads(1)
torch.manual_seed(21)
X, y = load_digits(return_X_y=True)
tr, te = next(StratifiedShuffleSplit(1, test_size=0.33, random_state=21).split(X, y))
scale = lambda a: torch.tensor(a / 8.0 - 1.0, dtype=torch.float32)
Xtr, Xte = scale(X[tr]), scale(X[te])
ytr, yte = torch.tensor(y[tr]), torch.tensor(y[te])

net = nn.Sequential(nn.Linear(64, 96, bias=False), nn.BatchNorm1d(96), nn.ReLU(),
                    nn.Linear(96, 96, bias=False), nn.BatchNorm1d(96), nn.ReLU(),
                    nn.Linear(96, 10))
CYCLES = [100, 200, 400]
TOTAL = sum(CYCLES)
sgd = torch.optim.SGD(net.parameters(), lr=0.15, momentum=0.95, nesterov=True, weight_decay=5e-4)
sgdr = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd, T_0=CYCLES[0], T_mult=2, eta_min=0.0)
ends = set(np.cumsum(CYCLES))


def endless(n, bs):
    while True:
        p = torch.randperm(n)
        for i in range(0, n - bs + 1, bs):
            yield p[i:i + bs]


snapshots = []          # one set of test probabilities per cycle end
recent = []
for step, idx in zip(range(1, TOTAL + 1), endless(len(Xtr), 100)):
    net.train()
    xb = Xtr[idx] + 0.2 * torch.randn(len(idx), 64)
    loss = F.cross_entropy(net(xb), ytr[idx], label_smoothing=0.05)
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    lr_used = sgd.param_groups[0]["lr"]
    sgdr.step()
    recent.append(loss.item())
    if step in ends:
        net.eval()
        with torch.no_grad():
            out = net(Xte)
        snapshots.append(out.softmax(1))
        print(f"cycle end at {step}: lr {lr_used:.6f} train {np.mean(recent[-10:]):.3f} "
              f"test loss {F.cross_entropy(out, yte).item():.3f} acc {(out.argmax(1) == yte).float().mean().item():.4f}")

ens = torch.stack(snapshots).mean(0).argmax(1)
print(f"snapshot ensemble {(ens == yte).float().mean().item():.4f}")
print(f"linear SVM {SVC(kernel='linear', C=0.1).fit(Xtr, ytr).score(Xte, yte):.4f}")
