"""DQN on a hand-written 5x5 grid world (walls, pit, goal) with replay memory and a target network.
After the PyTorch 'reinforcement_q_learning' tutorial."""
import math
import random
from collections import deque, namedtuple

import torch
import torch.nn as nn
import torch.optim as optim

torch.set_num_threads(1)
random.seed(0)
torch.manual_seed(0)

Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))

GRID = ["S..#.",
        ".#...",
        ".#.P.",
        "...#.",
        "P...G"]
MOVES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
FREE = [(r, c) for r in range(5) for c in range(5) if GRID[r][c] in "S."]


class GridWorld:
    def reset(self, start=None):
        self.pos = start or random.choice(FREE)
        self.t = 0
        return self.obs()

    def obs(self):
        x = torch.zeros(1, 25)
        x[0, self.pos[0] * 5 + self.pos[1]] = 1.0
        return x

    def step(self, a):
        r, c = self.pos[0] + MOVES[a][0], self.pos[1] + MOVES[a][1]
        if 0 <= r < 5 and 0 <= c < 5 and GRID[r][c] != "#":
            self.pos = (r, c)
        self.t += 1
        cell = GRID[self.pos[0]][self.pos[1]]
        if cell == "G":
            return self.obs(), 1.0, True, False
        if cell == "P":
            return self.obs(), -1.0, True, False
        return self.obs(), -0.02, False, self.t >= 40


class ReplayMemory:
    def __init__(self, capacity):
        self.memory = deque([], maxlen=capacity)

    def push(self, *args):
        self.memory.append(Transition(*args))

    def sample(self, batch_size):
        return random.sample(self.memory, batch_size)

    def __len__(self):
        return len(self.memory)


class DQN(nn.Module):
    def __init__(self, n_obs, n_actions):
        super().__init__()
        self.layer1 = nn.Linear(n_obs, 48)
        self.layer2 = nn.Linear(48, n_actions)

    def forward(self, x):
        return self.layer2(torch.relu(self.layer1(x)))


BATCH_SIZE, GAMMA, TAU, LR = 64, 0.95, 0.02, 3e-3
policy_net, target_net = DQN(25, 4), DQN(25, 4)
target_net.load_state_dict(policy_net.state_dict())
optimizer = optim.AdamW(policy_net.parameters(), lr=LR, amsgrad=True)
memory = ReplayMemory(3000)
env = GridWorld()
steps_done = 0


def select_action(state):
    global steps_done
    eps = 0.1 + 0.9 * math.exp(-steps_done / 700)
    steps_done += 1
    if random.random() < eps:
        return torch.tensor([[random.randrange(4)]])
    with torch.no_grad():
        return policy_net(state).argmax(1, keepdim=True)


def optimize_model():
    if len(memory) < 200:
        return None
    batch = Transition(*zip(*memory.sample(BATCH_SIZE)))
    non_final = torch.tensor([s is not None for s in batch.next_state])
    next_states = torch.cat([s for s in batch.next_state if s is not None])
    q = policy_net(torch.cat(batch.state)).gather(1, torch.cat(batch.action))
    next_v = torch.zeros(BATCH_SIZE)
    with torch.no_grad():
        next_v[non_final] = target_net(next_states).max(1).values
    target = (next_v * GAMMA + torch.tensor(batch.reward)).unsqueeze(1)
    loss = nn.functional.smooth_l1_loss(q, target)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(policy_net.parameters(), 100)
    optimizer.step()
    with torch.no_grad():
        for tp, pp in zip(target_net.parameters(), policy_net.parameters()):
            tp.lerp_(pp, TAU)
    return loss.item()


returns, losses = [], []
for episode in range(320):
    state, total, done = env.reset(), 0.0, False
    while not done:
        action = select_action(state)
        nxt, reward, terminal, truncated = env.step(action.item())
        memory.push(state, action, None if terminal else nxt, reward)
        state, total, done = nxt, total + reward, terminal or truncated
        if steps_done % 3 == 0:
            loss = optimize_model()
            if loss is not None:
                losses.append(loss)
    returns.append(total)
    if episode % 80 == 79:
        print(f"episode {episode + 1}: mean return {sum(returns[-80:]) / 80:.3f}  loss {sum(losses[-50:]) / 50:.5f}")

wins, lengths = 0, []
for s in FREE:                                # greedy evaluation from every free cell
    state, done = env.reset(s), False
    while not done:
        state, r, terminal, truncated = env.step(policy_net(state).argmax().item())
        done = terminal or truncated
    wins += r == 1.0
    lengths.append(env.t)
print(f"updates {len(losses)}, greedy wins {wins}/{len(FREE)}, mean path {sum(lengths) / len(lengths):.2f}")
