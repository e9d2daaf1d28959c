"""Self-distillation (BYOL) on 8x8 digits: no labels, no negatives.
Few-label probe afterwards: 5 labels per class."""
import copy
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(0)
rng = np.random.default_rng(0)

imgs, labels = load_digits(return_X_y=True)
imgs = (imgs / 16.0).astype("float32").reshape(-1, 1, 8, 8)
x_un, x_te, y_un, y_te = train_test_split(imgs, labels, test_size=0.3, stratify=labels, random_state=0)
x_un, x_te = torch.from_numpy(x_un), torch.from_numpy(x_te)
PIX_MEAN, PIX_STD = x_un.mean(), x_un.std()


def view(x):
    """random small affine warp + brightness + pixel noise"""
    n = len(x)
    a = torch.empty(n).uniform_(-0.3, 0.3)
    s = torch.empty(n).uniform_(0.85, 1.15)
    sh = torch.empty(n).uniform_(-0.2, 0.2)
    th = torch.zeros(n, 2, 3)
    th[:, 0, 0], th[:, 0, 1] = s * a.cos(), -s * a.sin() + sh
    th[:, 1, 0], th[:, 1, 1] = s * a.sin(), s * a.cos()
    th[:, :, 2] = torch.empty(n, 2).uniform_(-0.25, 0.25)
    y = F.grid_sample(x, F.affine_grid(th, x.shape, align_corners=False), align_corners=False)
    y = y * torch.empty(n, 1, 1, 1).uniform_(0.7, 1.3) + 0.1 * torch.randn_like(y)
    return (y - PIX_MEAN) / PIX_STD


def mlp(i, h, o):
    return nn.Sequential(nn.Linear(i, h), nn.BatchNorm1d(h), nn.ReLU(), nn.Linear(h, o))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 64))
        self.projector = mlp(64, 128, 32)

    def forward(self, x):
        return self.projector(self.encoder(x))


online = Branch()
predictor = mlp(32, 64, 32)
teacher = copy.deepcopy(online)
for p in teacher.parameters():
    p.requires_grad_(False)

EPOCHS, BS = 14, 64
steps_total = EPOCHS * (len(x_un) // BS)
optim = torch.optim.AdamW([*online.parameters(), *predictor.parameters()], lr=2e-3, weight_decay=1e-4)
lr = torch.optim.lr_scheduler.OneCycleLR(optim, 2e-3, total_steps=steps_total, pct_start=0.1)


def regress(p, z):
    return 2 - 2 * F.cosine_similarity(p, z.detach(), dim=-1).mean()


@torch.no_grad()
def features(net, x):
    net.eval()
    h = net.encoder((x - PIX_MEAN) / PIX_STD)
    net.train()
    return h


@torch.no_grad()
def embedding_spread():
    z = F.normalize(features(teacher, x_te), dim=1)
    return z.std(0).mean().item() * z.shape[1] ** 0.5


untrained = copy.deepcopy(online)
k = 0
for epoch in range(EPOCHS):
    order, tot = torch.randperm(len(x_un)), 0.0
    for b in order[: len(order) // BS * BS].view(-1, BS):
        v1, v2 = view(x_un[b]), view(x_un[b])
        with torch.no_grad():
            t1, t2 = teacher(v1), teacher(v2)
        loss = (regress(predictor(online(v1)), t2) + regress(predictor(online(v2)), t1)) / 2
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        lr.step()
        tau = 1 - 0.03 * (np.cos(np.pi * k / steps_total) + 1) / 2
        with torch.no_grad():
            for pt, po in zip(teacher.parameters(), online.parameters()):
                pt.lerp_(po, 1 - tau)
        k += 1
        tot += loss.item()
    if epoch % 2 == 1:
        print(f"epoch {epoch + 1:2d} loss {tot / (len(order) // BS):.3f} spread {embedding_spread():.2f} (1 = uniform, 0 = collapsed)")


def few_label_probe(feats_un, feats_te, n_per=5, reps=5):
    accs = []
    for r in range(reps):
        g = np.random.default_rng(r)
        idx = np.concatenate([g.choice(np.flatnonzero(y_un == c), n_per, False) for c in range(10)])
        m, s = feats_un.mean(0), feats_un.std(0) + 1e-6
        clf = LogisticRegression(C=0.1, max_iter=500).fit((feats_un[idx] - m) / s, y_un[idx])
        accs.append(clf.score((feats_te - m) / s, y_te))
    return float(np.mean(accs))


print("5 labels/class, mean test accuracy over 5 draws")
print("  raw pixels      %.3f" % few_label_probe(x_un.flatten(1).numpy(), x_te.flatten(1).numpy()))
print("  untrained net   %.3f" % few_label_probe(features(untrained, x_un).numpy(), features(untrained, x_te).numpy()))
print("  BYOL            %.3f" % few_label_probe(features(teacher, x_un).numpy(), features(teacher, x_te).numpy()))
