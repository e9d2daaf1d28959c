"""Learn the flow of a damped pendulum with a residual MLP, trained through 8-step rollouts."""
import numpy as np
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(11)
rng = np.random.default_rng(11)

DT, HORIZON, DAMPING = 0.2, 8, 0.15


def pendulum(state):
    theta, omega = state[..., 0], state[..., 1]
    return np.stack([omega, -4.0 * np.sin(theta) - DAMPING * omega], axis=-1)


def simulate(start, steps, substeps=4):
    """classical Runge-Kutta; returns (steps + 1, n, 2)"""
    h = DT / substeps
    states, s = [start], start
    for _ in range(steps):
        for _ in range(substeps):
            k1 = pendulum(s)
            k2 = pendulum(s + 0.5 * h * k1)
            k3 = pendulum(s + 0.5 * h * k2)
            k4 = pendulum(s + h * k3)
            s = s + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        states.append(s)
    return np.stack(states)


def make_set(n):
    start = np.stack([rng.uniform(-2.5, 2.5, n), rng.uniform(-2.0, 2.0, n)], axis=1)
    trajectories = simulate(start, HORIZON)
    return torch.tensor(trajectories.transpose(1, 0, 2), dtype=torch.float32)   # (n, T + 1, 2)


train, val = make_set(800), make_set(200)
mean = train.mean(dim=(0, 1))
std = train.std(dim=(0, 1))
train = (train - mean) / std
val = (val - mean) / std


class Residual(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, hidden), nn.Tanh(),
            nn.Linear(hidden, hidden), nn.Tanh(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x):
        return x + self.body(x)


def rollout(model, x, steps):
    out = []
    for _ in range(steps):
        x = model(x)
        out.append(x)
    return torch.stack(out, dim=1)


def multi_step_loss(model, traj):
    pred = rollout(model, traj[:, 0], HORIZON)
    target = traj[:, 1:]
    return ((pred - target) ** 2).mean()


model = Residual()
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
epochs, batch_size = 24, 40
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=epochs, eta_min=2e-4)

for epoch in range(epochs):
    model.train()
    losses = []
    perm = torch.randperm(len(train))
    for idx in perm.split(batch_size):
        opt.zero_grad()
        loss = multi_step_loss(model, train[idx])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        opt.step()
        losses.append(loss.item())
    sched.step()
    model.eval()
    with torch.no_grad():
        val_loss = multi_step_loss(model, val).item()
    print(f"{epoch:3d} | train {np.mean(losses):.5f} | val {val_loss:.5f}")

with torch.no_grad():
    err = (rollout(model, val[:, 0], HORIZON)[:, -1] - val[:, -1]).abs().mean(0) * std
print("mean final error: angle %.3f rad, velocity %.3f rad/s" % tuple(err.tolist()))
