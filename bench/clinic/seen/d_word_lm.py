# Word-level LSTM language model on sentences from a toy grammar.
import argparse
import math
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)

NOUNS = {"s": ["dog", "cat", "child", "robot", "farmer"], "p": ["dogs", "cats", "children", "robots", "farmers"]}
VERBS = {"s": ["sees", "likes", "chases", "finds"], "p": ["see", "like", "chase", "find"]}
INTRANS = {"s": ["sleeps", "runs", "waits"], "p": ["sleep", "run", "wait"]}
ADJ = ["small", "old", "red", "happy"]
PLACES = ["in the garden", "near the river", "at home"]


def noun_phrase(rng, number):
    det = rng.choice(["a", "the", "every"]) if number == "s" else rng.choice(["the", "some", "many"])
    adj = [rng.choice(ADJ)] if rng.random() < 0.4 else []
    return [det] + adj + [rng.choice(NOUNS[number])]


def sentence(rng):
    number = rng.choice("sp")
    words = noun_phrase(rng, number)
    if rng.random() < 0.5:
        words += [rng.choice(VERBS[number])] + noun_phrase(rng, rng.choice("sp"))
    else:
        words += [rng.choice(INTRANS[number])]
    if rng.random() < 0.3:
        words += rng.choice(PLACES).split()
    return words + ["."]


def make_text(n_words, seed):
    rng = random.Random(seed)
    words = []
    while len(words) < n_words:
        words += sentence(rng)
    return words[:n_words]


def batchify(ids, batch_size):
    n = len(ids) // batch_size
    return ids[: n * batch_size].view(batch_size, n).t().contiguous()  # time x batch


def get_chunk(data, i, bptt):
    n = min(bptt, len(data) - 1 - i)
    return data[i:i + n], data[i + 1:i + 1 + n]


class RNNModel(nn.Module):
    def __init__(self, n_vocab, n_emb, n_hid, dropout):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(n_vocab, n_emb)
        self.rnn = nn.LSTM(n_emb, n_hid)
        self.decoder = nn.Linear(n_hid, n_vocab)

    def forward(self, x, hidden=None):
        emb = self.drop(self.encoder(x))
        out, hidden = self.rnn(emb, hidden)
        return self.decoder(self.drop(out)), hidden


def repackage(hidden):
    return tuple(h.detach() for h in hidden)


def train_epoch(model, data, optimizer, args, epoch):
    model.train()
    hidden, total, count = None, 0.0, 0
    for i in range(0, len(data) - 1, args.bptt):
        x, y = get_chunk(data, i, args.bptt)
        optimizer.zero_grad()
        logits, hidden = model(x, hidden)
        hidden = repackage(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        total += loss.item() * y.numel()
        count += y.numel()
    return total / count


def evaluate(model, data, args):
    model.eval()
    hidden, total, count = None, 0.0, 0
    with torch.no_grad():
        for i in range(0, len(data) - 1, args.bptt):
            x, y = get_chunk(data, i, args.bptt)
            logits, hidden = model(x, hidden)
            loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
            total += loss.item() * y.numel()
            count += y.numel()
    return total / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--emb", type=int, default=24)
    parser.add_argument("--hid", type=int, default=48)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--bptt", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--clip", type=float, default=1.0)
    args = parser.parse_args([])
    torch.manual_seed(1)

    train_words, val_words = make_text(16000, seed=10), make_text(4000, seed=11)
    vocab = {w: k for k, w in enumerate(sorted(set(train_words)))}
    train_data = batchify(torch.tensor([vocab[w] for w in train_words]), args.batch_size)
    val_data = batchify(torch.tensor([vocab[w] for w in val_words]), args.batch_size)

    model = RNNModel(len(vocab), args.emb, args.hid, args.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs, eta_min=1e-4)
    for epoch in range(1, args.epochs + 1):
        train_loss = train_epoch(model, train_data, optimizer, args, epoch)
        val_loss = evaluate(model, val_data, args)
        scheduler.step()
        print(f"| epoch {epoch:2d} | train loss {train_loss:.3f} | val loss {val_loss:.3f} | val ppl {math.exp(min(val_loss, 20)):8.2f}")


if __name__ == "__main__":
    main()
