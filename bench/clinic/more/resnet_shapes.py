# Tell circles, squares, crosses and rings apart on noisy 16x16 images with a small residual net.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(1)
rng = np.random.default_rng(1)


def draw(kind):
    yy, xx = np.mgrid[0:16, 0:16]
    cy, cx = rng.uniform(5, 10, 2)
    r = rng.uniform(2.5, 5)
    d = np.hypot(yy - cy, xx - cx)
    if kind == 0:
        img = d < r
    elif kind == 1:
        img = (abs(yy - cy) < r * 0.9) & (abs(xx - cx) < r * 0.9)
    elif kind == 2:
        img = ((abs(yy - cy) < 1) | (abs(xx - cx) < 1)) & (d < r + 1)
    else:
        img = abs(d - r) < 1
    return img + rng.normal(0, 0.15, (16, 16))


def make_data(n):
    labels = rng.integers(0, 4, n)
    images = np.stack([draw(k) for k in labels]).astype(np.float32)
    return torch.from_numpy(images)[:, None], torch.from_numpy(labels)


class Block(nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.short = nn.Identity() if cin == cout else nn.Sequential(
            nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.short(x))


class ResNet(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16, 2), Block(16, 32, 2))
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        h = self.blocks(self.stem(x))
        h = h.mean(dim=(2, 3))
        return self.fc(h)


x_train, y_train = make_data(1024)
x_val, y_val = make_data(400)
mean, std = x_train.mean(), x_train.std()
x_train, x_val = (x_train - mean) / std, (x_val - mean) / std

batch_size = 32
epochs = 8
train_loader = DataLoader(TensorDataset(x_train, y_train), batch_size=batch_size, shuffle=True)
val_loader = DataLoader(TensorDataset(x_val, y_val), batch_size=200)

model = ResNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * len(train_loader))

for epoch in range(epochs):
    model.train()
    running = 0.0
    for step, (images, labels) in enumerate(train_loader):
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        running += loss.item()

    model.eval()
    with torch.no_grad():
        val_loss, correct = 0.0, 0
        for images, labels in val_loader:
            logits = model(images)
            val_loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
    print(f"epoch {epoch} train_loss {running / len(train_loader):.4f} "
          f"val_loss {val_loss / len(x_val):.4f} val_acc {correct / len(x_val):.3f}")
