"""How deep are the brackets nested?  A GRU, short words first (growing pool, sorted by length)."""
import random
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

torch.set_num_threads(1)
torch.manual_seed(0)
random.seed(0)
MAX_DEPTH = 6


def dyck(pairs, up):
    """random balanced word; `up` biases towards deep ones"""
    word, depth, opened = [], 0, 0
    while len(word) < 2 * pairs:
        can_open = opened < pairs and depth < MAX_DEPTH
        if depth == 0 or (can_open and random.random() < up):
            word.append("(")
            depth, opened = depth + 1, opened + 1
        else:
            word.append(")")
            depth -= 1
    return "".join(word)


def nesting(word):
    d = best = 0
    for ch in word:
        d += 1 if ch == "(" else -1
        best = max(best, d)
    return best


words = set()
while len(words) < 5000:
    words.add(dyck(random.randint(4, 12), random.uniform(0.35, 0.8)))
words = sorted(words)
random.shuffle(words)
held, train = words[:1000], words[1000:]
train.sort(key=lambda w: (len(w), nesting(w)))            # easy -> hard


def collate(ws):
    ids = [torch.tensor([1 if c == "(" else 2 for c in w]) for w in ws]
    return pad_sequence(ids, batch_first=True), torch.tensor([len(w) for w in ws]), torch.tensor([nesting(w) - 1 for w in ws])


class DepthNet(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.emb = nn.Embedding(3, 8, padding_idx=0)
        self.gru = nn.GRU(8, hidden, batch_first=True)
        self.out = nn.Linear(hidden, MAX_DEPTH)

    def forward(self, ids, lens):
        states, _ = self.gru(self.emb(ids))
        mask = torch.arange(ids.shape[1])[None] < lens[:, None]
        pooled = states.masked_fill(~mask[..., None], -2.0).amax(1)
        return self.out(pooled)


def evaluate(model, ws):
    model.eval()
    with torch.no_grad():
        ids, lens, y = collate(ws)
        logits = model(ids, lens)
        res = nn.functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()
    model.train()
    return res


model = DepthNet()
opt = torch.optim.Adam(model.parameters(), lr=8e-3)
STEPS = 360
warm_off = torch.optim.lr_scheduler.MultiStepLR(opt, [260, 320], gamma=0.3)
log = []
for step in range(STEPS):
    # pacing: 15 % of the pool at first, all of it after two thirds of the time
    share = min(1.0, 0.15 + 0.85 * step / (STEPS * 0.6))
    pool = train[: int(share * len(train))]
    ids, lens, y = collate(random.sample(pool, 64))
    loss = nn.functional.cross_entropy(model(ids, lens), y)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    warm_off.step()
    log.append(loss.item())
    if step % 60 == 59:
        vl, va = evaluate(model, held)
        print(f"step {step + 1:4d} pool {len(pool):4d} (longest {len(pool[-1])})  train {sum(log[-50:]) / 50:.3f}  held-out {vl:.3f} / {va:.3f}")

for lo, hi in ((8, 12), (14, 18), (20, 24)):
    part = [w for w in held if lo <= len(w) <= hi]
    print(f"length {lo}-{hi}: {evaluate(model, part)[1]:.3f} of {len(part)}")
depths = [nesting(w) for w in train]
mode = max(set(depths), key=depths.count)
print(f"always answering {mode}: {sum(nesting(w) == mode for w in held) / len(held):.3f}")
