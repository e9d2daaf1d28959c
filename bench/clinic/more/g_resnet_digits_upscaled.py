# Small residual network on the scikit-learn digits, enlarged to 12x12, with random shifts as augmentation.
import argparse

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=9)
    p.add_argument("--batch-size", type=int, default=64)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--momentum", type=float, default=0.9)
    p.add_argument("--weight-decay", type=float, default=5e-4)
    p.add_argument("--width", type=int, default=8)
    p.add_argument("--shift", type=int, default=1, help="largest random shift, in pixels of the enlarged image")
    p.add_argument("--n-test", type=int, default=450)
    p.add_argument("--seed", type=int, default=3)
    return p.parse_args()


def get_digits(n_test, seed):
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target, dtype=torch.long)
    images = F.interpolate(images, size=12, mode="bilinear", align_corners=False)
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))
    train_idx, test_idx = order[n_test:], order[:n_test]
    mu, sigma = images[train_idx].mean(), images[train_idx].std()
    images = (images - mu) / sigma
    return images[train_idx], labels[train_idx], images[test_idx], labels[test_idx]


def random_shift(images, largest):
    """Move each image by up to `largest` pixels either way; the border repeats."""
    n, _, h, w = images.shape
    padded = F.pad(images, [largest] * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * largest + 1, (2, n))
    return torch.stack([img[:, i:i + h, j:j + w] for img, i, j in zip(padded, dy.tolist(), dx.tolist())])


class Residual(nn.Module):
    def __init__(self, c_in, c_out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.skip = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):
    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(Residual(width, width), Residual(width, 2 * width, 2),
                                    Residual(2 * width, 4 * width, 2))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = self.stages(self.stem(x))
        return self.fc(x.mean(dim=(2, 3)))


def train(model, images, labels, optimizer, scheduler, args):
    model.train()
    running = 0.0
    order = torch.randperm(len(labels))
    batches = order.split(args.batch_size)
    for idx in batches:
        x, target = random_shift(images[idx], args.shift), labels[idx]
        optimizer.zero_grad()
        output = model(x)
        loss = F.cross_entropy(output, target)
        loss.backward()
        optimizer.step()
        running += loss.item()
    scheduler.step()
    return running / len(batches)


@torch.no_grad()
def evaluate(model, images, labels):
    model.eval()
    output = torch.cat([model(x) for x in images.split(150)])
    return F.cross_entropy(output, labels).item(), (output.argmax(dim=1) == labels).float().mean().item()


def main():
    args = parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    x_train, y_train, x_test, y_test = get_digits(args.n_test, args.seed)
    model = ResNet(args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum, weight_decay=args.weight_decay)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[5, 8], gamma=0.2)
    for epoch in range(args.epochs):
        train_loss = train(model, x_train, y_train, optimizer, scheduler, args)
        test_loss, accuracy = evaluate(model, x_test, y_test)
        print("Epoch {:d}/{:d}: train loss {:.4f}, test loss {:.4f}, test accuracy {:.1f}%".format(
            epoch + 1, args.epochs, train_loss, test_loss, 100 * accuracy))


if __name__ == "__main__":
    main()
