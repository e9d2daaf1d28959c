"""Seq2seq with Luong attention: human dates ('3 march 1998') -> ISO dates ('1998-03-03')."""
import datetime
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
random.seed(5)
torch.manual_seed(5)

PAD, SOS, EOS = 0, 1, 2
src_chars = "abcdefghijklmnopqrstuvwxyz0123456789 ,/."
tgt_chars = "0123456789-"
src_stoi = {c: i + 3 for i, c in enumerate(src_chars)}
tgt_stoi = {c: i + 3 for i, c in enumerate(tgt_chars)}
tgt_itos = {i: c for c, i in tgt_stoi.items()}
FORMATS = ["%d %B %Y", "%B %d, %Y", "%d %b %Y", "%d/%m/%Y", "%A %d %B %Y"]


def make_pair(day):
    return day.strftime(random.choice(FORMATS)).lower(), day.isoformat()


start = datetime.date(1970, 1, 1)
days = [start + datetime.timedelta(days=k) for k in random.sample(range(365 * 50), 2750)]
pairs = [make_pair(d) for d in days]
train_pairs, val_pairs = pairs[:2500], pairs[2500:]


def to_batch(chunk):
    src = [torch.tensor([src_stoi[c] for c in s]) for s, _ in chunk]
    tgt = [torch.tensor([SOS] + [tgt_stoi[c] for c in t] + [EOS]) for _, t in chunk]
    pad = nn.utils.rnn.pad_sequence
    return pad(src, batch_first=True), pad(tgt, batch_first=True)


class Encoder(nn.Module):
    def __init__(self, n_vocab, emb, hid):
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, emb, padding_idx=PAD)
        self.gru = nn.GRU(emb, hid, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * hid, hid)

    def forward(self, src):
        out, h = self.gru(self.embedding(src))
        h0 = torch.tanh(self.bridge(torch.cat([h[0], h[1]], dim=-1)))
        return self.bridge(out), h0.unsqueeze(0)


class AttnDecoder(nn.Module):
    def __init__(self, n_vocab, emb, hid):
        super().__init__()
        self.embedding = nn.Embedding(n_vocab, emb, padding_idx=PAD)
        self.gru = nn.GRU(emb, hid, batch_first=True)
        self.out = nn.Linear(2 * hid, n_vocab)

    def forward(self, tokens, hidden, memory, mask):
        q, hidden = self.gru(self.embedding(tokens), hidden)
        scores = q @ memory.transpose(1, 2) / memory.size(-1) ** 0.5
        attn = scores.masked_fill(~mask[:, None, :], float("-inf")).softmax(-1)
        return self.out(torch.cat([q, attn @ memory], dim=-1)), hidden


encoder = Encoder(len(src_stoi) + 3, 24, 48)
decoder = AttnDecoder(len(tgt_stoi) + 3, 16, 48)
enc_opt = torch.optim.Adam(encoder.parameters(), lr=4e-3)
dec_opt = torch.optim.Adam(decoder.parameters(), lr=4e-3)


def decode(src, tgt, teacher_forcing):
    memory, hidden = encoder(src)
    mask = src != PAD
    if teacher_forcing:
        return decoder(tgt[:, :-1], hidden, memory, mask)[0]
    token, steps = tgt[:, :1], []
    for _ in range(tgt.size(1) - 1):
        logit, hidden = decoder(token, hidden, memory, mask)
        token = logit.argmax(-1).detach()
        steps.append(logit)
    return torch.cat(steps, dim=1)


def seq_loss(logits, tgt):
    return F.cross_entropy(logits.flatten(0, 1), tgt[:, 1:].flatten(), ignore_index=PAD)


print_loss_total = 0.0
it = 0
for epoch in range(3):
    random.shuffle(train_pairs)
    for k in range(0, len(train_pairs), 32):
        src, tgt = to_batch(train_pairs[k:k + 32])
        enc_opt.zero_grad(); dec_opt.zero_grad()
        loss = seq_loss(decode(src, tgt, random.random() < 0.8), tgt)
        loss.backward()
        nn.utils.clip_grad_norm_([*encoder.parameters(), *decoder.parameters()], 1.0)
        enc_opt.step(); dec_opt.step()
        print_loss_total += loss.item()
        it += 1
        if it % 39 == 0:
            with torch.no_grad():
                vs, vt = to_batch(val_pairs)
                pred = decode(vs, vt, False)
                exact = (pred.argmax(-1) == vt[:, 1:]).all(1).float().mean()
            print(f"{it:4d} loss {print_loss_total / 39:.3f}  val {seq_loss(pred, vt):.3f}  exact {exact:.3f}")
            print_loss_total = 0.0

with torch.no_grad():
    s, t = to_batch(val_pairs[:3])
    for (human, iso), row in zip(val_pairs[:3], decode(s, t, False).argmax(-1).tolist()):
        print(human, "->", "".join(tgt_itos.get(c, "") for c in row), "| true", iso)
