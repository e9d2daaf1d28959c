"""REINFORCE with a learned baseline on a contextual bandit (which offer to show to which customer)."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(42)
rng = np.random.default_rng(42)

N_ARMS = 4
BATCH = 128
STEPS = 500
ENTROPY = 0.01


class OfferBandit:
    """Customers have (age, income, visits, clicks); every offer pleases a different kind of customer."""

    def __init__(self, rng):
        self.rng = rng
        self.prefs = np.array([[1.5, 0.0, 0.5, -0.5], [-1.0, 1.0, 0.0, 1.0], [0.0, -1.5, 1.0, 0.5], [-0.5, 0.5, -1.5, 0.0]])

    def customers(self, n):
        age = self.rng.uniform(18, 80, n)
        income = self.rng.lognormal(10.3, 0.5, n)
        visits = self.rng.poisson(6, n)
        clicks = self.rng.uniform(0, 1, n)
        return np.stack([age, income, visits, clicks], axis=1).astype(np.float32)

    def reward(self, customers, arms):
        z = np.stack([(customers[:, 0] - 49) / 18, np.log(customers[:, 1]) * 2 - 20.6,
                      (customers[:, 2] - 6) / 2.4, (customers[:, 3] - 0.5) / 0.29], axis=1)
        mean = np.tanh((z * self.prefs[arms]).sum(1))
        return (mean + 0.2 * self.rng.normal(size=len(arms))).astype(np.float32)


env = OfferBandit(rng)
train_pool = env.customers(3000)
val_pool = env.customers(500)
mean, std = train_pool.mean(0), train_pool.std(0)


def features(customers):
    return torch.from_numpy((customers - mean) / std)


def mlp(n_out):
    return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, n_out))


policy = mlp(N_ARMS)
value = mlp(1)
policy_opt = torch.optim.Adam(policy.parameters(), lr=5e-3)
value_opt = torch.optim.Adam(value.parameters(), lr=5e-3)


def act(logits):
    return torch.distributions.Categorical(logits=logits).sample()


def reinforce_loss(logits, actions, advantage):
    logp = -F.cross_entropy(logits, actions, reduction="none")
    probs = logits.softmax(-1)
    entropy = -(probs * logits.log_softmax(-1)).sum(-1).mean()
    return -(logp * advantage).mean() - ENTROPY * entropy


rewards = []
for step in range(STEPS):
    customers = train_pool[rng.integers(0, len(train_pool), BATCH)]
    x = features(customers)

    logits = policy(x)
    actions = act(logits.detach())
    r = torch.from_numpy(env.reward(customers, actions.numpy()))
    baseline = value(x).squeeze(-1)
    advantage = r - baseline.detach()

    loss = reinforce_loss(logits, actions, advantage)
    value_loss = F.mse_loss(baseline, r)
    policy_opt.zero_grad()
    value_opt.zero_grad()
    loss.backward()
    value_loss.backward()
    policy_opt.step()
    value_opt.step()
    rewards.append(r.mean().item())

    if (step + 1) % 50 == 0:
        policy.eval()
        value.eval()
        with torch.no_grad():
            vx = features(val_pool)
            vlogits = policy(vx)
            va = act(vlogits)
            vr = torch.from_numpy(env.reward(val_pool, va.numpy()))
            vloss = reinforce_loss(vlogits, va, vr - value(vx).squeeze(-1))
            greedy = env.reward(val_pool, vlogits.argmax(-1).numpy()).mean()
        policy.train()
        value.train()
        print(f"step {step + 1}: loss {loss.item():+.4f}  reward {np.mean(rewards[-50:]):+.3f}  "
              f"val loss {vloss.item():+.4f}  greedy val reward {greedy:+.3f}")
