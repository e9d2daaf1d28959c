"""Read English number words, write digits.  GRU encoder, attention GRU decoder, teacher forcing.

    "two hundred six thousand and eleven" -> 2 0 6 0 1 1
"""
import argparse
import random

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen").split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = ["<pad>"] + ONES[1:] + TENS[2:] + ["hundred", "thousand", "and"]
W2I = {w: i for i, w in enumerate(WORDS)}
PAD, BOS, EOS = 10, 11, 12          # digit symbols 0..9 are themselves


def below_thousand(n):
    out = []
    if n >= 100:
        out += [ONES[n // 100], "hundred"]
        n %= 100
    if n >= 20:
        out.append(TENS[n // 10])
        n %= 10
    if n:
        out.append(ONES[n])
    return out


def spell(n):
    hi, lo = divmod(n, 1000)
    out = below_thousand(hi) + ["thousand"] if hi else []
    if hi and 0 < lo < 100:
        out.append("and")
    return out + below_thousand(lo)


def make_numbers(count, rng):
    """Distinct numbers, the number of digits roughly even between 3 and 6."""
    found = set()
    while len(found) < count:
        digits = rng.choice([3, 4, 5, 5, 6, 6, 6])
        if digits == 3 and rng.random() < 0.7:
            continue
        found.add(rng.randrange(10 ** (digits - 1), 10 ** digits))
    found = sorted(found)
    rng.shuffle(found)
    return found


def encode(numbers):
    src = [torch.tensor([W2I[w] for w in spell(n)]) for n in numbers]
    tgt = [torch.tensor([BOS] + [int(c) for c in str(n)] + [EOS]) for n in numbers]
    lengths = torch.tensor([len(s) for s in src])
    return (pad_sequence(src, batch_first=True, padding_value=0), lengths,
            pad_sequence(tgt, batch_first=True, padding_value=PAD))


class Encoder(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.embed = nn.Embedding(len(WORDS), dim, padding_idx=0)
        self.rnn = nn.GRU(dim, hidden, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hidden, hidden)

    def forward(self, src, lengths):
        packed = pack_padded_sequence(self.embed(src), lengths, batch_first=True, enforce_sorted=False)
        out, h = self.rnn(packed)
        out, _ = pad_packed_sequence(out, batch_first=True, total_length=src.size(1))
        return out, torch.tanh(self.bridge(torch.cat([h[0], h[1]], 1)))


class Decoder(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.embed = nn.Embedding(13, dim, padding_idx=PAD)
        self.cell = nn.GRUCell(dim + 2 * hidden, hidden)
        self.query = nn.Linear(hidden, 2 * hidden, bias=False)
        self.out = nn.Linear(3 * hidden, 13)

    def step(self, token, h, context, memory, mask):
        h = self.cell(torch.cat([self.embed(token), context], 1), h)
        score = torch.bmm(memory, self.query(h).unsqueeze(2)).squeeze(2) / memory.size(2) ** 0.5
        weight = score.masked_fill(mask, float("-inf")).softmax(1)
        context = torch.bmm(weight.unsqueeze(1), memory).squeeze(1)
        return self.out(torch.cat([h, context], 1)), h, context


class Seq2Seq(nn.Module):
    def __init__(self, dim=32, hidden=64):
        super().__init__()
        self.encoder, self.decoder = Encoder(dim, hidden), Decoder(dim, hidden)

    def forward(self, src, lengths, tgt_in):
        memory, h = self.encoder(src, lengths)
        mask = src == 0
        context = memory.new_zeros(len(src), memory.size(2))
        logits = []
        for t in range(tgt_in.size(1)):
            step, h, context = self.decoder.step(tgt_in[:, t], h, context, memory, mask)
            logits.append(step)
        return torch.stack(logits, 1)

    @torch.no_grad()
    def greedy(self, src, lengths, max_len=8):
        memory, h = self.encoder(src, lengths)
        mask = src == 0
        context = memory.new_zeros(len(src), memory.size(2))
        token = torch.full((len(src),), BOS)
        out = []
        for _ in range(max_len):
            logits, h, context = self.decoder.step(token, h, context, memory, mask)
            token = logits.argmax(1)
            out.append(token)
        return torch.stack(out, 1)


def exact_match(model, numbers):
    model.eval()
    src, lengths, _ = encode(numbers)
    right = 0
    for n, row in zip(numbers, model.greedy(src, lengths).tolist()):
        text = "".join(str(d) for d in row[:row.index(EOS)]) if EOS in row else ""
        right += text == str(n)
    model.train()
    return right / len(numbers)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--steps", type=int, default=300)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--lr", type=float, default=4e-3)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    numbers = make_numbers(11000, rng)
    train, valid, test = numbers[:9800], numbers[9800:10200], numbers[10200:]

    model = Seq2Seq()
    opt = torch.optim.Adam(model.parameters(), lr=args.lr)
    sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, args.steps, eta_min=args.lr / 50)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)

    order, cursor = list(range(len(train))), 0
    rng.shuffle(order)
    model.train()
    for step in range(1, args.steps + 1):
        if cursor + args.batch > len(order):
            rng.shuffle(order)
            cursor = 0
        batch = [train[i] for i in order[cursor:cursor + args.batch]]
        cursor += args.batch
        src, lengths, tgt = encode(batch)
        logits = model(src, lengths, tgt[:, :-1])
        loss = criterion(logits.flatten(0, 1), tgt[:, 1:].flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        if step % 75 == 0:
            print(f"step {step:4d}  loss {loss.item():.4f}  valid exact {exact_match(model, valid):.3f}")

    by_length = {}
    for n in train:
        by_length.setdefault(len(spell(n)), []).append(n)
    guess = {k: "".join(max("0123456789", key=[str(v)[i] for v in vs if len(str(v)) > i].count)
                        for i in range(round(sum(len(str(v)) for v in vs) / len(vs))))
             for k, vs in by_length.items()}
    base = sum(guess.get(len(spell(n)), "") == str(n) for n in test) / len(test)
    print(f"test exact match {exact_match(model, test):.3f}   (commonest digits by length: {base:.3f})")


if __name__ == "__main__":
    main()
