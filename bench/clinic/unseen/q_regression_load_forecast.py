"""Electric load six hours ahead from the last two days (GRU), plateau scheduler, early stopping, split in time."""
import copy

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)

CONFIG = dict(window=36, horizon=6, hidden=32, dropout=0.1, lr=5e-3, batch_size=64, max_epochs=12, patience=4)


def autoregressive(rng, n, keep, scale):
    out = np.zeros(n)
    for i in range(1, n):
        out[i] = keep * out[i - 1] + scale * rng.normal()
    return out


def load_series(days=120, noise=0.4, seed=0):
    """Hourly load [MW], temperature [deg C], air pressure [Pa], hour of the day."""
    rng = np.random.default_rng(seed)
    t = np.arange(24 * days)
    hour, weekday = t % 24, (t // 24) % 7
    temperature = 12 + 3 * np.sin(2 * np.pi * (hour - 9) / 24) + autoregressive(rng, len(t), 0.98, 0.5)
    pressure = 101300 + autoregressive(rng, len(t), 0.95, 150)
    shape = np.sin(2 * np.pi * (hour - 7) / 24) + 0.5 * np.sin(4 * np.pi * (hour - 6) / 24)
    load = 60 + np.where(weekday < 5, 12, 9) * shape + 0.5 * (temperature - 12) ** 2  # heating, and cooling in the heat
    load += autoregressive(rng, len(t), 0.9, noise)
    temperature[rng.random(len(t)) < 0.02] = np.nan  # the sensor drops out now and then
    known = ~np.isnan(temperature)
    temperature = np.interp(t, t[known], temperature[known])
    clock = 2 * np.pi * hour / 24
    return np.stack([load, temperature, pressure, np.sin(clock), np.cos(clock)], axis=1).astype(np.float32)


def make_windows(series, window, horizon):
    """x: the last `window` hours; y: the load `horizon` hours after the last of them."""
    starts = range(len(series) - window - horizon + 1)
    x = np.stack([series[i:i + window] for i in starts])
    y = np.stack([series[i + window + horizon - 1, 0] for i in starts])
    return torch.from_numpy(x), torch.from_numpy(y)


def load_data(cfg):
    series = load_series()
    known = series[:int(0.7 * len(series))]  # scaled with what was known when training
    mean, std = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    series = (series - mean) / std
    x, y = make_windows(series, cfg["window"], cfg["horizon"])
    order = torch.arange(len(x))
    a, b, gap = int(0.7 * len(x)), int(0.85 * len(x)), cfg["window"] + cfg["horizon"]
    parts = order[:a - gap], order[a:b - gap], order[b:]
    return [(x[i], y[i]) for i in parts], std[0]


class Forecaster(nn.Module):
    def __init__(self, n_in, hidden, dropout):
        super().__init__()
        self.rnn = nn.GRU(n_in, hidden, batch_first=True)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.bias)  # start at the mean of the target

    def forward(self, x):
        states, _ = self.rnn(x)
        h = torch.relu(self.fc(self.drop(states[:, -1])))
        return self.out(h).squeeze(-1)


def mse(pred, target):
    return ((pred - target) ** 2).mean()


def predict(model, x):
    model.eval()
    with torch.no_grad():
        return model(x)


def run_epoch(model, optimizer, x, y, batch_size):
    model.train()
    order = torch.randperm(len(x))
    total = 0.0
    for idx in order.split(batch_size):
        xb, yb = x[idx], y[idx]
        optimizer.zero_grad()
        loss = mse(model(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(xb)
    return total / len(x)


def main(cfg=CONFIG):
    torch.manual_seed(0)
    (train, val, test), unit = load_data(cfg)
    print(f"windows: {len(train[0])} train, {len(val[0])} validation, {len(test[0])} test")
    model = Forecaster(train[0].shape[-1], cfg["hidden"], cfg["dropout"])
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg["lr"])
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.4, patience=1)

    best, best_state, wait = float("inf"), None, 0
    for epoch in range(1, cfg["max_epochs"] + 1):
        train_loss = run_epoch(model, optimizer, *train, cfg["batch_size"])
        val_loss = mse(predict(model, val[0]), val[1]).item()
        scheduler.step(val_loss)
        print(f"epoch {epoch:2d} train {train_loss:.4f} val {val_loss:.4f} lr {optimizer.param_groups[0]['lr']:.1e}")
        if val_loss < best:
            best, best_state, wait = val_loss, copy.deepcopy(model.state_dict()), 0
        else:
            wait += 1
            if wait >= cfg["patience"]:
                print(f"stopped at epoch {epoch}")
                break

    if best_state is not None:
        model.load_state_dict(best_state)
    x, y = test
    print(f"test RMSE {unit * mse(predict(model, x), y).item() ** 0.5:.2f} MW")
    yesterday = x[:, cfg["horizon"] - 25, 0]  # the same hour of the day before
    print(f"same hour yesterday {unit * mse(yesterday, y).item() ** 0.5:.2f} MW")


if __name__ == "__main__":
    main()
