# segment digits pasted on a noisy canvas: background / small digit (0-4) / large digit (5-9)
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, DataLoader

torch.set_num_threads(1)
SEED = 11
N_CLASSES = 3
SIZE = 20


class CanvasDataset(Dataset):
    def __init__(self, images, labels, n, seed):
        rng = np.random.default_rng(seed)
        self.x = np.zeros((n, 1, SIZE, SIZE), dtype=np.float32)
        self.y = np.zeros((n, SIZE, SIZE), dtype=np.int64)
        for i in range(n):
            for col in (0, 10):      # two digits per canvas
                k = rng.integers(len(images))
                r, c = rng.integers(0, SIZE - 8), col + rng.integers(0, 3)
                self.x[i, 0, r:r + 8, c:c + 8] = images[k]
                ink = images[k] > 0.25
                self.y[i, r:r + 8, c:c + 8][ink] = 1 if labels[k] < 5 else 2
        self.x += 0.05 * rng.standard_normal(self.x.shape).astype(np.float32)
        self.x = (self.x - 0.15) / 0.3

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return torch.from_numpy(self.x[i]), torch.from_numpy(self.y[i])


def conv_block(cin, cout, dilation=1):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


class FCN(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.enc1 = conv_block(1, width)
        self.enc2 = conv_block(width, 2 * width)
        self.mid = conv_block(2 * width, 2 * width, dilation=2)
        self.dec = conv_block(3 * width, width)
        self.head = nn.Conv2d(width, N_CLASSES, 1)

    def forward(self, x):
        a = self.enc1(x)
        b = self.mid(self.enc2(F.max_pool2d(a, 2)))
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        return self.head(self.dec(torch.cat([a, b], dim=1)))


def mean_iou(pred, target):
    ious = []
    for c in range(N_CLASSES):
        inter = ((pred == c) & (target == c)).sum().item()
        union = ((pred == c) | (target == c)).sum().item()
        ious.append(inter / max(union, 1))
    return sum(ious) / len(ious)


def run_validation(net, loader, criterion):
    net.eval()
    losses, preds, targets = [], [], []
    with torch.no_grad():
        for x, y in loader:
            out = net(x)
            losses.append(criterion(out, y).item())
            preds.append(out.argmax(1))
            targets.append(y)
    return np.mean(losses), mean_iou(torch.cat(preds), torch.cat(targets))


if __name__ == "__main__":
    torch.manual_seed(SEED)
    digits = load_digits()
    imgs, labs = digits.images / 16.0, digits.target
    train_ds = CanvasDataset(imgs[:1400], labs[:1400], 500, seed=1)
    val_ds = CanvasDataset(imgs[1400:], labs[1400:], 60, seed=2)
    train_dl = DataLoader(train_ds, batch_size=20, shuffle=True)
    val_dl = DataLoader(val_ds, batch_size=50)

    net = FCN()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-4)
    n_epochs = 8
    lr_sched = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=n_epochs * len(train_dl))

    for epoch in range(1, n_epochs + 1):
        net.train()
        total = 0.0
        for x, y in train_dl:
            logits = net(x)
            loss = criterion(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_sched.step()
            total += loss.item()
        vloss, miou = run_validation(net, val_dl, criterion)
        print(f"[{epoch}] loss {total / len(train_dl):.4f} val_loss {vloss:.4f} mIoU {miou:.3f}")
