"""
Breast cancer classification with Monte Carlo dropout (Gal & Ghahramani 2016).

At test time the dropout layers stay active ON PURPOSE: we average the
probabilities of 50 stochastic passes and use the predictive entropy to decide
which patients to hand to a doctor.
"""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

SEED = 7
EPOCHS = 15
MC_SAMPLES = 50

torch.manual_seed(SEED)
np.random.seed(SEED)

X, y = load_breast_cancer(return_X_y=True)
X_trval, X_test, y_trval, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=SEED)
X_train, X_val, y_train, y_val = train_test_split(X_trval, y_trval, test_size=0.2, stratify=y_trval, random_state=SEED)

scaler = StandardScaler().fit(X_train)
X_train, X_val, X_test = [torch.tensor(scaler.transform(a), dtype=torch.float32) for a in (X_train, X_val, X_test)]
y_train_t = torch.tensor(y_train, dtype=torch.float32)
y_val_t = torch.tensor(y_val, dtype=torch.float32)

loader = DataLoader(TensorDataset(X_train, y_train_t), batch_size=32, shuffle=True)

model = nn.Sequential(
    nn.Linear(30, 64),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Linear(64, 64),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Linear(64, 1),
)
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)


def enable_mc_dropout(net):
    """Everything in eval mode, except the dropout layers, which keep sampling."""
    net.eval()
    for m in net.modules():
        if isinstance(m, nn.Dropout):
            m.train()


@torch.no_grad()
def mc_predict(net, x, n_samples=MC_SAMPLES):
    enable_mc_dropout(net)
    probs = torch.stack([torch.sigmoid(net(x)).squeeze(1) for _ in range(n_samples)])
    net.eval()
    return probs.mean(0), probs.std(0)


for epoch in range(EPOCHS):
    model.train()
    total = 0.0
    for xb, yb in loader:
        optimizer.zero_grad()
        loss = criterion(model(xb).squeeze(1), yb)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(xb)

    # validation is the plain deterministic network
    model.eval()
    with torch.no_grad():
        val_logits = model(X_val).squeeze(1)
        val_loss = criterion(val_logits, y_val_t).item()
        val_acc = ((val_logits > 0).float() == y_val_t).float().mean().item()
    if (epoch + 1) % 5 == 0:
        print(f"epoch {epoch + 1:2d} train {total / len(X_train):.4f} val {val_loss:.4f} val_acc {val_acc:.3f}")

mean_p, std_p = mc_predict(model, X_test)
p = mean_p.clamp(1e-6, 1 - 1e-6)
entropy = -(p * p.log() + (1 - p) * (1 - p).log())

pred = (mean_p > 0.5).int().numpy()
acc = accuracy_score(y_test, pred)
sure = (entropy.argsort()[: int(0.8 * len(entropy))]).numpy()  # the 80 % we are most sure about
print(f"test accuracy (MC dropout, {MC_SAMPLES} passes): {acc:.4f}")
print(f"test log loss: {log_loss(y_test, mean_p.numpy().astype(float)):.4f}")
print(f"accuracy on the 80 % most certain patients: {accuracy_score(y_test[sure], pred[sure]):.4f}")
print(f"mean spread of the passes: {std_p.mean():.4f}")
print(f"majority class baseline: {max(y_test.mean(), 1 - y_test.mean()):.4f}")
