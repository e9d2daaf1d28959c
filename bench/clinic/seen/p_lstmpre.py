"""Semi-supervised sensor traces: pretrain an LSTM to predict the next reading on many
unlabelled traces, then fine-tune its state for a 3-way label with only 360 labelled ones."""
import copy
import numpy as np
import torch
import torch.nn as nn

torch.set_num_threads(1)
torch.manual_seed(8)
rng = np.random.default_rng(8)
T = 36


def traces(n):
    kind = rng.integers(0, 3, n)
    t = np.arange(T)[None]
    f = rng.uniform(0.25, 0.5, n)[:, None]
    ph = rng.uniform(0, 2 * np.pi, n)[:, None]
    a = rng.uniform(0.7, 1.5, n)[:, None]
    base = 2 * np.pi * f * t / 4 + ph
    sine = np.sin(base)
    saw = 2 * ((base / (2 * np.pi)) % 1) - 1
    chirp = np.sin(base * (1 + t / T))
    x = a * np.choose(kind[:, None], [sine * 1.1, saw * 1.35, chirp * 1.1]) + rng.normal(0, 0.25, (n, T))
    return torch.tensor(x, dtype=torch.float32).unsqueeze(-1), torch.tensor(kind)


unlabelled, _ = traces(3200)
pre_val, _ = traces(400)
few_x, few_y = traces(360)
val_x, val_y = traces(500)
test_x, test_y = traces(1000)


class Encoder(nn.Module):
    def __init__(self, h=40):
        super().__init__()
        self.lstm = nn.LSTM(1, h, batch_first=True)
        self.next_value = nn.Linear(h, 1)

    def forward(self, x):
        out, (h, c) = self.lstm(x)
        return self.next_value(out), out


class Classifier(nn.Module):
    def __init__(self, encoder, h=40):
        super().__init__()
        self.lstm = encoder.lstm            # the next-value head stays behind
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(2 * h, 3)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(self.drop(torch.cat([out.mean(1), out[:, -1]], 1)))


# ---- phase 1: next-step prediction --------------------------------------------------
encoder = Encoder()
opt = torch.optim.Adam(encoder.parameters(), lr=6e-3)
mse = nn.MSELoss()
for epoch in range(5):
    for idx in torch.randperm(len(unlabelled)).split(64):
        x = unlabelled[idx]
        pred, _ = encoder(x[:, :-1])
        loss = mse(pred, x[:, 1:])
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        opt.step()
    with torch.no_grad():
        v = mse(encoder(pre_val[:, :-1])[0], pre_val[:, 1:]).item()
    print(f"pretrain {epoch}: valid mse {v:.4f}  (repeat last value "
          f"{mse(pre_val[:, :-1], pre_val[:, 1:]).item():.4f}, zero {pre_val[:, 1:].pow(2).mean().item():.4f})")


# ---- phase 2: fine-tuning -----------------------------------------------------------
def finetune(enc, label, epochs=20, enc_lr=1e-3, head_lr=3e-3):
    torch.manual_seed(1)
    clf = Classifier(enc)
    body = list(clf.lstm.parameters())
    opt = torch.optim.AdamW([{"params": body, "lr": enc_lr}, {"params": clf.head.parameters(), "lr": head_lr}],
                            weight_decay=0.05)
    best, kept = float("inf"), None
    for epoch in range(epochs):
        clf.train()
        running = 0.0
        for g, base in zip(opt.param_groups, (enc_lr, head_lr)):
            g["lr"] = base * (1 - epoch / epochs)
        for idx in torch.randperm(len(few_x)).split(30):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(clf(few_x[idx]), few_y[idx])
            loss.backward()
            nn.utils.clip_grad_norm_(clf.parameters(), 1.0)
            opt.step()
            running += loss.item() * len(idx) / len(few_x)
        clf.eval()
        with torch.no_grad():
            out = clf(val_x)
            vl = nn.functional.cross_entropy(out, val_y).item()
        if vl < best:
            best, kept = vl, copy.deepcopy(clf.state_dict())
        if epoch % 4 == 3:
            print(f"  {label} {epoch + 1}: train {running:.3f} valid {vl:.3f} acc {(out.argmax(1) == val_y).float().mean().item():.3f}")
    clf.load_state_dict(kept)
    with torch.no_grad():
        return (clf(test_x).argmax(1) == test_y).float().mean().item()


acc = finetune(encoder, "fine-tune")
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
flat = lambda x: x.squeeze(-1).numpy()
spec = lambda x: np.abs(np.fft.rfft(flat(x), axis=1))
print(f"test accuracy {acc:.3f}; logistic on raw {LogisticRegression(max_iter=500).fit(flat(few_x), few_y).score(flat(test_x), test_y):.3f}, "
      f"svm on spectrum {SVC(C=3).fit(spec(few_x), few_y).score(spec(test_x), test_y):.3f}, chance 0.333")
