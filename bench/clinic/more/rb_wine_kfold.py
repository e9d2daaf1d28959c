#!/usr/bin/env python
# coding: utf-8

# # Wine cultivars, 5-fold cross-validation

# In[1]:

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

# In[2]:

X, y = load_wine(return_X_y=True)
print(X.shape, np.bincount(y))

# In[3]:


def make_model():
    return nn.Sequential(
        nn.Linear(13, 32),
        nn.ReLU(),
        nn.Linear(32, 3),
    )


def train_one_fold(X_tr, y_tr, epochs=15, lr=5e-3):
    dl = DataLoader(
        TensorDataset(torch.tensor(X_tr, dtype=torch.float32), torch.tensor(y_tr)),
        batch_size=16, shuffle=True)
    net = make_model()
    optim = torch.optim.Adam(net.parameters(), lr=lr, weight_decay=1e-4)
    ce = nn.CrossEntropyLoss()
    for ep in range(epochs):
        net.train()
        tot = 0
        for xb, yb in dl:
            optim.zero_grad()
            loss = ce(net(xb), yb)
            loss.backward()
            optim.step()
            tot += loss.item() * len(xb)
    return net, tot / len(X_tr)


# In[4]:

scores, base = [], []
skf = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
for fold, (tr, te) in enumerate(skf.split(X, y)):
    torch.manual_seed(fold)
    sc = StandardScaler().fit(X[tr])          # fitted inside the fold
    net, last_loss = train_one_fold(sc.transform(X[tr]), y[tr])
    net.eval()
    with torch.no_grad():
        pred = net(torch.tensor(sc.transform(X[te]), dtype=torch.float32)).argmax(1).numpy()
    acc = (pred == y[te]).mean()
    scores.append(acc)
    base.append((y[te] == np.bincount(y[tr]).argmax()).mean())
    print(f"fold {fold}: last train loss {last_loss:.4f}, held-out accuracy {acc:.4f}")

# In[5]:

print(f"cross-validated accuracy {np.mean(scores):.4f} +- {np.std(scores):.4f}, majority class {np.mean(base):.4f}")
