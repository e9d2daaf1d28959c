"""Small residual network on the 8x8 digits, with random shifts, SGD with momentum and cosine restarts."""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(7)
np.random.seed(7)

EPOCHS = 14
BATCH_SIZE = 64
LR = 0.05


class DigitImages(Dataset):
    def __init__(self, images, labels, augment=False, seed=0):
        self.images = images
        self.labels = labels
        self.augment = augment
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        img = self.images[i]
        if self.augment:
            img = self.jitter(img)
        return torch.from_numpy(img[None].astype(np.float32)), int(self.labels[i])

    def jitter(self, img):
        dy, dx = self.rng.integers(-1, 2, size=2)
        img = np.roll(img, (dy, dx), axis=(0, 1))
        return img + self.rng.normal(0.0, 0.1, size=img.shape)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.short = nn.Sequential()
        if stride != 1 or c_in != c_out:
            self.short = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.short(x))


class TinyResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.layer1 = Block(12, 12)
        self.layer2 = Block(12, 24, stride=2)
        self.neck = nn.Sequential(nn.Linear(24 * 4, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU())
        self.fc = nn.Linear(48, num_classes)

    def forward(self, x):
        h = self.layer2(self.layer1(self.stem(x)))
        h = nn.functional.avg_pool2d(h, 2)
        h = self.neck(h.flatten(1))
        return self.fc(h)


def train_epoch(model, loader, criterion, optimizer):
    model.train()
    total, seen = 0.0, 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        seen += len(y)
    return total / seen


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    total, correct, seen = 0.0, 0, 0
    for x, y in loader:
        logits = model(x)
        total += criterion(logits, y).item() * len(y)
        correct += (logits.argmax(1) == y).sum().item()
        seen += len(y)
    return total / seen, correct / seen


if __name__ == "__main__":
    digits = load_digits()
    images, labels = digits.images, digits.target
    x_train, x_val, y_train, y_val = train_test_split(images, labels, test_size=0.35, stratify=labels, random_state=0)
    mean, std = x_train.mean(), x_train.std()
    x_train, x_val = (x_train - mean) / std, (x_val - mean) / std

    train_loader = DataLoader(DigitImages(x_train, y_train, augment=True), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    val_loader = DataLoader(DigitImages(x_val, y_val), batch_size=256)

    model = TinyResNet()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)

    for epoch in range(EPOCHS):
        train_loss = train_epoch(model, train_loader, criterion, optimizer)
        val_loss, val_acc = evaluate(model, val_loader, criterion)
        scheduler.step()
        print(f"epoch {epoch + 1:2d}  train {train_loss:.4f}  val {val_loss:.4f}  acc {val_acc:.3f}  lr {scheduler.get_last_lr()[0]:.4f}")
