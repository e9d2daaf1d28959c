"""The plain PyTorch script of a run, section by section: what `train/setup.py`, `data/` and `train/fit.py` do, written out.

Only what the recipe turned on is in it, so that it reads as a page of a book on training. Each section is a function that gives
lines of Python. Where the order of operations in one looks odd, it is the order that gives the same bits.

Not here: the networks (`networks.py`), and whether a recipe can be written out at all, which is decided before (`__init__.py`).

    >>> text = script(job, Source(run="2026-11-28-1015-digits", torch="2.14.1", threads=2, file="digits.py"))
"""

import re
from dataclasses import dataclass
from typing import Any

from wellfit.data.arrays import Arrays
from wellfit.data.augment import (
    DELETED,
    DOWN,
    FIRST,
    FOR_IMAGES,
    FOR_TEXTS,
    KEPT,
    MIRROR,
    MOST_TOKENS,
    RIGHT,
    SECOND,
    turned_on,
)
from wellfit.data.batches import POOL, InMemory, OfSamples
from wellfit.deliver.eject import networks
from wellfit.optim.groups import undecayed
from wellfit.optim.optimizers import hidden_matrices
from wellfit.optim.schedules import DIV_FACTOR, FINAL_DIV_FACTOR, ONE_CYCLE_RISE, warmup_steps
from wellfit.recipe import Recipe
from wellfit.train.setup import Job

EMBEDDED = {  # set -> what makes it in scikit-learn, with what, and what it is
    "digits": ("load_digits", "", "1,797 handwritten digits of 8 x 8 pixels"),
    "wine": ("load_wine", "", "178 wines of three cultivars by 13 measurements"),
    "breast-cancer": ("load_breast_cancer", "", "569 tumours, malignant or benign, by 30 measurements"),
    "diabetes": ("load_diabetes", "scaled=False", "442 patients by ten measurements, and how it went on after a year"),
}
VARIED = {"image-classification": FOR_IMAGES, "text-classification": FOR_TEXTS}  # what of `data.augment` a task heeds


@dataclass(frozen=True)
class Source:
    """Where a script comes from, as far as its bits depend on it. `file` is its own name."""

    run: str
    torch: str
    threads: int
    file: str


@dataclass(frozen=True)
class Facts:
    """What the sections ask for again and again. `embedded`: scikit-learn carries the data, and a few lines say how it is split."""

    recipe: Recipe
    job: Job
    task: str
    embedded: bool
    held: dict[str, Any]  # part -> its samples, in the order in which they are held out
    varied: list[str]  # what of `data.augment` is turned on

    @classmethod
    def of(cls, job: Job) -> "Facts":
        loaded, recipe = job.loaded, job.recipe
        assert loaded is not None
        data = recipe.data
        embedded = data.source in EMBEDDED and (data.valid, data.test, data.train_samples) == (None, None, None)
        held = {part: getattr(loaded, part) for part in ("test", "valid") if getattr(loaded, part) is not None}
        return cls(recipe, job, loaded.task, embedded, held, turned_on(data.augment, VARIED.get(loaded.task, ())))

    @property
    def text(self) -> bool:
        return self.task == "text-classification"

    @property
    def numbers(self) -> bool:
        """Whether numbers are predicted, and not classes."""
        return self.task == "tabular-regression"

    @property
    def selects(self) -> bool:
        """Whether held-out scores decide which weights are kept, or when training ends."""
        evaluation = self.recipe.evaluation
        return "valid" in self.held and (evaluation.restore_best or evaluation.patience is not None)

    @property
    def weighs(self) -> bool:
        return self.recipe.loss.class_weights is not None

    @property
    def autocast(self) -> str:
        return 'with torch.autocast("cpu", torch.bfloat16):' if self.recipe.hardware.precision == "bf16" else ""


def script(job: Job, source: Source) -> str:
    """The whole script, at whose end its weights are in a file beside it."""
    facts = Facts.of(job)
    sections = (
        _beginning(facts, source), _data(facts), _batches(facts), _network(facts), _loss(facts), _optimizer(facts), _schedule(facts),
        _scores(facts), _loop(facts),
    )  # fmt: skip
    return "\n\n".join(section.strip("\n") + "\n" for section in sections if section)


