"""Pretrain a small conv net on digits, freeze it, and train heads for two other questions with only 150 labels each."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

torch.set_num_threads(1)
torch.manual_seed(0)


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.fc = nn.Linear(24 * 2 * 2, 64)
        self.norm = nn.LayerNorm(64)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        return self.norm(torch.relu(self.fc(x.flatten(1))))


class Net(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x):
        return self.head(self.backbone(x))


digits = load_digits()
order = torch.randperm(len(digits.target))
HELD_OUT, PRETRAIN, LABELLED = order[:400], order[400:1600], order[1600:1750]


def load_task(question, train_idx):
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)
    x = (x - x[PRETRAIN].mean()) / x[PRETRAIN].std()
    y = torch.tensor([int(question(t)) for t in digits.target])
    return TensorDataset(x[train_idx], y[train_idx]), TensorDataset(x[HELD_OUT], y[HELD_OUT])


def fit(name, model, optimizer, train_set, val_set, epochs):
    loss_fn = nn.CrossEntropyLoss()
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    x_va, y_va = val_set.tensors
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        model.eval()
        with torch.no_grad():
            logits = model(x_va)
            val_loss = loss_fn(logits, y_va).item()
            acc = (logits.argmax(1) == y_va).float().mean().item()
        print(f"[{name}] epoch {epoch + 1}: train {total / len(train_set):.4f} val {val_loss:.4f} acc {acc:.3f}")
    return acc


# 1. pretraining: which digit is it?
backbone = Backbone()
train_set, val_set = load_task(lambda t: t, PRETRAIN)
model = Net(backbone, nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
fit("pretrain", model, optimizer, train_set, val_set, epochs=7)

# 2. freeze what was learned
for p in backbone.parameters():
    p.requires_grad = False

# 3. a new head: does the digit have a closed loop?
train_set, val_set = load_task(lambda t: t in (0, 6, 8, 9), LABELLED)
model = Net(backbone, nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.head.parameters(), lr=5e-3, weight_decay=1.0)
acc_loop = fit("loop", model, optimizer, train_set, val_set, epochs=20)

# 4. another one: is it odd?
train_set, val_set = load_task(lambda t: t % 2, LABELLED)
head = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, 2))
model = Net(backbone, head)
optimizer = torch.optim.AdamW(model.head.parameters(), lr=5e-3, weight_decay=1.0)
acc_odd = fit("odd", model, optimizer, train_set, val_set, epochs=20)

print(f"loop head: {acc_loop:.3f}, odd head: {acc_odd:.3f}")
