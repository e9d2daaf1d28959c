"""The networks of `models/` written out as plain PyTorch, for `wellfit eject`: the same layers, names and random draws.

A function for each kind that can be written out takes the resolved settings and the shapes, and gives lines of Python that end
with `network = ...`, or `model = ...` where it takes its inputs as they are. What decides the bits is the order: layers draw
their first weights as they are made, then those are drawn anew to suit the activation, then comes the head. The names are those
of the run's own weights.

Not here: what the other kinds of model would need. `KINDS` has those that can be ejected, and of the settings of a kind those
whose every value can be, or the values that can.

    >>> print(written(MLP(), shape=(13,), outputs=3))
"""

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wellfit.models.convnet import output_size

BENDS = {"relu": "nn.ReLU()", "gelu": "nn.GELU()", "silu": "nn.SiLU()", "tanh": "nn.Tanh()", "sigmoid": "nn.Sigmoid()"}
NORMS = {
    "none": "nn.Identity()",
    "batch": "nn.BatchNorm1d({0})",
    "layer": "nn.LayerNorm({0})",
    "rms": "nn.RMSNorm({0})",
}


@dataclass(frozen=True)
class Network:
    """How one kind of model is written out. `settings`: name -> the values that can be, or None for all."""

    write: Callable[[Any, Sequence[int], int], str]
    settings: dict[str, tuple[Any, ...] | None]


HEAD = """
head = nn.Linear({features}, {outputs})  # small weights, so that an untrained network prefers no answer
nn.init.normal_(head.weight, std=0.1 / math.sqrt({features}))
nn.init.zeros_(head.bias)
"""
DRAWN = {  # how weights are drawn to suit the bend that follows
    "kaiming": ('nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")', "half of what a bend gets, it cuts off (He et al. 2015)"),
    "xavier": ("nn.init.xavier_uniform_(layer.weight)", "the bend is straight around 0 (Glorot & Bengio 2010)"),
}  # fmt: skip


def _drawn(parts: str, activation: str, kinds: str, bias: bool) -> str:
    """The weights of the layers of `parts` drawn anew."""
    draw, why = DRAWN["xavier" if activation in ("tanh", "sigmoid") else "kaiming"]
    return f"for layer in {parts}.modules():\n    if isinstance(layer, {kinds}):\n        {draw}  # {why}\n" + (
        "        nn.init.zeros_(layer.bias)\n" if bias else ""
    )


def _mlp(settings: Any, shape: Sequence[int], outputs: int) -> str:
    widths = [math.prod(shape), *settings.widths]
    norm, bend = NORMS[settings.norm].format("C_out"), BENDS[settings.activation]
    blocks = ", ".join(f"layer({C_in}, {C_out})" for C_in, C_out in itertools.pairwise(widths))
    return f'''
def layer(C_in, C_out):
    """Weigh, normalise, bend, and silence a share of the units while training."""
    return nn.Sequential(nn.Linear(C_in, C_out), {norm}, {bend}, nn.Dropout({settings.dropout}))


blocks = nn.Sequential({blocks})
{_drawn("blocks", settings.activation, "nn.Linear", bias=True)}{HEAD.format(features=widths[-1], outputs=outputs).lstrip()}
network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), blocks=blocks, head=head))
'''


