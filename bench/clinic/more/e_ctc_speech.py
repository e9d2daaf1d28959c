# Toy speech recogniser: BiGRU + CTC on synthetic log-spectrograms.
import numpy as np
import torch
from torch import nn, optim
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(1)
torch.manual_seed(1)

N_SYMBOLS = 8          # symbols are 1..8, 0 is the CTC blank
N_MELS = 16
EPOCHS = 12
BATCH_SIZE = 32

PATTERNS = np.random.default_rng(7).gamma(0.8, 2.0, size=(N_SYMBOLS + 1, N_MELS))
PATTERNS[0] = 0.0      # silence has no energy


class SpeechDataset(Dataset):
    """Each symbol leaves its pattern over 3-5 frames, with a little silence before it."""

    def __init__(self, n, seed, augment=False):
        rng = np.random.default_rng(seed)
        self.samples = []
        for _ in range(n):
            text = rng.integers(1, N_SYMBOLS + 1, size=rng.integers(3, 7))
            frames = []
            for sym in text:
                frames += [0] * rng.integers(1, 3) + [sym] * rng.integers(3, 6)
            power = PATTERNS[frames] * rng.gamma(0.9, 1.1, size=(len(frames), N_MELS))
            self.samples.append((power, text))
        self.augment = augment

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        power, text = self.samples[i]
        feats = np.log(power + 0.05)
        feats = (feats + 0.9) / 1.9            # dataset mean and std, measured once
        feats = torch.tensor(feats, dtype=torch.float32)
        if self.augment:
            feats = feats + 0.1 * torch.randn_like(feats)
        return feats, torch.tensor(text)


def collate(batch):
    feats, texts = zip(*batch)
    feat_lens = torch.tensor([len(f) for f in feats])
    text_lens = torch.tensor([len(t) for t in texts])
    x = pad_sequence(feats, batch_first=True)
    return x, feat_lens, pad_sequence(texts, batch_first=True), text_lens


class Recogniser(nn.Module):
    def __init__(self, hidden=40):
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(N_MELS, hidden), nn.ReLU(), nn.Dropout(0.1))
        self.rnn = nn.GRU(hidden, hidden, bidirectional=True, batch_first=True)
        self.head = nn.Linear(2 * hidden, N_SYMBOLS + 1)

    def forward(self, x, lens):
        h = self.proj(x)
        packed = pack_padded_sequence(h, lens, batch_first=True, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        log_probs = self.head(h).log_softmax(dim=-1)
        return log_probs.transpose(0, 1)       # CTC wants (T, B, C)


def edit_distance(a, b):
    row = list(range(len(b) + 1))
    for i, ca in enumerate(a, 1):
        prev, row[0] = row[0], i
        for j, cb in enumerate(b, 1):
            prev, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, prev + (ca != cb))
    return row[-1]


def greedy(log_probs, lens):
    best = log_probs.argmax(-1).T.tolist()
    texts = []
    for seq, n in zip(best, lens.tolist()):
        seq = seq[:n]
        texts.append([s for k, s in enumerate(seq) if s != 0 and (k == 0 or s != seq[k - 1])])
    return texts


def evaluate(model, loader, ctc):
    model.eval()
    total, errors, symbols = 0.0, 0, 0
    with torch.no_grad():
        for x, x_lens, y, y_lens in loader:
            log_probs = model(x, x_lens)
            total += ctc(log_probs, y, x_lens, y_lens).item() * len(x)
            for hyp, ref, n in zip(greedy(log_probs, x_lens), y.tolist(), y_lens.tolist()):
                errors += edit_distance(hyp, ref[:n])
                symbols += n
    model.train()
    return total / len(loader.dataset), errors / symbols


train_set = SpeechDataset(480, seed=0, augment=True)
val_set = SpeechDataset(128, seed=1)
train_loader = DataLoader(train_set, BATCH_SIZE, shuffle=True, collate_fn=collate)
val_loader = DataLoader(val_set, 64, collate_fn=collate)

model = Recogniser()
ctc = nn.CTCLoss(blank=0, zero_infinity=True)
optimizer = optim.Adam(model.parameters(), lr=8e-3)
scheduler = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.85)

for epoch in range(EPOCHS):
    running = 0.0
    for x, x_lens, y, y_lens in train_loader:
        optimizer.zero_grad()
        loss = ctc(model(x, x_lens), y, x_lens, y_lens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        running += loss.item()
    scheduler.step()
    val_loss, ser = evaluate(model, val_loader, ctc)
    print(f"epoch {epoch + 1:2d}  train {running / len(train_loader):.3f}  val {val_loss:.3f}  symbol error rate {ser:.3f}")
