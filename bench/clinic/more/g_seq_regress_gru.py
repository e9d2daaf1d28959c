"""How much reagent is left in the tank?  A GRU that reads a pump log of any length and estimates one number.

Each log has three channels (pump flow in ml/min, valve opening 0..1, temperature in deg C); the tank drains and
evaporates a little at every reading, so the answer is a leaky sum of flow * opening.
"""
import math
import random
import time

import numpy as np
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

SEED = 5
torch.set_num_threads(1)


def simulate(rng):
    steps = int(rng.integers(6, 26))
    t = np.arange(steps)
    flow = 40 + 12 * np.sin(2 * np.pi * (t / rng.uniform(6, 14) + rng.random())) + 6 * rng.standard_normal(steps)
    valve = np.clip(rng.beta(0.7, 0.7, steps), 0, 1)
    temperature = 21 + 2.5 * rng.standard_normal() + 0.5 * rng.standard_normal(steps)
    level = 0.0
    for f, v, c in zip(flow, valve, temperature):
        level = (0.88 - 0.01 * (c - 21)) * level + f * v
    level += 4.0 * rng.standard_normal()  # the gauge is not perfect
    return np.stack([flow, valve, temperature], axis=1), level


class PumpLogs(Dataset):
    """Sequences of shape (time, 3) and a target, standardised with the statistics of the training logs."""

    def __init__(self, count, seed, stats=None):
        rng = np.random.default_rng(seed)
        raw = [simulate(rng) for _ in range(count)]
        self.sequences = [s for s, _ in raw]
        self.levels = np.array([level for _, level in raw])
        if stats is None:
            rows = np.concatenate(self.sequences)
            stats = dict(mean=rows.mean(0), std=rows.std(0), y_mean=self.levels.mean(), y_std=self.levels.std())
        self.stats = stats

    def __len__(self):
        return len(self.sequences)

    def __getitem__(self, index):
        x = (self.sequences[index] - self.stats["mean"]) / self.stats["std"]
        y = (self.levels[index] - self.stats["y_mean"]) / self.stats["y_std"]
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def pad_batch(items):
    xs, ys = zip(*items)
    lengths = torch.tensor([len(x) for x in xs])
    return pad_sequence(xs, batch_first=True), lengths, torch.stack(ys)


class LevelGRU(nn.Module):
    def __init__(self, channels=3, hidden=32):
        super().__init__()
        self.gru = nn.GRU(channels, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(hidden, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)
        return self.head(last[-1]).squeeze(-1)


def run_epoch(model, loader, optimizer=None):
    """One pass; trains when it gets an optimizer, else only measures. Returns the mean squared error."""
    training = optimizer is not None
    model.train(training)
    total = count = 0
    with torch.set_grad_enabled(training):
        for x, lengths, y in loader:
            prediction = model(x, lengths)
            loss = nn.functional.mse_loss(prediction, y)
            if training:
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            total += loss.item() * len(y)
            count += len(y)
    return total / count


def main(epochs=10, batch_size=32, lr=5e-3):
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    train_set = PumpLogs(960, seed=SEED)
    held_out = PumpLogs(240, seed=SEED + 1, stats=train_set.stats)
    train_loader = DataLoader(train_set, batch_size, shuffle=True, collate_fn=pad_batch)
    test_loader = DataLoader(held_out, 120, collate_fn=pad_batch)

    model = LevelGRU()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.4)
    print(sum(p.numel() for p in model.parameters()), "parameters,", len(train_loader), "batches an epoch")
    start = time.time()
    for epoch in range(1, epochs + 1):
        train_mse = run_epoch(model, train_loader, optimizer)
        test_mse = run_epoch(model, test_loader)
        scheduler.step()
        rmse = math.sqrt(test_mse) * train_set.stats["y_std"]
        print(f"epoch {epoch:2d} | train mse {train_mse:.4f} | held-out mse {test_mse:.4f} | off by {rmse:.1f} ml "
              f"| {time.time() - start:.1f} s")
    return model


if __name__ == "__main__":
    main()