def arrays(job: Job) -> dict[str, Any]:
    """What the script reads from the .npz beside it, by name; nothing where scikit-learn carries the data."""
    facts = Facts.of(job)
    found: dict[str, Any] = {}
    assert job.loaded is not None
    for part, samples in {} if facts.embedded else {"train": job.loaded.train, **facts.held}.items():
        if isinstance(samples, Arrays):
            end = "" if part == "train" else f"_{part}"
            found |= {f"x{end}": samples.inputs.numpy(), f"y{end}": samples.targets.numpy()}
        else:
            found[f"{part}_tokens"] = samples.flat.numpy()
            found[f"{part}_lengths"] = samples.lengths().numpy()
            found[f"{part}_classes"] = samples.targets.numpy()
    return found


def said(text: str) -> str:
    """A name that comes from a run folder, for a comment: nothing in it can end the comment and become code."""
    return re.sub(r"[^\w .,:/+=()-]", "_", text)


def _lines(*lines: str | bool | None) -> str:
    """Those that are there, one below the other."""
    return "\n".join(line for line in lines if isinstance(line, str))


# ---- data


def _beginning(facts: Facts, source: Source) -> str:
    recipe, job = facts.recipe, facts.job
    training, optimizer, model = recipe.training, recipe.optimizer, recipe.model
    assert model is not None
    rate, epochs = job.optimizer.param_groups[0]["peak"], training.epochs
    scaled = f"  # from {optimizer.learning_rate} for batches of {optimizer.reference_batch_size}"
    whole = f"  # {epochs:g} epochs of {job.batches.steps_per_epoch}" if epochs else ""
    return _lines(
        f'"""{said(recipe.name)}: {facts.task.replace("-", " ")} by the network `{model.kind}`, in plain PyTorch.',
        "",
        f"Written by `wellfit eject` from the run {said(source.run)}, whose weights it trains again bit for bit on the same",
        f"machine, with torch {said(source.torch)} and {source.threads} thread{'' if source.threads == 1 else 's'}. Elsewhere sums are rounded otherwise,",
        "and it comes out a little different.",
        "",
        f"    python {said(source.file)}",
        '"""',
        "",
        facts.selects and recipe.evaluation.restore_best and "import copy",
        "import itertools",
        "import math",
        not facts.text and "from collections import OrderedDict",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "import torch",
        "import torch.nn.functional as F",
        facts.embedded and f"from sklearn.datasets import {EMBEDDED[recipe.data.source][0]}",
        facts.embedded and bool(facts.held) and "from sklearn.model_selection import train_test_split",
        "from torch import nn",
        "",
        f"SEED = {training.seed}  # of weights, order, dropout{' and what is varied' if facts.varied else ''}",
        f"BATCH, STEPS = {training.batch_size}, {job.steps}{whole}",
        f"LEARNING_RATE, WEIGHT_DECAY = {rate!r}, {optimizer.weight_decay!r}{scaled if rate != optimizer.learning_rate else ''}",
        "",
        f"torch.set_num_threads({source.threads})  # threads share out sums, so the bits depend on their number",
        training.deterministic and "torch.use_deterministic_algorithms(True)",
    )


def _data(facts: Facts) -> str:
    recipe, held = facts.recipe, facts.held
    if not facts.embedded:
        return _from_file(facts)
    maker, how, what = EMBEDDED[recipe.data.source]
    inputs = "torch.from_numpy(found.data.astype(np.float32))  # [N, columns]"
    if facts.task == "image-classification":
        inputs = "torch.from_numpy(found.images.astype(np.uint8))[:, None]  # [N, 1, H, W]"
    alike = "" if facts.numbers else ", stratify=targets[samples]"
    return _lines(
        f"# ---- The data: {what}, which scikit-learn carries.",
        "",
        f"found = {maker}({how})",
        f"inputs = {inputs}",
        f"targets = torch.from_numpy(found.target{'.astype(np.float32))' if facts.numbers else ').long()'}",
        *((
            "",
            "",
            "def held_out(samples, count):",
            f'    """The samples that stay, and those held out{"" if facts.numbers else ", in the proportions of the classes"}."""',
            f"    parts = train_test_split(samples, test_size=count, random_state={recipe.data.split_seed}{alike})",
            "    return map(np.sort, parts)",
            "",
            "",
            "train = np.arange(len(inputs))",
            *(f"train, {part} = held_out(train, {len(samples)})" for part, samples in held.items()),
            "x, y = inputs[train], targets[train]",
            *(f"x_{part}, y_{part} = inputs[{part}], targets[{part}]" for part in held),
        ) if held else ("x, y = inputs, targets",)),
    )  # fmt: skip


