"""Tumour screening: few malignant cases among many benign ones, weighted binary loss."""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(7)
np.random.seed(7)

N_MALIGNANT = 60
EPOCHS = 40
BATCH = 32


def load_table():
    data = load_breast_cancer()
    X = data.data
    y = 1 - data.target  # 1 = malignant
    benign = np.where(y == 0)[0]
    malignant = np.where(y == 1)[0][:N_MALIGNANT]
    rows = np.concatenate([benign, malignant])
    return X[rows].astype(np.float32), y[rows].astype(np.float32)


class Screener(nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(n_features, 32),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(32, 16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.body(x)).squeeze(1)


X, y = load_table()
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train = scaler.transform(X_train)
X_val = scaler.transform(X_val)

train_set = TensorDataset(torch.tensor(X_train), torch.tensor(y_train))
train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True)
X_val, y_val = torch.tensor(X_val), torch.tensor(y_val)

pos_weight = torch.tensor((y_train == 0).sum() / (y_train == 1).sum())
model = Screener(X_train.shape[1])
loss_fn = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)


def evaluate():
    model.eval()
    with torch.no_grad():
        logits = model(X_val)
        val_loss = loss_fn(logits, y_val).item()
    auc = roc_auc_score(y_val.numpy(), logits.numpy())
    balanced = balanced_accuracy_score(y_val.numpy(), logits.numpy() > 0)
    return val_loss, auc, balanced


for epoch in range(EPOCHS):
    model.train()
    total = 0.0
    for xb, yb in train_loader:
        optimizer.zero_grad()
        logits = model(xb)
        loss = loss_fn(logits, yb)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(xb)
    val_loss, auc, balanced = evaluate()
    if epoch % 4 == 0 or epoch == EPOCHS - 1:
        print(f"epoch {epoch:2d} train {total / len(train_set):.4f} val {val_loss:.4f} "
              f"auc {auc:.3f} balanced acc {balanced:.3f}")
