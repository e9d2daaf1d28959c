#!/usr/bin/env python
# coding: utf-8

# # Waveform classifier
# sine / square / sawtooth / amplitude-modulated tone, noisy, 128 samples each

# In[1]:


import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

rng = np.random.default_rng(42)
torch.manual_seed(42)


# In[2]:


def wave(kind, n=128):
    t = np.linspace(0, 1, n, endpoint=False)
    f = rng.uniform(3, 9)
    ph = rng.uniform(0, 1)
    arg = f * t + ph
    if kind == 0:
        w = np.sin(2 * np.pi * arg)
    elif kind == 1:
        w = np.sign(np.sin(2 * np.pi * arg))
    elif kind == 2:
        w = 2 * (arg % 1) - 1
    else:
        w = np.sin(2 * np.pi * arg) * (0.6 + 0.6 * np.sin(2 * np.pi * (rng.uniform(1, 2) * t + rng.uniform())))
    return rng.uniform(0.6, 1.4) * w + rng.normal(0, 0.35, n)


def make(n):
    k = rng.integers(0, 4, n)
    x = np.stack([wave(i) for i in k]).astype("float32")
    return torch.from_numpy(x).unsqueeze(1), torch.from_numpy(k)


x_train, y_train = make(3000)
x_val, y_val = make(600)
x_test, y_test = make(800)
m, s = x_train.mean(), x_train.std()
x_train, x_val, x_test = [(x - m) / s for x in (x_train, x_val, x_test)]
loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True, drop_last=True)
y_train.bincount()


# In[3]:


model = nn.Sequential(
    nn.Conv1d(1, 16, 9, stride=2, padding=4), nn.BatchNorm1d(16), nn.ReLU(),
    nn.Conv1d(16, 32, 5, stride=2, padding=2), nn.BatchNorm1d(32), nn.ReLU(),
    nn.Conv1d(32, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(),
    nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    nn.Linear(32, 4),
)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
# cycles of 1, 2 and 4 epochs
scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=1e-5)


# In[4]:


def check(x, y):
    model.eval()
    with torch.no_grad():
        logits = model(x)
    return criterion(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


history = []
for epoch in range(7):
    model.train()
    for i, (xb, yb) in enumerate(loader):
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        scheduler.step(epoch + i / len(loader))
        history.append(loss.item())
    vl, va = check(x_val, y_val)
    lr = optimizer.param_groups[0]["lr"]
    print(f"epoch {epoch + 1}: lr {lr:.5f} train {np.mean(history[-len(loader):]):.3f} val {vl:.3f} acc {va:.3f}")


# In[5]:


tl, ta = check(x_test, y_test)
print("test acc %.3f | guessing the commonest class %.3f" % (ta, (y_test == y_train.bincount().argmax()).float().mean()))
