"""Sequence to sequence with attention: learn to write a sequence of symbols backwards."""
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(3)
random.seed(3)

PAD, SOS, EOS = 0, 1, 2
N_SYMBOLS = 12
VOCAB = N_SYMBOLS + 3
MIN_LEN, MAX_LEN = 4, 7
BATCH_SIZE = 64
EPOCHS = 10
CLIP = 1.0


def make_pairs(n):
    pairs = []
    for _ in range(n):
        length = random.randint(MIN_LEN, MAX_LEN)
        seq = [random.randint(3, VOCAB - 1) for _ in range(length)]
        pairs.append((seq, seq[::-1]))
    return pairs


def pad_to(rows, width):
    return torch.tensor([r + [PAD] * (width - len(r)) for r in rows])


def collate(pairs):
    width = max(len(s) for s, _ in pairs) + 1
    src = pad_to([s for s, _ in pairs], width)
    dec_in = pad_to([[SOS] + t for _, t in pairs], width)
    dec_out = pad_to([t + [EOS] for _, t in pairs], width)
    return src, dec_in, dec_out


class Encoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.drop = nn.Dropout(0.1)
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.join = nn.Linear(2 * dim, dim)

    def forward(self, src):
        out, h = self.gru(self.drop(self.emb(src)))
        return torch.tanh(self.join(out)), torch.tanh(self.join(torch.cat([h[0], h[1]], 1)))


class Decoder(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.drop = nn.Dropout(0.1)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.query = nn.Linear(dim, dim)
        self.out = nn.Linear(2 * dim, VOCAB)

    def forward(self, dec_in, memory, h, src):
        states, h = self.gru(self.drop(self.emb(dec_in)), h.unsqueeze(0))
        scores = self.query(states) @ memory.transpose(1, 2)
        scores = scores.masked_fill((src == PAD)[:, None, :], float("-inf"))
        context = F.softmax(scores, dim=-1) @ memory
        return self.out(torch.cat([states, context], dim=-1)), h[0]


class Seq2Seq(nn.Module):
    def __init__(self, dim=48):
        super().__init__()
        self.encoder = Encoder(dim)
        self.decoder = Decoder(dim)

    def forward(self, src, dec_in):
        memory, h = self.encoder(src)
        logits, _ = self.decoder(dec_in, memory, h, src)
        return logits


train_pairs = make_pairs(1600)
seen = {tuple(s) for s, _ in train_pairs}
val_pairs = [p for p in make_pairs(300) if tuple(p[0]) not in seen]
model = Seq2Seq()
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = torch.optim.Adam(model.parameters(), lr=6e-3)
val_src, val_in, val_out = collate(val_pairs)


def validate():
    model.eval()
    with torch.no_grad():
        logits = model(val_src, val_in)
        loss = criterion(logits.flatten(0, 1), val_out.reshape(-1)).item()
    right = (logits.argmax(-1) == val_out)[val_out != PAD].float().mean().item()
    model.train()
    return loss, right


for epoch in range(EPOCHS):
    random.shuffle(train_pairs)
    running = []
    for start in range(0, len(train_pairs), BATCH_SIZE):
        src, dec_in, dec_out = collate(train_pairs[start:start + BATCH_SIZE])
        optimizer.zero_grad()
        logits = model(src, dec_in)
        loss = criterion(logits.flatten(0, 1), dec_out.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        running.append(loss.item())
    val_loss, val_acc = validate()
    print(f"epoch {epoch} train {sum(running) / len(running):.3f} val {val_loss:.3f} token accuracy {val_acc:.3f}")