OPENED = ('with np.load(Path(__file__).with_suffix(".npz")) as file:', "    data = dict(file)")


def _from_file(facts: Facts) -> str:
    read = f"as the run read and split {said(facts.recipe.data.source)}; they were written beside this script."
    if not facts.text:
        names = [("x", "y"), *((f"x_{part}", f"y_{part}") for part in facts.held)]
        what = "images" if facts.task == "image-classification" else "rows of numbers"
        return _lines(
            f"# ---- The data: {what}, {read}",
            "",
            *OPENED,
            *(f'{x}, {y} = torch.from_numpy(data["{x}"]), torch.from_numpy(data["{y}"])' for x, y in names),
        )
    return _lines(
        f"# ---- The data: the tokens of texts, {read}",
        "",
        *OPENED,
        "",
        "",
        "def texts(part):",
        '    """The tokens of each text, int64 [T], and its class."""',
        '    tokens = torch.from_numpy(data[f"{part}_tokens"].astype(np.int64))',
        '    return tokens.split(data[f"{part}_lengths"].tolist()), torch.from_numpy(data[f"{part}_classes"])',
        "",
        "",
        'x, y = texts("train")',
        *(f'x_{part}, y_{part} = texts("{part}")' for part in facts.held),
    )


# ---- batches

UNIFORM = '''
def mixed(z):
    """splitmix64's output function (Steele et al. 2014); arithmetic is modulo 2**64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(epoch, numbers, draw):
    """A number in [0, 1) for each of `numbers`, by (seed, epoch, number, draw) alone: no generator moves on."""
    key = mixed(mixed(mixed(np.array([SEED], np.uint64)) ^ np.uint64(epoch)) ^ np.uint64(draw))
    return (mixed(numbers.astype(np.uint64) ^ key) >> np.uint64(11)) * 2.0**-53


'''


def _batches(facts: Facts) -> str:
    """How batches are made: the order, what is varied, and what comes out of them."""
    accumulation = facts.recipe.training.gradient_accumulation_steps
    if facts.text:
        one = f"padded([{'varied(x[i], i, epoch)' if facts.varied else 'x[i]'} for i in part.tolist()])"
    else:
        one = "varied(x[part], part.numpy(), epoch)" if facts.varied else "x[part]"
    if accumulation > 1:
        told = f", each batch cut into {accumulation} micro-batches"
        made = [
            f"            parts = samples.tensor_split(min({accumulation}, len(samples)))",
            f"            yield [({one}, y[part]) for part in parts]",
        ]
    else:
        told, made = "", [f"            yield {one}, y[part]"]
    return (
        "# ---- The batches.\n\n\n"
        + _order(facts)
        + (UNIFORM.lstrip("\n") + (_of_text(facts) if facts.text else _of_images(facts)) if facts.varied else "")
        + (PADDED if facts.text else "")
        + _lines(
            "def batches():",
            f'    """Epoch after epoch, without end{told}."""',
            "    for epoch in itertools.count():",
            f"        for {'samples' if accumulation > 1 else 'part'} in order(epoch):",
            *made,
        )
    )


