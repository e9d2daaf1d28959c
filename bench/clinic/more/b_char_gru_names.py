"""Character-level GRU that learns to spell generated names."""
import random
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

torch.set_num_threads(1)

ONSETS = ["b", "br", "d", "dr", "f", "g", "k", "l", "m", "n", "r", "s", "st", "t", "th", "v"]
VOWELS = ["a", "e", "i", "o", "ai", "ea"]
CODAS = ["", "", "n", "r", "l", "s"]
ENDINGS = ["ia", "on", "us", "el", "ra"]
PAD, BOS, EOS = 0, 1, 2
chars = sorted(set("".join(ONSETS + VOWELS + CODAS + ENDINGS)))
stoi = {c: i + 3 for i, c in enumerate(chars)}
VOCAB = len(stoi) + 3


def make_name(rng):
    name = ""
    for _ in range(rng.choice([1, 2, 2])):
        name += rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
    return name + rng.choice(ENDINGS)


def encode(name):
    return torch.tensor([BOS] + [stoi[c] for c in name] + [EOS])


def collate(batch):
    seqs = [encode(b) for b in batch]
    padded = pad_sequence(seqs, batch_first=True, padding_value=PAD)
    return padded[:, :-1], padded[:, 1:]


class CharGRU(nn.Module):
    def __init__(self, vocab, emb=24, hidden=64):
        super().__init__()
        self.emb = nn.Embedding(vocab, emb, padding_idx=PAD)
        self.gru = nn.GRU(emb, hidden, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(hidden, vocab)

    def forward(self, x):
        h, _ = self.gru(self.emb(x))
        return self.fc(self.drop(h))


def evaluate(model, loader, criterion):
    model.eval()
    tot, cnt = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            logits = model(x)
            n = (y != PAD).sum().item()
            tot += criterion(logits.reshape(-1, VOCAB), y.reshape(-1)).item() * n
            cnt += n
    model.train()
    return tot / max(cnt, 1)


def main():
    torch.manual_seed(1)
    rng = random.Random(1)
    names = sorted({make_name(rng) for _ in range(1700)})
    rng.shuffle(names)
    cut = int(0.85 * len(names))
    train_loader = DataLoader(names[:cut], batch_size=48, shuffle=True, collate_fn=collate)
    val_loader = DataLoader(names[cut:], batch_size=128, collate_fn=collate)

    model = CharGRU(VOCAB)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    for epoch in range(8):
        running = 0.0
        for i, (x, y) in enumerate(train_loader):
            logits = model(x)
            loss = criterion(logits.reshape(-1, VOCAB), y.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running += loss.item()
        print(f"epoch {epoch + 1} train {running / len(train_loader):.4f} "
              f"val {evaluate(model, val_loader, criterion):.4f}")


main()
