"""Small pictures of digits, augmented at random inside the workers of a DataLoader."""
import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)

SEED = 2024
EPOCHS = 8
BATCH_SIZE = 32


class DigitPictures(Dataset):
    def __init__(self, images, labels, augment=False):
        self.images = images  # values 0..16
        self.labels = labels
        self.augment = augment
        self.rng = None  # every worker gets its own, see seed_worker

    def __len__(self):
        return len(self.images)

    def random_change(self, image):
        dy, dx = self.rng.integers(-1, 2, 2)
        image = np.roll(image, (dy, dx), axis=(0, 1))
        image = image * self.rng.uniform(0.8, 1.2) + self.rng.normal(0.0, 1.0, image.shape)
        return image.clip(0, 16)

    def __getitem__(self, i):
        image = self.images[i]
        if self.augment:
            image = self.random_change(image)
        image = (image - 5.0) / 6.0
        return torch.as_tensor(image, dtype=torch.float32).unsqueeze(0), int(self.labels[i])


def seed_worker(worker_id):
    info = torch.utils.data.get_worker_info()
    info.dataset.rng = np.random.default_rng(info.seed % 2**32)


class SmallConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 2 * 2, 10))

    def forward(self, x):
        return self.classify(self.features(x))


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    loss, right, n = 0.0, 0, 0
    for x, y in loader:
        out = model(x)
        loss += criterion(out, y).item() * len(y)
        right += (out.argmax(1) == y).sum().item()
        n += len(y)
    return loss / n, right / n


def main():
    torch.manual_seed(SEED)
    digits = load_digits()
    images, labels = digits.images, digits.target
    x_train, x_val, y_train, y_val = train_test_split(
        images, labels, test_size=400, stratify=labels, random_state=1)
    train_data = DigitPictures(x_train, y_train, augment=True)
    train_loader = DataLoader(train_data, batch_size=BATCH_SIZE, shuffle=True, num_workers=2,
                              worker_init_fn=seed_worker, persistent_workers=True)
    val_loader = DataLoader(DigitPictures(x_val, y_val), batch_size=200)

    model = SmallConv()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

    for epoch in range(1, EPOCHS + 1):
        model.train()
        total = 0.0
        for x, y in train_loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        val_loss, val_acc = evaluate(model, val_loader, criterion)
        print(f"epoch {epoch} train {total / len(train_loader):.4f} val {val_loss:.4f} acc {val_acc:.3f}")


if __name__ == "__main__":
    main()