def _order(facts: Facts) -> str:
    batches = facts.job.batches
    assert isinstance(batches, InMemory | OfSamples)
    order, starts = batches.order, batches.order.starts
    joined = max(0, starts[-1] - starts[-2] - order.batch_size)
    cuts = f"range(BATCH, len(x){f' - {joined}' if joined else ''}, BATCH)"
    why = f"  # {joined} are left over, too few for a batch, and join the last" if joined else ""
    told = "in an order that the seed and its number alone decide" if order.shuffle else "always in the same order"
    return _lines(
        "def order(epoch):",
        f'    """The samples of each batch of an epoch, {told}."""',
        order.shuffle and "    state = np.random.SeedSequence((SEED, epoch)).generate_state(1, np.uint64)[0]",
        order.shuffle and "    generator = torch.Generator().manual_seed(int(state) >> 1)",
        "    samples = torch.randperm(len(x), generator=generator)" if order.shuffle else "    samples = torch.arange(len(x))",
        *((
            "    # Texts of like length together, so that little is padded: sorted within pools, and the batches mixed again.",
            "    lengths, whole = torch.tensor([len(text) for text in x]), len(x) // BATCH * BATCH",
            f"    pools = [pool[lengths[pool].argsort(stable=True)] for pool in samples[:whole].split({POOL} * BATCH)]",
            "    alike = torch.cat(pools).reshape(-1, BATCH)",
            "    alike = alike[torch.randperm(len(alike), generator=generator)].flatten()",
            "    samples = torch.cat([alike, samples[whole:]])",
        ) if order.shuffle and order.lengths is not None else ()),
        f"    return samples.tensor_split(list({cuts})){why}",
        "",
        "",
        "",
    )  # fmt: skip


def _of_images(facts: Facts) -> str:
    settings = facts.recipe.data.augment
    told = (
        [f"moved by up to {settings.shift} pixel{'' if settings.shift == 1 else 's'} each way"]
        if settings.shift
        else []
    )
    told += ["mirrored in half of the cases"] if settings.flip else []
    reach = 2 * settings.shift + 1
    return _lines(
        "def varied(images, samples, epoch):",
        f'    """These images [N, C, H, W], each {" and ".join(told)}."""',
        *((
            "    N, _, H, W = images.shape",
            f"    moves = [(uniform(epoch, samples, draw) * {reach}).astype(np.int64) for draw in ({DOWN}, {RIGHT})]",
            "    down, right = (torch.from_numpy(move)[:, None] for move in moves)",
            "    rows, columns = (down + torch.arange(H))[:, :, None], (right + torch.arange(W))[:, None, :]",
            f"    wider = F.pad(images, ({settings.shift},) * 4).permute(0, 2, 3, 1)",
            "    images = wider[torch.arange(N)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()",
        ) if settings.shift else ()),
        *((
            f"    mirror = torch.from_numpy(uniform(epoch, samples, {MIRROR}) < 0.5)",
            "    images = torch.where(mirror[:, None, None, None], images.flip(-1), images)",
        ) if settings.flip else ()),
        "    return images",
        "",
        "",
        "",
    )  # fmt: skip


def _of_text(facts: Facts) -> str:
    settings = facts.recipe.data.augment
    told = [f"about {settings.swap:.0%} of its tokens swapped"] if settings.swap else []
    told += [f"each token left out with probability {settings.delete}"] if settings.delete else []
    return _lines(
        "def varied(text, sample, epoch):",
        f'    """A text, {" and ".join(told)} (Wei & Zou 2019)."""',
        "    if len(text) < 2:",
        "        return text",
        f"    places = sample * {MOST_TOKENS} + np.arange(len(text))",
        *((
            f"    swaps, text = places[: round({settings.swap} * len(text))], text.clone()",
            f"    pairs = [(uniform(epoch, swaps, draw) * len(text)).astype(np.int64).tolist() for draw in ({FIRST}, {SECOND})]",
            "    for i, j in zip(*pairs):",
            "        text[[i, j]] = text[[j, i]]",
        ) if settings.swap else ()),
        *((
            f"    stays = torch.from_numpy(uniform(epoch, places, {DELETED}) >= {settings.delete})",
            "    if not stays.any():",
            f"        stays[int(uniform(epoch, places[:1], {KEPT})[0] * len(text))] = True",
            "    text = text[stays]",
        ) if settings.delete else ()),
        "    return text",
        "",
        "",
        "",
    )  # fmt: skip


PADDED = '''
def padded(texts):
    """int64 [B, T], with zeros behind the shorter ones."""
    return nn.utils.rnn.pad_sequence(texts, batch_first=True)


'''.lstrip("\n")


