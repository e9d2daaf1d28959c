# Sequence classification with a SortaGrad curriculum (as in Deep Speech 2):
# the first epoch goes through the training sequences from short to long, because
# the short ones are easy; from the second epoch on everything is shuffled.
#
# toy task: a stream of tokens, four of them are "commands",
# the rest is chatter. Which command came most often?
import random
from collections import Counter
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence, pack_padded_sequence
from torch.utils.data import DataLoader

random.seed(3)
torch.manual_seed(3)

N_COMMANDS = 4
VOCAB = 24          # 0 is padding, 1-4 are the commands, 5-23 is chatter


def make_sequence():
    n = random.randint(5, 30)
    seq = [random.randint(5, VOCAB - 1) for _ in range(n)]
    for pos in random.sample(range(n), random.randint(1, max(1, n // 3))):
        seq[pos] = random.randint(1, N_COMMANDS)
    ranked = Counter(t for t in seq if t <= N_COMMANDS).most_common()
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        return make_sequence()      # tie, draw again
    return tuple(seq), ranked[0][0] - 1


seqs = {}
while len(seqs) < 4000:
    s, label = make_sequence()
    seqs[s] = label          # dict: no sequence twice
data = [(torch.tensor(s), label) for s, label in seqs.items()]
train, val, test = data[:2800], data[2800:3300], data[3300:]


def collate(batch):
    xs, ys = zip(*batch)
    return pad_sequence(xs, batch_first=True), torch.tensor([len(x) for x in xs]), torch.tensor(ys)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, 24, padding_idx=0)
        self.gru = nn.GRU(24, 48, batch_first=True)
        self.out = nn.Linear(48, N_COMMANDS)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(self.emb(x), lengths, batch_first=True, enforce_sorted=False)
        _, h = self.gru(packed)
        return self.out(h[-1])


model = Tagger()
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
loss_fn = nn.CrossEntropyLoss()


def accuracy(part):
    model.eval()
    hits = 0
    with torch.no_grad():
        for x, l, y in DataLoader(part, batch_size=250, collate_fn=collate):
            hits += (model(x, l).argmax(1) == y).sum().item()
    return hits / len(part)


by_length = sorted(train, key=lambda p: len(p[0]))
curriculum_loader = DataLoader(by_length, batch_size=40, shuffle=False, collate_fn=collate)  # short -> long, wanted
shuffled_loader = DataLoader(train, batch_size=40, shuffle=True, collate_fn=collate)

for epoch in range(6):
    loader = curriculum_loader if epoch == 0 else shuffled_loader
    model.train()
    tot = 0.
    for x, l, y in loader:
        opt.zero_grad()
        loss = loss_fn(model(x, l), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        tot += loss.item()
    print(epoch, 'curriculum' if epoch == 0 else 'shuffled', round(tot / len(loader), 4), 'val acc', accuracy(val))

counts = torch.bincount(torch.tensor([y for _, y in train]), minlength=N_COMMANDS)
base = sum(y == counts.argmax().item() for _, y in test) / len(test)
print(f'test accuracy {accuracy(test):.4f}, always the commonest class {base:.4f}')
