"""Small vision transformer that tells six drawn shapes apart on noisy 16x16 images."""
import math

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
torch.manual_seed(7)

N_CLASSES = 6
BATCH = 50
EPOCHS = 10
LR = 2e-3
WARMUP = 40


def draw(kind, size=16):
    img = torch.zeros(size, size)
    r, c = torch.randint(1, 7, (2,)).tolist()
    n = int(torch.randint(6, 9, (1,)))
    k = torch.arange(n)
    if kind == 0:
        img[r + n // 2, c:c + n] = 1
    elif kind == 1:
        img[r:r + n, c + n // 2] = 1
    elif kind == 2:
        img[r + k, c + k] = 1
    elif kind == 3:
        img[r + k, c + n - 1 - k] = 1
    elif kind == 4:
        img[r:r + n, c] = img[r:r + n, c + n - 1] = 1
        img[r, c:c + n] = img[r + n - 1, c:c + n] = 1
    else:
        img[r + n // 2, c:c + n] = 1
        img[r:r + n, c + n // 2] = 1
    return 255 * (0.8 * img + 0.2 * torch.rand(size, size))


labels = torch.arange(N_CLASSES).repeat_interleave(230)
images = torch.stack([draw(int(y)) for y in labels]).unsqueeze(1)

order = torch.randperm(len(labels))
train_idx, val_idx = order[:1180], order[1180:]
mean, std = images[train_idx].mean(), images[train_idx].std()
images = (images - mean) / std

train_set = TensorDataset(images[train_idx], labels[train_idx])
val_set = TensorDataset(images[val_idx], labels[val_idx])
train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True)
val_loader = DataLoader(val_set, batch_size=100)


class ViT(nn.Module):
    def __init__(self, patch=4, dim=48, depth=2, heads=4, dropout=0.1):
        super().__init__()
        n_patches = (16 // patch) ** 2
        self.patch_embed = nn.Conv2d(1, dim, kernel_size=patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, n_patches + 1, dim))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, N_CLASSES)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(x.size(0), -1, -1)
        x = torch.cat([cls, x], dim=1) + self.pos_embed
        x = self.encoder(x)
        return self.head(self.norm(x[:, 0]))


model = ViT()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.02)
total_steps = EPOCHS * len(train_loader)


def lr_factor(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    t = (step - WARMUP) / max(1, total_steps - WARMUP)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, t)))


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)

for epoch in range(EPOCHS):
    model.train()
    train_loss = 0.0
    for xb, yb in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        train_loss += loss.item() / len(train_loader)

    model.eval()
    val_loss, correct = 0.0, 0
    with torch.no_grad():
        for xb, yb in val_loader:
            logits = model(xb)
            val_loss += criterion(logits, yb).item() * len(yb) / len(val_set)
            correct += (logits.argmax(1) == yb).sum().item()
    print(f"epoch {epoch + 1:2d}  train {train_loss:.4f}  val {val_loss:.4f}  acc {correct / len(val_set):.3f}")