# ---- network and loss

STANDARDIZE = '''
class Standardize(nn.Module):
    """(x - mean) / std of each {what}, by the training data; both travel with the weights."""

    def __init__(self, x):
        super().__init__()
        count, parts = x.numel() / x.shape[1], x.split(256)  # in double precision and in this order, since sums are rounded
        mean = sum(part.double().sum({over}, keepdim=True) for part in parts) / count
        std = (sum((part.double() - mean).square().sum({over}, keepdim=True) for part in parts) / count).sqrt()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", torch.where(std <= 1e-7 * mean.abs(), 1.0, std).float())

    def forward(self, x):
        return (x.float() - self.mean) / self.std


'''
UNSTANDARDIZE = '''
class Unstandardize(nn.Module):
    """x * std + mean: the network says standardised numbers, and this brings them back into their unit."""

    def __init__(self, y):
        super().__init__()
        self.register_buffer("mean", y.mean())
        self.register_buffer("std", y.std(correction=0).clamp(min=1e-12))

    def forward(self, x):
        return x * self.std + self.mean


'''


def _network(facts: Facts) -> str:
    job, settings = facts.job, facts.recipe.model
    assert job.loaded is not None
    start = "# ---- The network. Its first weights are drawn in this order.\n\ntorch.manual_seed(SEED)\n\n\n"
    if facts.text:
        vocabulary = job.model.get_parameter("model.encoder.embedding.weight").shape[0]
        shape = (vocabulary, int(job.loaded.columns["context"]))
        return start + networks.written(settings, shape, len(job.loaded.classes))
    rows = job.loaded.train.inputs
    what, over = ("channel", "(0, 2, 3)") if rows.ndim == 4 else ("column", "0")
    start += STANDARDIZE.lstrip("\n").format(what=what, over=over)
    outputs, more = len(job.loaded.classes), ""
    if facts.numbers:
        start += UNSTANDARDIZE.lstrip("\n")
        outputs, more = 1, ", squeeze=nn.Flatten(0), unstandardize=Unstandardize(y)"
    written = networks.written(settings, tuple(rows.shape[1:]), outputs)
    return start + written + f"model = nn.Sequential(OrderedDict(standardize=Standardize(x), network=network{more}))"


def _loss(facts: Facts) -> str:
    loss, wide = facts.recipe.loss, ".float()" if facts.autocast else ""
    start = "# ---- The loss: a sum over samples, which the loop divides by what a whole batch weighs.\n\n"
    if facts.numbers:
        more = {"huber": f", delta={loss.delta}", "smooth-l1": f", beta={loss.delta}"}.get(str(loss.kind), "")
        out = f"(out / DEVIATION){wide}" if wide else "out / DEVIATION"
        name = {"mse": "mse_loss", "huber": "huber_loss", "smooth-l1": "smooth_l1_loss"}[str(loss.kind)]
        return start + _lines(
            "DEVIATION = float(y.std(correction=0).clamp(min=1e-12))  # errors count in these, so that the unit does not matter",
            "",
            "",
            "def criterion(out, y):",
            f'    return F.{name}({out}, y / DEVIATION, reduction="sum"{more})',
        )
    weighing: list[str] = []
    if loss.class_weights == "balanced":
        weighing = [
            f"counts = torch.bincount(y, minlength={len(facts.job.loaded.classes)}).double()",  # type: ignore[union-attr]
            "WEIGHTS = (counts.sum() / (len(counts) * counts)).float()  # of the classes: each counts the same as a whole",
        ]
    elif loss.class_weights is not None:
        weighing = [f"WEIGHTS = torch.tensor({list(loss.class_weights)!r})  # of the classes"]
    if loss.kind == "focal":
        body = [
            f'    surprise = F.cross_entropy(out{wide}, y, reduction="none")  # -log p of the right class',
            "    doubt = (-torch.expm1(-surprise)).clamp(min=1e-12)  # 1 - p: easy samples count less (Lin et al. 2017)",
            f"    return (doubt**{loss.gamma} * surprise{' * WEIGHTS[y]' if weighing else ''}).sum()",
        ]
    else:
        smoothing = f", label_smoothing={loss.label_smoothing}" if loss.label_smoothing else ""
        weights = ", WEIGHTS" if weighing else ""
        body = [f'    return F.cross_entropy(out{wide}, y{weights}, reduction="sum"{smoothing})']
    return start + _lines(*weighing, *(["", ""] if weighing else []), "def criterion(out, y):", *body)


