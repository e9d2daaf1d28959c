"""Wide ReLU MLP on the sklearn digits.

usage: python train_digits_wide.py --width 1024 --epochs 9
"""
import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    p = argparse.ArgumentParser()
    p.add_argument("--width", type=int, default=1024)
    p.add_argument("--epochs", type=int, default=9)
    p.add_argument("--batch-size", type=int, default=32)
    p.add_argument("--lr", type=float, default=0.02)
    p.add_argument("--weight-decay", type=float, default=5e-4)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def get_data(seed):
    X, y = load_digits(return_X_y=True)
    X_train, X_rest, y_train, y_rest = train_test_split(
        X, y, test_size=0.4, stratify=y, random_state=seed)
    X_val, X_test, y_val, y_test = train_test_split(
        X_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=seed)
    # one mean and one std for the whole image, like people do for MNIST
    mean, std = X_train.mean(), X_train.std()

    def to_ds(X, y):
        X = torch.tensor((X - mean) / std, dtype=torch.float32)
        return TensorDataset(X, torch.tensor(y, dtype=torch.long))

    return to_ds(X_train, y_train), to_ds(X_val, y_val), to_ds(X_test, y_test)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    loss_sum, correct, n = 0.0, 0, 0
    for x, y in loader:
        out = model(x)
        loss_sum += nn.functional.cross_entropy(out, y, reduction="sum").item()
        correct += (out.argmax(1) == y).sum().item()
        n += len(y)
    return loss_sum / n, correct / n


def main():
    args = get_args()
    torch.manual_seed(args.seed)
    train_ds, val_ds, test_ds = get_data(args.seed)
    train_loader = DataLoader(train_ds, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_ds, batch_size=256)
    test_loader = DataLoader(test_ds, batch_size=256)

    w = args.width
    model = nn.Sequential(
        nn.Linear(64, w), nn.ReLU(),
        nn.Linear(w, w), nn.ReLU(),
        nn.Linear(w, 10),
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9,
                                weight_decay=args.weight_decay)

    for epoch in range(1, args.epochs + 1):
        model.train()
        running, seen = 0.0, 0
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item() * len(y)
            seen += len(y)
        val_loss, val_acc = evaluate(model, val_loader)
        print(f"epoch {epoch:2d}  train loss {running / seen:.4f}  "
              f"val loss {val_loss:.4f}  val acc {val_acc:.4f}")

    with torch.no_grad():
        x = val_ds.tensors[0]
        h1 = model[:2](x)
        h2 = model[2:4](h1)
        print(f"zero activations: layer 1 {(h1 == 0).float().mean():.2f}, "
              f"layer 2 {(h2 == 0).float().mean():.2f}")

    test_loss, test_acc = evaluate(model, test_loader)
    majority = train_ds.tensors[1].mode().values
    base = (test_ds.tensors[1] == majority).float().mean().item()
    print(f"TEST accuracy {test_acc:.4f}  (majority class {base:.4f})")


if __name__ == "__main__":
    main()
