#!/usr/bin/env python3
"""
Distil a hand-tuned pendulum swing-up controller into a small network.

Teacher: energy shaping far from the top, state feedback near it; a softmax over nine torques.
Student: MLP on (cos, sin, velocity), KL to the teacher, DAgger style aggregation of the states it visits itself.
"""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

TORQUES = np.linspace(-3, 3, 9)
DT, HORIZON = 0.05, 120


def advance(theta, omega, torque):
    omega = np.clip(omega + (15 * np.sin(theta) + 3 * torque) * DT, -8, 8)
    theta = theta + omega * DT
    return (theta + np.pi) % (2 * np.pi) - np.pi, omega


def teacher(theta, omega, spread=0.5):
    energy = 0.5 * omega ** 2 + 15 * np.cos(theta) - 15
    swing = -0.6 * energy * np.tanh(2 * omega)
    hold = -(12 * np.sin(theta) + 3.2 * omega)
    near = 1 / (1 + np.exp(-12 * (np.cos(theta) - 0.9)))
    wish = np.clip(near * hold + (1 - near) * swing, -3, 3)
    z = -(TORQUES - wish[:, None]) ** 2 / (2 * spread ** 2)
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def features(states):
    theta, omega = states.T
    return torch.tensor(np.stack([np.cos(theta), np.sin(theta), omega / 4], 1), dtype=torch.float32)


def labels(states):
    return torch.tensor(teacher(*states.T), dtype=torch.float32)


def rollout(policy, rng, episodes):
    theta, omega = rng.uniform(-np.pi, np.pi, episodes), rng.uniform(-1, 1, episodes)
    ret, seen = np.zeros(episodes), []
    for _ in range(HORIZON):
        p = policy(theta, omega)
        u = TORQUES[(p.cumsum(1) < rng.random((episodes, 1))).sum(1).clip(max=8)]
        seen.append(np.stack([theta, omega], 1))
        ret -= theta ** 2 + 0.1 * omega ** 2 + 0.001 * u ** 2
        theta, omega = advance(theta, omega, u)
    return ret.mean(), np.concatenate(seen)


def main():
    rng = np.random.default_rng(4)
    torch.manual_seed(4)
    student = nn.Sequential(nn.Linear(3, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, len(TORQUES)))

    def student_policy(theta, omega):
        with torch.no_grad():
            return student(features(np.stack([theta, omega], 1))).softmax(-1).numpy()

    rounds, per_round, batch = 5, 150, 128
    opt = torch.optim.Adam(student.parameters(), lr=6e-3)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, rounds * per_round, eta_min=6e-5)
    states = np.stack([rng.uniform(-np.pi, np.pi, 4000), rng.uniform(-8, 8, 4000)], 1)
    for r in range(rounds):
        x, target = features(states), labels(states)
        total = 0.0
        for _ in range(per_round):
            i = torch.randint(len(x), (batch,))
            loss = F.kl_div(student(x[i]).log_softmax(-1), target[i], reduction="batchmean")
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
            total += loss.item()
        ret, visited = rollout(student_policy, rng, 20)
        print(f"round {r}: {len(states)} states  KL {total / per_round:.4f}  student return {ret:.0f}")
        states = np.concatenate([states, visited[rng.permutation(len(visited))[:1000]]])

    # held out: fresh starts, states that teacher and student visit from there
    t_ret, s1 = rollout(teacher, rng, 50)
    s_ret, s2 = rollout(student_policy, rng, 50)
    r_ret, _ = rollout(lambda a, b: np.full((len(a), 9), 1 / 9), rng, 50)
    held = np.concatenate([s1, s2])
    target = labels(held)
    with torch.no_grad():
        kl = F.kl_div(student(features(held)).log_softmax(-1), target, reduction="batchmean").item()
    constant = target.mean(0, keepdim=True).log().expand_as(target)
    kl0 = F.kl_div(constant, target, reduction="batchmean").item()
    print(f"held-out KL {kl:.4f} (best constant policy {kl0:.4f})   "
          f"return: student {s_ret:.0f}, teacher {t_ret:.0f}, random {r_ret:.0f}")


if __name__ == "__main__":
    main()