def _convnet(settings: Any, shape: Sequence[int], outputs: int) -> str:
    widths = [shape[0], *settings.channels]
    blocks = ", ".join(f"block({widths[i]}, {widths[i + 1]}, {i > 0})" for i in range(len(widths) - 1))
    sides = list(shape[1:])
    for _ in settings.channels[1:]:
        sides = [-(-side // 2) for side in sides]
    return f'''
def block(C_in, C, halve):
    """Two 3 x 3 convolutions with batch norm, at half the resolution if it halves."""
    layers = [nn.MaxPool2d(2, ceil_mode=True)] if halve else []
    for channels in (C_in, C):
        layers += [nn.Conv2d(channels, C, 3, padding=1, bias=False), nn.BatchNorm2d(C), {BENDS[settings.activation]}]
    return nn.Sequential(*layers)


blocks = nn.Sequential({blocks})
{_drawn("blocks", settings.activation, "nn.Conv2d", bias=False)}{HEAD.format(features=4 * widths[-1], outputs=outputs).lstrip()}
quarters = {_quarters(*sides)}
network = nn.Sequential(OrderedDict(
    blocks=blocks, pool=quarters, flatten=nn.Flatten(), dropout=nn.Dropout({settings.dropout}), head=head
))
'''


def _quarters(H: int, W: int) -> str:
    """The pool that gives the mean of each quarter of maps of H x W."""
    pool = f"nn.AvgPool2d({((H + 1) // 2, (W + 1) // 2)}, {(max(1, H // 2), max(1, W // 2))})"
    if min(H, W) > 1:
        return f"{pool}  # the mean of each quarter: roughly where something is, for a handful of weights"
    pads = f"nn.ReplicationPad2d((0, {int(W < 2)}, 0, {int(H < 2)}))"
    H, W = max(2, H), max(2, W)
    return f"nn.Sequential({pads}, nn.AvgPool2d({((H + 1) // 2, (W + 1) // 2)}, {(H // 2, W // 2)}))  # a single pixel is both halves"


def _lenet(settings: Any, shape: Sequence[int], outputs: int) -> str:
    bend, pool = BENDS[settings.activation], {"max": "nn.MaxPool2d(2)", "average": "nn.AvgPool2d(2)"}[settings.pool]
    padding = 0 if min(shape[1:]) >= 12 else 2  # as in models/lenet.py
    H, W = (output_size(side // 2, kernel=5, padding=padding) // 2 for side in shape[1:])
    return f"""
features = nn.Sequential(OrderedDict(
    c1=nn.Conv2d({shape[0]}, 6, 5, padding=2), f1={bend}, s2={pool},
    c3=nn.Conv2d(6, 16, 5, padding={padding}), f3={bend}, s4={pool}, flatten=nn.Flatten(),
    c5=nn.Linear({16 * H * W}, 120), f5={bend}, f6=nn.Linear(120, 84), bend6={bend},
))
{_drawn("features", settings.activation, "(nn.Conv2d, nn.Linear)", bias=True)}{HEAD.format(features=84, outputs=outputs).lstrip()}
network = nn.Sequential(OrderedDict(features=features, head=head))
"""


# ---- texts


def _bag(settings: Any, shape: Sequence[int], outputs: int) -> str:
    return f'''
class Bag(nn.Module):
    """Tokens [B, T], padded with 0 -> logits [B, classes] of the mean of their vectors; some tokens are left out while training."""

    def __init__(self):
        super().__init__()
        embedding = nn.Embedding({shape[0]}, {settings.width})
        nn.init.normal_(embedding.weight, std={settings.width}**-0.5)  # vectors of about length 1
        encoder = nn.ModuleDict({{"embedding": embedding}})
{_headed(settings.width, outputs)}
    def forward(self, tokens):
        vectors, real = self.model.encoder.embedding(tokens), tokens != 0
{_kept(settings.dropout)}        share = real / real.sum(1, keepdim=True).clamp_min(1)
        return self.model.head((vectors * share[..., None]).sum(1))


model = Bag()
'''


def _headed(features: int, outputs: int) -> str:
    """The head of a reader, which is made last."""
    head = (
        HEAD.format(features=features, outputs=outputs).strip()
        + '\nself.model = nn.ModuleDict({"encoder": encoder, "head": head})'
    )
    return textwrap.indent(head, "        ") + "\n"


def _kept(dropout: float) -> str:
    if not dropout:
        return ""
    return (
        "        if self.training:\n"
        f"            kept = (torch.rand(tokens.shape, device=tokens.device) >= {dropout}) / (1 - {dropout})\n"
        "            vectors = vectors * kept[:, :, None]\n"
    )


def _encoder(settings: Any, shape: Sequence[int], outputs: int) -> str:
    D, H = settings.width, settings.heads
    gated, rope = settings.mlp == "swiglu", settings.positions == "rope"
    hidden = 8 * math.ceil(D / 3) if gated else 4 * D
    norm = f"nn.LayerNorm({D})" if settings.norm == "layer" else f"nn.RMSNorm({D}, eps=1e-6)"
    gate = f', "gate": nn.Linear({D}, {hidden})' if gated else ""
    up = "F.silu(self.feed.gate(x)) * self.feed.up(x)" if gated else f"F.{settings.mlp}(self.feed.up(x))"
    turn = ", turn" if rope else ""
    turned_q = "\n        q = rotated(q, turn)" if rope else ""
    turned_k = "\n        k = rotated(k, turn)" if rope else ""
    pre = settings.order == "pre"
    both = (
        f"""        x = x + self.dropout(self.exchanged(self.attention_norm(x), mask{turn}))
        return x + self.dropout(self.thought(self.feed_norm(x)))"""
        if pre
        else f"""        x = self.attention_norm(x + self.dropout(self.exchanged(x, mask{turn})))
        return self.feed_norm(x + self.dropout(self.thought(x)))"""
    )
    rotation = '''
def rotated(x, turn):
    """Each pair of features turned by its angle, which grows with the token's place (RoPE, Su et al. 2021)."""
    (cos, sin), (a, b) = turn, x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

'''
    angles = """        places = (real.long().cumsum(1) - 1).clamp_min(0)  # padding does not count
        angles = {0} * 10000.0 ** (-torch.arange(0, {1}, 2, dtype=torch.float32) / {1})
"""
    place = {
        "rope": angles.format("places[:, None, :, None].float()", D // H)
        + "        turn = angles.cos(), angles.sin()\n",
        "sinusoidal": angles.format("places[..., None].float()", D)
        + f"        x = x * math.sqrt({D}) + torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)\n",
        "learned": """        places = (real.long().cumsum(1) - 1).clamp_min(0)  # padding does not count
        x = x + self.model.encoder.stack.learned.table(places)
""",
        "none": "",
    }[settings.positions]
    learned, norms, first = "", [], ""
    if settings.positions == "learned":
        learned = f"""
        table = nn.Embedding({shape[1]}, {D})
        nn.init.normal_(table.weight, std=0.02)
        stack["learned"] = nn.ModuleDict({{"table": table}})"""
    if not pre:
        norms, first = [f'        stack["first_norm"] = {norm}\n'], "self.model.encoder.stack.first_norm(x)"
    else:
        norms = [f'        stack["last_norm"] = {norm}\n']
    last = "self.model.encoder.stack.last_norm(x)" if pre else "x"
    return (
        (rotation if rope else "")
        + f'''
class Block(nn.Module):
    """Tokens exchange what they know (attention), then each thinks for itself; each part adds to what it got."""

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({{"q": nn.Linear({D}, {D}), "kv": nn.Linear({D}, {2 * D}), "out": nn.Linear({D}, {D})}})
        self.attention_norm = {norm}
        self.feed = nn.ModuleDict({{"up": nn.Linear({D}, {hidden}){gate}, "down": nn.Linear({hidden}, {D})}})
        self.feed_norm = {norm}
        self.dropout = nn.Dropout({settings.dropout})

    def forward(self, x, mask{turn}):
{both}

    def exchanged(self, x, mask{turn}):
        q = self.attention.q(x).unflatten(-1, ({H}, {D // H})).transpose(1, 2){turned_q}
        k, v = self.attention.kv(x).unflatten(-1, (2, {H}, {D // H})).permute(2, 0, 3, 1, 4).unbind(0){turned_k}
        dropped = {settings.dropout} if self.training else 0.0
        answers = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
        return self.attention.out(answers.transpose(1, 2).flatten(-2))

    def thought(self, x):
        return self.feed.down({up})


class Reader(nn.Module):
    """Tokens [B, T], padded with 0 -> logits [B, classes] of the mean of what the Transformer makes of them."""

    def __init__(self):
        super().__init__()
        embedding, stack = nn.Embedding({shape[0]}, {D}), nn.ModuleDict()
        nn.init.normal_(embedding.weight, std=math.sqrt(2 / (5 * {D}))){learned}
        stack["blocks"] = nn.ModuleList(Block() for _ in range({settings.layers}))
{"".join(norms)}        # Weights from N(0, 2 / 5D) by what each layer reads; what writes to the sum of all parts by its width and their number.
        for layer in stack.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.normal_(layer.weight, std=math.sqrt(2 / (5 * layer.weight.shape[1])))
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        for block in stack.blocks:
            for writer in (block.attention.out, block.feed.down):
                nn.init.normal_(writer.weight, std=math.sqrt(2 / (5 * {D})) / math.sqrt({2 * settings.layers}))
        encoder = nn.ModuleDict({{"embedding": embedding, "stack": stack}})
{_headed(D, outputs)}
    def forward(self, tokens):
        x, real = self.model.encoder.embedding(tokens), tokens != 0
        mask = real[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)  # nobody looks at padding
{place}        x = F.dropout({first or "x"}, {settings.dropout}, self.training)
        for block in self.model.encoder.stack.blocks:
            x = block(x, mask{turn})
        share = real / real.sum(1, keepdim=True).clamp_min(1)
        return self.model.head(({last} * share[..., None]).sum(1))


model = Reader()
'''
    )


KINDS: dict[str, Network] = {
    "mlp": Network(_mlp, {"widths": None, "activation": tuple(BENDS), "norm": tuple(NORMS), "dropout": None}),
    "convnet": Network(_convnet, {"channels": None, "activation": tuple(BENDS), "dropout": None}),
    "lenet": Network(_lenet, {"activation": tuple(BENDS), "pool": ("max", "average")}),
    "bag": Network(_bag, {"width": None, "dropout": None}),
    "encoder": Network(
        _encoder,
        {
            "width": None, "layers": None, "heads": None, "mlp": ("gelu", "relu", "swiglu"), "norm": ("layer", "rms"),
            "order": ("pre", "post"), "positions": ("none", "sinusoidal", "learned", "rope"), "dropout": None,
        },
    ),
}  # fmt: skip


def written(settings: Any, shape: Sequence[int], outputs: int) -> str:
    """Lines of Python that end with `network = ...` or `model = ...`. `shape` is that of a row or an image, or (vocabulary, context) for texts."""
    return KINDS[settings.kind].write(settings, shape, outputs).strip("\n") + "\n"
