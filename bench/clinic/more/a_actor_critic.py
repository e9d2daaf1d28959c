"""Advantage actor-critic on a windy gridworld: batches of episodes, a policy net and a value net."""
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

torch.set_num_threads(1)
torch.manual_seed(3)
np.random.seed(3)

SIZE, HORIZON, EPISODES, ITERATIONS = 5, 16, 32, 250
GAMMA, ENTROPY, LR_ACTOR, LR_CRITIC = 0.95, 0.01, 5e-3, 1e-2
MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])


class GridWorld:
    """n agents at once; each must reach its own goal, +1 at the goal, -0.05 a step otherwise."""

    def __init__(self, n, generator):
        self.n, self.g = n, generator

    def reset(self):
        self.pos = torch.randint(0, SIZE, (self.n, 2), generator=self.g)
        self.goal = torch.randint(0, SIZE, (self.n, 2), generator=self.g)
        self.done = (self.pos == self.goal).all(1)
        return self.observe()

    def observe(self):
        state = torch.cat([self.pos, self.goal], dim=1).float()
        return state / (SIZE - 1) * 2 - 1

    def step(self, action):
        slip = torch.rand(self.n, generator=self.g) < 0.1
        action = torch.where(slip, torch.randint(0, 4, (self.n,), generator=self.g), action)
        self.pos = (self.pos + MOVES[action]).clamp(0, SIZE - 1)
        active = ~self.done
        arrived = (self.pos == self.goal).all(1) & active
        reward = arrived.float() - 0.05 * active.float()
        self.done = self.done | arrived
        return self.observe(), reward, active.float()


def mlp(n_in, n_out, hidden=48):
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.Tanh(),
        nn.Linear(hidden, hidden), nn.Tanh(),
        nn.Linear(hidden, n_out),
    )


def rollout(env, policy, greedy=False):
    states, actions, rewards, masks = [], [], [], []
    state = env.reset()
    with torch.no_grad():
        for _ in range(HORIZON):
            logits = policy(state)
            action = logits.argmax(1) if greedy else Categorical(logits=logits).sample()
            states.append(state)
            state, reward, mask = env.step(action)
            actions.append(action)
            rewards.append(reward)
            masks.append(mask)
    return torch.stack(states), torch.stack(actions), torch.stack(rewards), torch.stack(masks)


def discounted(rewards):
    returns, running = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        running = rewards[t] + GAMMA * running
        returns[t] = running
    return returns


env = GridWorld(EPISODES, torch.Generator().manual_seed(1))
test_env = GridWorld(256, torch.Generator().manual_seed(2))
policy, value = mlp(4, 4), mlp(4, 1)
actor_opt = torch.optim.Adam(policy.parameters(), lr=LR_ACTOR)
critic_opt = torch.optim.Adam(value.parameters(), lr=LR_CRITIC)


def update(states, actions, rewards, masks):
    returns = discounted(rewards)
    baseline = value(states).squeeze(-1)
    advantage = (returns - baseline).detach()
    dist = Categorical(logits=policy(states))
    weight = masks / masks.sum()
    actor_loss = -(dist.log_prob(actions) * advantage * weight).sum() - ENTROPY * (dist.entropy() * weight).sum()
    critic_loss = ((baseline - returns) ** 2 * weight).sum()
    actor_opt.zero_grad()
    critic_opt.zero_grad()
    actor_loss.backward()
    critic_loss.backward()
    actor_opt.step()
    critic_opt.step()
    return actor_loss.item(), critic_loss.item()


def test():
    states, _, rewards, masks = rollout(test_env, policy, greedy=True)
    with torch.no_grad():
        error = ((value(states).squeeze(-1) - discounted(rewards)) ** 2 * masks).sum() / masks.sum()
    return rewards.sum(0).mean().item(), error.item()


for it in range(1, ITERATIONS + 1):
    a, c = update(*rollout(env, policy))
    if it % 25 == 0:
        score, error = test()
        print(f"iteration {it:4d}  actor {a:+.4f}  critic {c:.4f}  test return {score:+.3f}  test value error {error:.4f}")
print("final test return %.3f" % test()[0])
