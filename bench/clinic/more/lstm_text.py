"""Which topic does a sentence open with? Synthetic sentences of varying length, LSTM classifier."""
import random

import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

torch.set_num_threads(1)
random.seed(7)
torch.manual_seed(7)

PAD = 0
FILLER = list(range(1, 31))
TOPICS = [list(range(31, 37)), list(range(37, 43)), list(range(43, 49)), list(range(49, 55))]
VOCAB = 55


def make_sentence():
    """The first topic word decides; later topic words are digressions."""
    topic = random.randrange(len(TOPICS))
    length = random.randint(6, 16)
    opening = random.randint(0, 4)
    words = [random.choice(FILLER) for _ in range(opening)] + [random.choice(TOPICS[topic])]
    while len(words) < length:
        source = random.choice(TOPICS) if random.random() < 0.3 else FILLER
        words.append(random.choice(source))
    return words, topic


def collate(samples):
    seqs = [torch.tensor(words) for words, _ in samples]
    lengths = torch.tensor([len(s) for s in seqs])
    tokens = pad_sequence(seqs, batch_first=True, padding_value=PAD)
    labels = torch.tensor([topic for _, topic in samples])
    return tokens, lengths, labels


class LSTMClassifier(nn.Module):
    def __init__(self, emb=24, hidden=32, n_classes=4):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, emb, padding_idx=PAD)
        self.lstm = nn.LSTM(emb, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, n_classes)

    def forward(self, tokens, lengths):
        x = self.embedding(tokens)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.fc(h[-1])


def evaluate(model, data, criterion):
    model.eval()
    total, correct = 0.0, 0
    with torch.no_grad():
        for i in range(0, len(data), 100):
            tokens, lengths, labels = collate(data[i:i + 100])
            logits = model(tokens, lengths)
            total += criterion(logits, labels).item() * len(labels)
            correct += (logits.argmax(-1) == labels).sum().item()
    return total / len(data), correct / len(data)


sentences = [make_sentence() for _ in range(2800)]
train_data, val_data = sentences[:2400], sentences[2400:]

model = LSTMClassifier()
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

step = 0
for epoch in range(8):
    model.train()
    random.shuffle(train_data)
    epoch_loss = 0.0
    for i in range(0, len(train_data), 48):
        tokens, lengths, labels = collate(train_data[i:i + 48])
        logits = model(tokens, lengths)
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        epoch_loss += loss.item()
        step += 1
    val_loss, val_acc = evaluate(model, val_data, criterion)
    print(f"epoch {epoch} step {step} loss {epoch_loss / 50:.4f} val_loss {val_loss:.4f} val_acc {val_acc:.3f}")