# ---- optimizer and schedule

LION = '''
class Lion(torch.optim.Optimizer):
    """Every weight moves by the same amount, along the sign of an average of gradients (Chen et al. 2023)."""

    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                direction = momentum.lerp(p.grad, 1 - beta1).sign_()
                if group["weight_decay"]:
                    direction.add_(p, alpha=group["weight_decay"])
                p.add_(direction, alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - beta2)


'''


def _optimizer(facts: Facts) -> str:
    settings, model = facts.recipe.optimizer, facts.job.model
    betas = f"betas=({settings.beta1}, {settings.beta2})"
    adamw = f"torch.optim.AdamW({{}}, lr=LEARNING_RATE, {betas}, eps={settings.eps}, fused=True)"
    made = {
        "sgd": f"torch.optim.SGD({{}}, lr=LEARNING_RATE, momentum={settings.momentum}, nesterov={settings.nesterov}, fused=True)",
        "adam": f"torch.optim.Adam({{}}, lr=LEARNING_RATE, {betas}, eps={settings.eps}, fused=True)",
        "adamw": adamw,
        "adafactor": "torch.optim.Adafactor({}, lr=LEARNING_RATE)",
        "lion": f"Lion({{}}, lr=LEARNING_RATE, {betas})",
        "muon": f'torch.optim.Muon({{}}, lr=LEARNING_RATE, momentum={settings.momentum}, adjust_lr_fn="match_rms_adamw")',
    }
    named, kept = dict(model.named_parameters()), undecayed(model, settings.decay_embeddings)
    tables = [name for name, p in named.items() if p.ndim > 1 and id(p) in kept]
    hidden = [name for name, p in named.items() if settings.kind == "muon" and id(p) in hidden_matrices(model)]
    head = "# ---- The optimizer. Weights are decayed; biases and norms, which have one dimension, are not.\n\n"
    return head + _lines(
        settings.kind == "lion" and "\n" + LION.strip("\n") + "\n\n",
        bool(tables) and f"TABLES = {tables!r}  # embeddings, which are not decayed either",
        bool(hidden) and f"HIDDEN = {hidden!r}  # whose steps Muon makes orthogonal (Jordan et al. 2024)",
        (bool(tables) or bool(hidden)) and "\n",
        "def groups(names=None):" if hidden else "def groups():",
        "    named = [(name, p) for name, p in model.named_parameters() if name in names]" if hidden else "    named = list(model.named_parameters())",
        f"    decayed = [p for name, p in named if p.ndim > 1{' and name not in TABLES' if tables else ''}]",
        f"    others = [p for name, p in named if p.ndim < 2{' or name in TABLES' if tables else ''}]",
        '    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]',
        "",
        "",
        *((
            "rest = [name for name, _ in model.named_parameters() if name not in HIDDEN]",
            f"optimizers = [{made['muon'].format('groups(HIDDEN)')}]",
            f"optimizers += [{adamw.format('groups(rest)')}]",
        ) if hidden else (f"optimizer = {made[settings.kind].format('groups()')}",)),
    )  # fmt: skip


