"""Circles, squares, triangles and crosses in noisy 16x16 pictures; a ConvNet tells them apart."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(3)
np.random.seed(3)

SIZE = 16
CLASSES = ["circle", "square", "triangle", "cross"]
N_TRAIN = 1200
N_VAL = 400
BATCH_SIZE = 64
EPOCHS = 12
LR = 0.05


def make_images(n, seed):
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:SIZE, :SIZE]
    labels = rng.integers(0, len(CLASSES), n)
    images = []
    for label in labels:
        img = np.empty((SIZE, SIZE), dtype=np.float32)
        img[:] = rng.uniform(30, 90)
        r = rng.uniform(3, 5.5)
        dy, dx = row - rng.uniform(6, 9), col - rng.uniform(6, 9)
        if label == 0:
            inside = dy ** 2 + dx ** 2 < r ** 2
        elif label == 1:
            inside = np.maximum(abs(dy), abs(dx)) < 0.88 * r
        elif label == 2:
            inside = (abs(dx) < (dy + r) * 0.6) & (dy < r)
        else:
            inside = (np.minimum(abs(dy), abs(dx)) < 0.35 * r) & (np.maximum(abs(dy), abs(dx)) < r)
        img[inside] += rng.uniform(50, 110)
        img += rng.normal(0, 22, img.shape)
        images.append(img)
    return np.clip(np.stack(images), 0, 255).astype(np.uint8), labels


class ShapeDataset(Dataset):
    def __init__(self, images, labels, augment=False):
        self.images = images
        self.labels = labels
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        img = self.images[i].astype(np.float32) / 255
        if self.augment:
            shift = np.random.randint(-2, 3, size=2)
            img = np.roll(img, tuple(shift), axis=(0, 1))
            if np.random.random() < 0.5:
                img = img[:, ::-1]
        x = torch.from_numpy(np.ascontiguousarray(img)).unsqueeze(0)
        return (x - 0.33) / 0.19, int(self.labels[i])


class ShapeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(24)
        self.conv3 = nn.Conv2d(24, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64, 48)
        self.bn4 = nn.BatchNorm1d(48)
        self.drop = nn.Dropout(0.25)
        self.fc2 = nn.Linear(48, len(CLASSES))

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        x = self.pool(torch.relu(self.bn2(self.conv2(x))))
        x = torch.relu(self.bn3(self.conv3(x)))
        mean = x.mean(dim=(2, 3))
        peak = x.amax(dim=(2, 3))
        x = torch.stack([mean, peak], dim=1).flatten(1)
        x = torch.relu(self.bn4(self.fc1(x)))
        x = self.drop(x)
        return self.fc2(x)


@torch.no_grad()
def evaluate(model, loader, criterion):
    model.eval()
    total_loss, correct, count = 0.0, 0, 0
    for x, y in loader:
        out = model(x)
        total_loss += criterion(out, y).item() * len(y)
        correct += (out.argmax(1) == y).sum().item()
        count += len(y)
    return total_loss / count, correct / count


def main():
    train_images, train_labels = make_images(N_TRAIN, seed=10)
    val_images, val_labels = make_images(N_VAL, seed=11)
    train_set = ShapeDataset(train_images, train_labels, augment=True)
    val_set = ShapeDataset(val_images, val_labels)
    train_loader = DataLoader(train_set, batch_size=BATCH_SIZE, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=200)

    model = ShapeNet()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.3)

    for epoch in range(EPOCHS):
        model.train()
        running = 0.0
        for step, (x, y) in enumerate(train_loader):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
        scheduler.step()
        val_loss, val_acc = evaluate(model, val_loader, criterion)
        print(f"[{epoch + 1:2d}] train {running / len(train_loader):.3f}  "
              f"val {val_loss:.3f}  accuracy {val_acc:.3f}")


if __name__ == "__main__":
    main()
