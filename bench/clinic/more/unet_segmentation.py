# Segment discs and squares in noisy synthetic pictures with a small U-Net.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(5)

SIZE = 24
CLASSES = 3  # background, disc, square
EPOCHS = 10


def draw(rng):
    """A picture with values 0..255 and its mask."""
    image = rng.normal(90, 18, (SIZE, SIZE))
    mask = np.zeros((SIZE, SIZE), dtype=np.int64)
    yy, xx = np.mgrid[:SIZE, :SIZE]
    for kind in (1, 2):
        cy, cx = rng.integers(5, SIZE - 5, 2)
        r = rng.integers(3, 6)
        if kind == 1:
            inside = (yy - cy) ** 2 + (xx - cx) ** 2 <= r * r
        else:
            inside = (abs(yy - cy) <= r - 1) & (abs(xx - cx) <= r - 1)
        image[inside] = rng.normal(150 + 40 * (kind - 1), 18, inside.sum())
        mask[inside] = kind
    return image.clip(0, 255).astype(np.float32), mask


class Shapes(Dataset):
    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        drawn = [draw(rng) for _ in range(n)]
        self.images = np.stack([d[0] for d in drawn])
        self.masks = np.stack([d[1] for d in drawn])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = (self.images[i] - 110.0) / 45.0
        return torch.from_numpy(image)[None], torch.from_numpy(self.masks[i])


def block(cin, cout):
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(),
    )


class UNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.enc1 = block(1, c)
        self.enc2 = block(c, 2 * c)
        self.mid = block(2 * c, 4 * c)
        self.up2 = nn.ConvTranspose2d(4 * c, 2 * c, 2, stride=2)
        self.dec2 = block(4 * c, 2 * c)
        self.up1 = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.dec1 = block(2 * c, c)
        self.head = nn.Conv2d(c, CLASSES, 1)

    def forward(self, x):
        e1 = self.enc1(x)
        e2 = self.enc2(F.max_pool2d(e1, 2))
        m = self.mid(F.max_pool2d(e2, 2))
        d2 = self.dec2(torch.cat([self.up2(m), e2], dim=1))
        d1 = self.dec1(torch.cat([self.up1(d2), e1], dim=1))
        return self.head(d1)


def mean_iou(pred, mask):
    scores = []
    for c in range(CLASSES):
        both = ((pred == c) & (mask == c)).sum().item()
        either = ((pred == c) | (mask == c)).sum().item()
        scores.append(both / max(either, 1))
    return sum(scores) / len(scores)


train_loader = DataLoader(Shapes(320, seed=0), batch_size=16, shuffle=True)
val_loader = DataLoader(Shapes(64, seed=1), batch_size=32)
net = UNet()
criterion = nn.CrossEntropyLoss()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)

for epoch in range(EPOCHS):
    net.train()
    train_losses = []
    for images, masks in train_loader:
        logits = net(images)
        loss = criterion(logits, masks)
        opt.zero_grad()
        loss.backward()
        opt.step()
        train_losses.append(loss.item())

    net.eval()
    val_losses, preds, truth = [], [], []
    with torch.no_grad():
        for images, masks in val_loader:
            logits = net(images)
            val_losses.append(criterion(logits, masks).item())
            preds.append(logits.argmax(1))
            truth.append(masks)
    iou = mean_iou(torch.cat(preds), torch.cat(truth))
    print(f"epoch {epoch}: train {np.mean(train_losses):.4f} val {np.mean(val_losses):.4f} mean IoU {iou:.3f}")
