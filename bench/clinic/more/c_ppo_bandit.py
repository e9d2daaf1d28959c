"""PPO on a contextual bandit: 13 measurements of a wine come in, the agent picks one of three shelves."""
import torch
import torch.nn as nn
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from torch.distributions import Categorical

torch.set_num_threads(1)
torch.manual_seed(5)

X, y = load_wine(return_X_y=True)
Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.3, random_state=1, stratify=y)
mu, sd = Xtr.mean(0), Xtr.std(0)
Xtr, Xte = (Xtr - mu) / sd, (Xte - mu) / sd
contexts, best = torch.tensor(Xtr, dtype=torch.float32), torch.tensor(ytr)
test_contexts, test_best = torch.tensor(Xte, dtype=torch.float32), torch.tensor(yte)


class ActorCritic(nn.Module):
    def __init__(self, n_in=13, n_actions=3, hidden=48):
        super().__init__()
        self.torso = nn.Sequential(nn.Linear(n_in, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.policy = nn.Linear(hidden, n_actions)
        self.value = nn.Linear(hidden, 1)

    def forward(self, x):
        h = self.torso(x)
        return Categorical(logits=self.policy(h)), self.value(h).squeeze(-1)


def pull(target, action):
    """reward of the chosen arm: 1 for the right shelf, noisy"""
    return (action == target).float() + 0.1 * torch.randn(len(action))


@torch.no_grad()
def collect(net, size, ctx, target):
    i = torch.randint(0, len(ctx), (size,))
    dist, value = net(ctx[i])
    action = dist.sample()
    reward = pull(target[i], action)
    adv = reward - value
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    return ctx[i], action, dist.log_prob(action), reward, adv


def ppo_loss(net, ctx, action, old_logp, ret, adv, clip=0.2, c_value=0.5, c_entropy=0.01):
    dist, value = net(ctx)
    ratio = torch.exp(dist.log_prob(action) - old_logp)
    surrogate = torch.min(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
    value_loss = ((value - ret) ** 2).mean()
    return -surrogate.mean() + c_value * value_loss - c_entropy * dist.entropy().mean()


net = ActorCritic()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
ROLLOUT, MINIBATCH, PPO_EPOCHS, ITERATIONS = 256, 64, 4, 30

for it in range(ITERATIONS):
    net.train()
    rollout = collect(net, ROLLOUT, contexts, best)
    total, count = 0.0, 0
    for _ in range(PPO_EPOCHS):
        for idx in torch.randperm(ROLLOUT).split(MINIBATCH):
            loss = ppo_loss(net, *[t[idx] for t in rollout])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            total, count = total + loss.item(), count + 1

    net.eval()
    with torch.no_grad():
        held_out = collect(net, 256, test_contexts, test_best)
        val_loss = ppo_loss(net, *held_out).item()
        greedy = net(test_contexts)[0].probs.argmax(1)
        acc = (greedy == test_best).float().mean().item()
    if it % 2 == 1:
        print(f"iter {it + 1:3d}  loss {total / count:+.4f}  val {val_loss:+.4f}  "
              f"reward {rollout[3].mean():.3f}  test greedy {acc:.3f}")
