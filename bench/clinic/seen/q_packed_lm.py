"""Character-level causal Transformer over packed docstrings: several documents share one row, a block
mask keeps them apart and positions restart with each.  Whole modules are held out."""
import importlib, inspect, math, random
import torch, torch.nn as nn, torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(2); random.seed(2)
ROW = 64
TRAIN = """argparse ast bdb calendar cmd codecs collections configparser contextlib csv decimal difflib doctest
email.message fractions functools gzip heapq imaplib inspect ipaddress locale logging mailbox optparse os
pathlib pdb pickle pkgutil platform plistlib pprint random re selectors shutil smtplib statistics""".split()
VALID = "tarfile tempfile textwrap threading tokenize traceback unittest.case uuid weakref zipfile".split()


def docs(names):
    found = {}
    for name in names:
        mod = importlib.import_module(name)
        for _, obj in inspect.getmembers(mod):
            if getattr(obj, "__module__", None) != name: continue
            for o in [obj] + ([v for _, v in inspect.getmembers(obj, inspect.isfunction)] if inspect.isclass(obj) else []):
                d = inspect.getdoc(o)
                if d and d.isascii() and len(d) > 20: found[" ".join(d.split()).lower()] = None
    return list(found)


train_docs = docs(TRAIN)
valid_docs = [d for d in docs(VALID) if d not in set(train_docs)]
vocab = ["<s>"] + sorted(set("".join(train_docs)))
stoi = {c: i for i, c in enumerate(vocab)}


def pack(documents):
    """First-fit packing of pieces (<= ROW-1 characters) into rows -> tokens, document number, position."""
    pieces = [d[k:k + ROW - 1] for d in documents for k in range(0, len(d), ROW - 1)]
    random.shuffle(pieces)
    rows = []
    for p in pieces:
        ids = [0] + [stoi[c] for c in p if c in stoi]
        for r in rows[-8:]:
            if sum(map(len, r)) + len(ids) <= ROW: r.append(ids); break
        else: rows.append([ids])
    tok = torch.zeros(len(rows), ROW, dtype=torch.long); seg = torch.full_like(tok, -1); pos = torch.zeros_like(tok)
    for i, r in enumerate(rows):
        at = 0
        for n, ids in enumerate(r):
            L = len(ids)
            tok[i, at:at + L] = torch.tensor(ids); seg[i, at:at + L] = n; pos[i, at:at + L] = torch.arange(L); at += L
    tgt = tok.roll(-1, 1); tgt[:, -1] = 0
    same = (seg == seg.roll(-1, 1)) & (seg >= 0); same[:, -1] = False
    return tok, seg, pos, tgt.masked_fill(~same, -100)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.h, self.n1, self.n2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.ff = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x, allow):
        B, T, D = x.shape
        q, k, v = self.qkv(self.n1(x)).view(B, T, 3, self.h, D // self.h).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=allow)
        x = x + self.proj(a.transpose(1, 2).reshape(B, T, D))
        return x + self.ff(self.n2(x))


class PackedLM(nn.Module):
    def __init__(self, V, d=56):
        super().__init__()
        self.tok, self.pos = nn.Embedding(V, d), nn.Embedding(ROW, d)
        nn.init.normal_(self.tok.weight, std=.3); nn.init.normal_(self.pos.weight, std=.05)
        self.lag = nn.ModuleList([nn.Linear(d, d, bias=False) for _ in range(4)])   # token shift, inside a document only
        self.blocks = nn.ModuleList([Block(d, 4) for _ in range(2)])
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, V)

    def forward(self, tok, seg, pos):
        T = tok.size(1)
        allow = (seg[:, :, None] == seg[:, None, :]) & torch.ones(T, T, dtype=torch.bool).tril()
        e = self.tok(tok)
        x = e + self.pos(pos)
        for k, lin in enumerate(self.lag, 1):
            x = x + lin(e).roll(k, 1) * (pos >= k).unsqueeze(-1)
        for b in self.blocks: x = b(x, allow[:, None])
        return self.out(self.norm(x))


def nats(model, data, size=64):
    model.eval(); s = c = 0
    with torch.no_grad():
        for tok, seg, pos, tgt in zip(*(t.split(size) for t in data)):
            s += F.cross_entropy(model(tok, seg, pos).flatten(0, 1), tgt.flatten(), ignore_index=-100, reduction="sum").item()
            c += (tgt >= 0).sum().item()
    return s / c


train, valid = pack(train_docs), pack(valid_docs)
valid = tuple(t[:100] for t in valid)
print(len(train_docs), "docs in", len(train[0]), "rows; vocabulary", len(vocab), "; filled", round((train[1] >= 0).float().mean().item(), 3))
model = PackedLM(len(vocab))
STEPS = 280
opt = torch.optim.AdamW([{"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": .05},
                         {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.}], lr=4e-3, betas=(.9, .98))
sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1, (s + 1) / 30) * (.05 + .95 * .5 * (1 + math.cos(math.pi * s / STEPS))))
for step in range(STEPS):
    model.train()
    tok, seg, pos, tgt = (t[torch.randint(len(train[0]), (10,), generator=torch.Generator().manual_seed(step))] for t in train)
    loss = F.cross_entropy(model(tok, seg, pos).flatten(0, 1), tgt.flatten(), ignore_index=-100)
    opt.zero_grad(); loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.)
    opt.step(); sched.step()
    if step % 70 == 69: print(f"step {step + 1} batch {loss.item():.3f} held-out {nats(model, valid):.3f}")

V = len(vocab); big = torch.full((V, V), .05)
ok = train[3] >= 0
big.index_put_((train[0][ok], train[3][ok]), torch.tensor(1.), accumulate=True)
vk = valid[3] >= 0
uni = big.sum(0) / big.sum()
print(f"held-out nats per character: transformer {nats(model, valid):.3f}, bigram {-(big / big.sum(1, True))[valid[0][vk], valid[3][vk]].log().mean():.3f}, unigram {-uni[valid[3][vk]].log().mean():.3f}")
