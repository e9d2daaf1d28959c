"""Only 70 labelled patients to train on (breast cancer data), so regularise hard."""
import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

torch.manual_seed(12)
X, y = load_breast_cancer(return_X_y=True)

# 70 train + 30 validation patients; everybody else is the test cohort
X_small, X_te, y_small, y_te = train_test_split(X, y, train_size=100, stratify=y, random_state=12)
X_tr, X_va, y_tr, y_va = train_test_split(X_small, y_small, test_size=30, stratify=y_small, random_state=12)

mean, std = X_tr.mean(0), X_tr.std(0)
prep = lambda a: torch.tensor((a - mean) / std, dtype=torch.float32)
X_tr, X_va, X_te = prep(X_tr), prep(X_va), prep(X_te)
y_tr, y_va, y_te = torch.tensor(y_tr), torch.tensor(y_va), torch.tensor(y_te)
print("train", tuple(X_tr.shape), "val", tuple(X_va.shape), "test", tuple(X_te.shape))

model = nn.Sequential(
    nn.Dropout(0.2),
    nn.Linear(30, 16), nn.ReLU(), nn.Dropout(0.5),
    nn.Linear(16, 2),
)
opt = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.3)
train_loss = nn.CrossEntropyLoss(label_smoothing=0.1)
plain_loss = nn.CrossEntropyLoss()

for epoch in range(60):
    model.train()
    tot = 0.0
    for b in torch.randperm(len(X_tr)).split(14):
        xb = X_tr[b] + 0.1 * torch.randn(len(b), 30)      # input noise
        loss = train_loss(model(xb), y_tr[b])
        opt.zero_grad()
        loss.backward()
        opt.step()
        tot += loss.item() * len(b)
    if (epoch + 1) % 10 == 0:
        model.eval()
        with torch.no_grad():
            out = model(X_va)
        print(f"epoch {epoch + 1} train {tot / len(X_tr):.3f} val {plain_loss(out, y_va).item():.3f} "
              f"val acc {(out.argmax(1) == y_va).float().mean():.3f}")

model.eval()
with torch.no_grad():
    acc = (model(X_te).argmax(1) == y_te).float().mean().item()
maj = (y_te == y_tr.mode().values).float().mean().item()
print(f"test accuracy on {len(y_te)} patients: {acc:.3f}  (always benign: {maj:.3f})")
