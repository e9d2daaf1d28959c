# %% [markdown]
# # Transfer learning on digits
# Pretrain on 0-5, then adapt to 6-9 with few labels: first the head, then everything with smaller
# rates for the early layers.

# %%
import copy
import numpy as np
import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
torch.manual_seed(3)
np.random.seed(3)

# %%
d = load_digits()
imgs = torch.from_numpy(d.images).float().unsqueeze(1) / 16
imgs = (imgs - 0.3) / 0.38
labels = torch.from_numpy(d.target).long()
src = np.flatnonzero(d.target < 6)
dst = np.flatnonzero(d.target >= 6)
src_tr, src_va = train_test_split(src, test_size=0.2, stratify=d.target[src], random_state=0)
dst_tr, dst_te = train_test_split(dst, train_size=160, stratify=d.target[dst], random_state=0)
dst_va, dst_te = train_test_split(dst_te, train_size=200, stratify=d.target[dst_te], random_state=0)


# %%
class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.block = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)

    def forward(self, x):
        return self.pool(self.block(self.stem(x))).flatten(1)


class Classifier(nn.Module):
    def __init__(self, backbone, n_out):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(128, n_out)

    def forward(self, x):
        return self.fc(self.backbone(x))


# %%
loss_fn = nn.CrossEntropyLoss()


def batches(index, bs):
    perm = np.random.permutation(index)
    for k in range(0, len(perm) - bs + 1, bs):
        yield perm[k:k + bs]


def evaluate(net, index, offset):
    net.eval()
    with torch.no_grad():
        out = net(imgs[index])
        t = labels[index] - offset
        return loss_fn(out, t).item(), (out.argmax(1) == t).float().mean().item()


def fit(net, opt, tr, va, offset, epochs, bs, tag, frozen=False):
    for ep in range(epochs):
        net.train()
        if frozen:
            net.backbone.eval()            # keep the BatchNorm statistics of the pretrained part
        for b in batches(tr, bs):
            opt.zero_grad()
            loss = loss_fn(net(imgs[b]), labels[b] - offset)
            loss.backward()
            opt.step()
        if (ep + 1) % 4 == 0:
            vl, vacc = evaluate(net, va, offset)
            print(f"{tag} epoch {ep + 1}: train {loss.item():.3f}  val {vl:.3f}  acc {vacc:.3f}")


# %% pretraining
net = Classifier(Backbone(), 6)
fit(net, torch.optim.Adam(net.parameters(), lr=2e-3), src_tr, src_va, 0, 8, 32, "pretrain")

# %% new head, frozen backbone
net2 = Classifier(copy.deepcopy(net.backbone), 4)
for p in net2.backbone.parameters():
    p.requires_grad = False
fit(net2, torch.optim.Adam(net2.fc.parameters(), lr=5e-3), dst_tr, dst_va, 6, 24, 16, "head", frozen=True)
print("test after head", evaluate(net2, dst_te, 6))

# %% unfreeze, discriminative learning rates
for p in net2.backbone.parameters():
    p.requires_grad = True
opt = torch.optim.Adam([{"params": net2.backbone.stem.parameters(), "lr": 1e-4},
                        {"params": net2.backbone.block.parameters(), "lr": 3e-4},
                        {"params": net2.fc.parameters(), "lr": 1e-3}])
fit(net2, opt, dst_tr, dst_va, 6, 20, 16, "all")
print("test after fine-tuning", evaluate(net2, dst_te, 6))
