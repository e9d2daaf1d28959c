import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class DigitImages(Dataset):
    """8x8 grey images, optionally with a little noise as augmentation."""

    def __init__(self, images, labels, augment=False):
        self.images = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
        self.labels = torch.as_tensor(labels, dtype=torch.long)
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, idx):
        img = self.images[idx]
        if self.augment:
            img = img + 0.1 * torch.randn(img.shape)
        return img, self.labels[idx]


class SmallConvNet(nn.Module):
    def __init__(self, n_classes=10, p=0.25):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.dropout = nn.Dropout(p)
        self.head = nn.Linear(32 * 4 * 4, n_classes)

    def forward(self, x):
        x = self.features(x)
        x = x.flatten(1)
        x = self.dropout(x)
        return self.head(x)


class Trainer:
    def __init__(self, model, train_loader, val_loader, lr=1e-3):
        self.model = model
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr, weight_decay=1e-4)
        self.history = []

    def train_epoch(self):
        self.model.train()
        total = 0.0
        for images, labels in self.train_loader:
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.train_loader)

    def validate(self):
        self.model.eval()
        losses, hits = [], 0
        with torch.no_grad():
            for images, labels in self.val_loader:
                logits = self.model(images)
                losses.append(F.cross_entropy(logits, labels).item())
                hits += (logits.argmax(1) == labels).sum().item()
        return sum(losses) / len(losses), hits / len(self.val_loader.dataset)

    def fit(self, epochs):
        for epoch in range(epochs):
            train_loss = self.train_epoch()
            val_loss, acc = self.validate()
            self.history.append((train_loss, val_loss, acc))
            print("[%02d/%02d] train %.4f | val %.4f | acc %.3f" % (epoch + 1, epochs, train_loss, val_loss, acc))


if __name__ == "__main__":
    seed_everything(42)
    digits = load_digits()
    images = digits.images / 16.0
    images = (images - images.mean()) / images.std()
    x_tr, x_va, y_tr, y_va = train_test_split(images, digits.target, test_size=0.2, stratify=digits.target, random_state=42)
    train_set = DigitImages(x_tr, y_tr, augment=True)
    val_set = DigitImages(x_va, y_va)
    train_loader = DataLoader(train_set, batch_size=32, shuffle=True, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=128)
    trainer = Trainer(SmallConvNet(), train_loader, val_loader)
    trainer.fit(8)