def _schedule(facts: Facts) -> str:
    settings, total = facts.recipe.schedule, facts.job.steps
    warmup, final = warmup_steps(settings.warmup_steps, total), settings.final_share
    told = f"The learning rate as a share of its peak, after so many steps: {settings.kind.replace('-', ' ')}"
    if settings.kind == "one-cycle":
        rise = settings.warmup_steps or ONE_CYCLE_RISE
        top = min(max((rise * total if rise < 1 else rise) - 1, 0.0), max(total - 2, 0))
        return _lines(
            f"TOP = {top!r}  # the step at whose end the rate is highest",
            "",
            "",
            "def share(step):",
            f'    """{told}, up and down along half cosines."""',
            f"    low, end = {1 / DIV_FACTOR!r}, {1 / DIV_FACTOR / FINAL_DIV_FACTOR!r}",
            "    if step <= TOP:",
            f"        return 1.0 + (low - 1.0) * (1 + math.cos(math.pi * {'(step / TOP)' if top else '1.0'})) / 2",
            "    return end + (1.0 - end) * (1 + math.cos(math.pi * ((step - TOP) / (STEPS - 1 - TOP)))) / 2",
        )
    over = "(step - WARMUP) / (STEPS - WARMUP)" if warmup else "step / STEPS"
    decay = min(max(1, round(settings.decay_share * total)), total - warmup)
    left = {
        "linear": f"1 - {over}",
        "cosine": f"(1 + math.cos(math.pi * {over})) / 2",
        "warmup-stable-decay": f"min(1.0, (STEPS - step) / {decay})",
    }.get(settings.kind, "")
    if settings.kind == "constant":
        value = "1.0"
    elif settings.kind == "step":
        places = [max(1, round(milestone * total)) for milestone in settings.milestones]
        value = f"{settings.drop} ** sum(step >= place for place in {places!r})"
    else:
        value = f"{final} + (1 - {final}) * ({left})" if final else left
    return _lines(
        bool(warmup) and f"WARMUP = {warmup}\n\n",
        "def share(step):",
        f'    """{told}{" after a linear warmup" if warmup else ""}."""',
        bool(warmup) and "    if step < WARMUP:\n        return (step + 1) / WARMUP",
        f"    return {value}",
    )


# ---- the loop

WHOLE = '''
def sorted_batches(texts, y):
    """All of them, the shortest first, so that little is padded."""
    samples = torch.tensor([len(text) for text in texts]).argsort(stable=True)
    return [(padded([texts[i] for i in part.tolist()]), y[part]) for part in samples.split({size})]


'''


def _scores(facts: Facts) -> str:
    """`scores(x, y)`, where there is something to score on."""
    if not facts.held:
        return ""
    job, size, low = facts.job, facts.recipe.evaluation.batch_size, facts.autocast
    assert job.loaded is not None
    classes = len(job.loaded.classes)
    pad = "            " if low else "        "
    start = "# ---- Scores on what is held out, with dropout off and without gradients.\n\n\n"
    start += WHOLE.lstrip("\n").format(size=size) if facts.text else ""
    if facts.numbers:
        zero, summed, end = "sums = np.zeros(4)", [
            "        out, targets = out.double(), targets.double()",
            "        errors = out - targets",
            "        sums += [part.sum().item() for part in (errors.abs(), errors.square(), targets, targets.square())]",
        ], [
            "    (absolute, squared, total, squares), count = sums.tolist(), len(y)",
            "    r2 = 1 - squared / (squares - total**2 / count)",
            '    return {"loss": loss / count, "mae": absolute / count, "rmse": (squared / count) ** 0.5, "r2": r2}',
        ]  # fmt: skip
    elif job.metric == "f1":
        zero, summed, end = "confusion = 0", [
            f"        pairs = targets * {classes} + out.argmax(1)",
            f"        confusion = confusion + torch.bincount(pairs, minlength={classes**2}).reshape({classes}, {classes}).double()",
        ], [
            "    right, both = confusion.diag(), confusion.sum(1) + confusion.sum(0)",
            "    f1 = (2 * right[both > 0] / both[both > 0]).mean().item()  # the mean over the classes that occur",
            f'    return {{"loss": loss / {"weight" if facts.weighs else "len(y)"}, "accuracy": right.sum().item() / len(y), "f1": f1}}',
        ]  # fmt: skip
    else:
        zero, summed, end = "right = 0", ["        right += (out.argmax(1) == targets).sum().item()"], [
            f'    return {{"loss": loss / {"weight" if facts.weighs else "len(y)"}, "accuracy": right / len(y)}}'
        ]  # fmt: skip
    batches = "sorted_batches(x, y)" if facts.text else f"zip(x.split({size}), y.split({size}))"
    names, values = zero.split(" = ")
    return start + _lines(
        "@torch.no_grad()",
        "def scores(x, y):",
        "    model.eval()",
        f"    loss, {'weight, ' if facts.weighs else ''}{names} = 0.0, {'0.0, ' if facts.weighs else ''}{values}",
        f"    for inputs, targets in {batches}:",
        bool(low) and f"        {low}",
        f"{pad}out = model(inputs)",
        f"{pad}loss += criterion(out, targets).item()",
        facts.weighs and "        weight += WEIGHTS[targets].sum().item()",
        *summed,
        "    model.train()",
        *end,
    )


