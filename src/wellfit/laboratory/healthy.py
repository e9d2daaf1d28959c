"""Handwritten digits, read by a small network: the healthy program, of which each pathology of the lab is an edit.

It prints its curves as JSON lines. `python -m wellfit.laboratory.healthy SEED` runs it.
"""

import json
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 0.05
WIDTH = 64
DEPTH = 2


def block(size):
    return [
        nn.Linear(size, WIDTH),
        nn.ReLU(),
    ]


def main(seed=0):
    torch.manual_seed(seed)
    digits = load_digits()  # 1,797 pictures of 8 x 8 pixels, each from 0 to 16
    x = torch.tensor(digits.data, dtype=torch.float32)
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    held_out = order[:500]
    train = order[500:]
    x = (x - x[train].mean()) / x[train].std()
    samples = TensorDataset(x[train], y[train])
    loader = DataLoader(samples, BATCH_SIZE, shuffle=True)

    layers = [layer for i in range(DEPTH) for layer in block(WIDTH if i else 64)]
    layers.append(nn.Linear(WIDTH, 10))
    model = nn.Sequential(*layers)
    optimizer = SGD(model.parameters(), LEARNING_RATE, momentum=0.9)

    step = 0
    for _ in range(EPOCHS):
        model.train()
        for inputs, labels in loader:
            outputs = model(inputs)
            loss = F.cross_entropy(outputs, labels)
            optimizer.zero_grad()
            loss.backward()
            norms = [w.grad.norm().item() for w in model.parameters() if w.ndim == 2]
            optimizer.step()
            step += 1
            print(json.dumps({"step": step, "loss": loss.item(), "gradients": norms}))

        model.eval()
        with torch.no_grad():
            outputs = model(x[held_out])
            loss = F.cross_entropy(outputs, y[held_out])
            accuracy = (outputs.argmax(1) == y[held_out]).float().mean()
        print(json.dumps({"step": step, "held_out_loss": loss.item(), "accuracy": accuracy.item()}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