def _loop(facts: Facts) -> str:
    recipe, job = facts.recipe, facts.job
    training, evaluation, low = recipe.training, recipe.evaluation, facts.autocast
    cut, muon, more = (
        training.gradient_accumulation_steps > 1,
        recipe.optimizer.kind == "muon",
        evaluation.goal == "max",
    )
    weight = "WEIGHTS[targets].sum()" if facts.weighs else "len(targets)"
    pad = "        " if cut else "    "
    norm, value = training.max_grad_norm, training.max_grad_value
    start = _lines(
        "# ---- The loop.",
        "",
        "torch.manual_seed(SEED)  # again: what dropout draws does not depend on how the network was made",
        "parameters = list(model.parameters())",
        muon and "optimizer_groups = [group for optimizer in optimizers for group in optimizer.param_groups]",
        facts.selects and f"best = {'-' if more else ''}math.inf",
        evaluation.patience is not None and facts.selects and "waited = 0",
        f"for step, {'micro_batches' if cut else '(inputs, targets)'} in zip(range(STEPS), batches()):",
        f"    for group in {'optimizer_groups' if muon else 'optimizer.param_groups'}:",
        '        group["lr"] = LEARNING_RATE * share(step)',
        cut and f"    weight = sum({weight} for _, targets in micro_batches)  # of the whole batch, whose parts may differ in size",
        cut and "    for inputs, targets in micro_batches:",
        bool(low) and pad + low,
        f"{pad}{'    ' if low else ''}loss = criterion(model(inputs), targets)",
        f"{pad}(loss / {'weight' if cut else weight}).backward()",
        value is not None and f"    for p in parameters:\n        p.grad.clamp_(-{value}, {value})",
        *((
            "    # torch's clip_grad_norm_ takes the norm of each parameter's norm, which is rounded otherwise.",
            "    norm = torch.cat([p.grad.flatten() for p in parameters]).norm().item()",
            f"    if norm + 1e-6 > {norm}:",
            "        for p in parameters:",
            f"            p.grad *= {norm} / (norm + 1e-6)",
        ) if norm is not None else ()),
        muon and "    for optimizer in optimizers:",
        f"{'    ' if muon else ''}    optimizer.step()",
        f"{'    ' if muon else ''}    optimizer.zero_grad()",
    )  # fmt: skip
    gain = ("value - best" if more else "best - value") + f" > {evaluation.min_improvement}"
    better = gain if evaluation.min_improvement else f"value {'>' if more else '<'} best"
    if facts.selects:
        start += "\n" + _lines(
            "",
            f"    if (step + 1) % {job.evaluate_every} == 0 or step + 1 == STEPS:",
            f'        value = scores(x_valid, y_valid)["{job.metric}"]',
            f'        print(f"step {{step + 1}} of {{STEPS}}: validation {job.metric} {{value:.4f}}")',
            evaluation.patience is not None and "        waited += 1",
            f"        if {better}:",
            "            best = value",
            evaluation.restore_best and "            kept = copy.deepcopy(model.state_dict())",
            evaluation.patience is not None and "            waited = 0",
            evaluation.patience is not None and f"        if waited >= {evaluation.patience}:\n            break",
        )
    part = "test" if "test" in facts.held else "valid"
    return start + "\n" + _lines(
        "",
        facts.selects and evaluation.restore_best and "model.load_state_dict(kept)  # those that did best on what was held out",
        'torch.save(model.state_dict(), Path(__file__).with_suffix(".pt"))',
        bool(facts.held) and f'print("{"test" if part == "test" else "validation"}:", scores(x_{part}, y_{part}))',
    )  # fmt: skip
