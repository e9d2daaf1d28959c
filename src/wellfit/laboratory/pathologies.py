"""The pathologies of the lab, as data: how each is caused, what it is, and how it is cured.

Each is an edit of a line or two of the healthy program, `healthy.py`. Where a fault needs surroundings to show itself (a deep net,
a schedule), `scene` puts them there first; that program is still healthy. A cure is an edit of the faulty program, and does what one
of the remedies says that the doctor's catalogue has for the finding. Nothing here is heavy: `wellfit lab` lists without torch.

    >>> find("vanishing-gradients").fault_diff
    ('- nn.ReLU(),', '+ nn.Sigmoid(),')
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

from wellfit.doctor.finding import Remedy, catalogue
from wellfit.errors import RecipeError
from wellfit.recipe import nearest

CHANCE = 0.1  # ten digits, about equally many of each


@dataclass(frozen=True)
class Edit:
    """A piece of a program's text, which stands there exactly once, and what takes its place."""

    old: str
    new: str


@dataclass(frozen=True)
class Pathology:
    """A fault that is caused on purpose, and its cure."""

    name: str
    finding: str  # the doctor's id for it
    title: str
    line: str  # what is done, for a list
    explains: tuple[str, ...]  # two to five sentences
    source: str
    fault: tuple[Edit, ...]
    cure: tuple[Edit, ...]
    remedy: int  # which one of the catalogue's for the finding the cure is, from 0
    scene: tuple[Edit, ...] = ()
    scene_is: str = ""  # the surroundings in words
    gradients: bool = False  # whether the gradient norms of the layers are shown
    held_out_loss: bool = False  # whether the held-out loss is shown beside the training loss
    log: bool = False  # whether the loss is shown on a logarithmic axis even where it stays in its range

    @cached_property
    def healthy(self) -> str:
        """The text of the program before the fault."""
        return edited(text(), self.scene, self.name)

    @cached_property
    def faulty(self) -> str:
        return edited(self.healthy, self.fault, self.name)

    @cached_property
    def cured(self) -> str:
        return edited(self.faulty, self.cure, self.name)

    @property
    def fault_diff(self) -> tuple[str, ...]:
        """Lines that begin with - or +, and with … between places of the program that are apart."""
        return diff(self.healthy, self.faulty)

    @property
    def cure_diff(self) -> tuple[str, ...]:
        return diff(self.faulty, self.cured)

    @property
    def undone(self) -> bool:
        """Whether the cured program is the healthy one, so that there is no third curve to show."""
        return self.cured == self.healthy

    @property
    def words(self) -> Remedy:
        """The doctor's remedy that the cure follows."""
        return catalogue()[self.finding].remedies[self.remedy]


@lru_cache(maxsize=1)
def text() -> str:
    """The healthy program."""
    return resources.files("wellfit.laboratory").joinpath("healthy.py").read_text(encoding="utf-8")


def edited(program: str, edits: tuple[Edit, ...], name: str) -> str:
    """The text with its edits, each of which must fit exactly once."""
    for edit in edits:
        count = program.count(edit.old)
        assert count == 1, f"{name}: the edit {edit.old!r} fits {count} times, and must fit once"
        program = program.replace(edit.old, edit.new)
    return program


def diff(before: str, after: str) -> tuple[str, ...]:
    """The lines that differ, with - or + before them, indented no more than they must be among each other."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[3:]
    margin = min(len(line) - 1 - len(line[1:].lstrip()) for line in lines if not line.startswith("@@"))
    return tuple("  …" if line.startswith("@@") else f"{line[0]} {line[1 + margin :]}" for line in lines)


def find(name: str) -> Pathology:
    """A pathology by its name, or by the doctor's id if one alone has it. Raises RecipeError for another name."""
    if name in PATHOLOGIES:
        return PATHOLOGIES[name]
    named = [one for one in PATHOLOGIES.values() if one.finding == name]
    if len(named) == 1:
        return named[0]
    raise RecipeError(
        f"There is no pathology {name!r} in the lab; it can be {', '.join(PATHOLOGIES)}.{nearest(name, list(PATHOLOGIES))}"
    )


# ---- pieces that several edits are made of

_RELU = "        nn.ReLU(),\n"
_NORMALISED = "        nn.BatchNorm1d(WIDTH),\n" + _RELU
_RATE, _DEEP, _WIDE = "LEARNING_RATE = 0.05", "DEPTH = 2", "WIDTH = 64"
_OPTIMIZER = "    optimizer = SGD("
_LABELS = "    y = torch.tensor(digits.target)\n"
_STANDARD = "    x = (x - x[train].mean()) / x[train].std()\n"
_SPLIT = "    train = order[500:]\n"
_LOADER = "BATCH_SIZE, shuffle=True)"
_LOSS = "            loss = F.cross_entropy(outputs, labels)\n"
_CLEAR = "            optimizer.zero_grad()\n"
_BACKWARD = "            loss.backward()\n"
_STEP = "            optimizer.step()\n"
_HEAD, _SOFTMAX = "    layers.append(nn.Linear(WIDTH, 10))\n", "    layers.append(nn.Softmax(dim=1))\n"
_FUSED = "            loss = 10 * fused(outputs, target)\n"
_BY_HAND = (
    "            p = outputs.sigmoid()\n"
    "            loss = -10 * (target * p.log() + (1 - target) * (1 - p).log()).mean()\n"
)

_ALL = (
    Pathology(
        name="vanishing-gradients",
        finding="vanishing-gradients",
        title="Vanishing gradients",
        line="a stack of six sigmoid layers: the gradient dies on its way to the first",
        explains=(
            "The gradient of a layer is a product of the slopes of all layers after it.",
            "A sigmoid's slope s(1 − s) is at most 1/4, so six of them leave less than 1/4,000 of it, and the first layers stand still.",
            "ReLU has slope 1 wherever it is on.",
        ),
        source="Glorot & Bengio 2010; Glorot, Bordes & Bengio 2011",
        scene=(Edit(_DEEP, "DEPTH = 6"),),
        scene_is="six hidden layers",
        fault=(Edit("nn.ReLU()", "nn.Sigmoid()"),),
        cure=(Edit("nn.Sigmoid()", "nn.ReLU()"),),
        remedy=0,
        gradients=True,
    ),
    Pathology(
        name="deep-without-batch-norm",
        finding="vanishing-gradients",
        title="A deep net without batch norm",
        line="twelve layers with nothing that keeps the size of signals",
        explains=(
            "Weights drawn from ±1/√n, which is torch's default, leave √(1/6), about 0.4, of a signal's spread and of its gradient in each ReLU layer.",
            "After twelve of them all inputs look alike, and hardly anything comes back.",
            "Batch norm gives every layer's signal mean 0 and variance 1 again.",
        ),
        source="He et al. 2015; Ioffe & Szegedy 2015",
        scene=(Edit(_DEEP, "DEPTH = 12"), Edit(_RELU, _NORMALISED)),
        scene_is="twelve hidden layers with batch norm",
        fault=(Edit(_NORMALISED, _RELU),),
        cure=(Edit(_RELU, _NORMALISED),),
        remedy=1,
        gradients=True,
    ),
    Pathology(
        name="exploding-gradients",
        finding="exploding-gradients",
        title="Exploding gradients",
        line="weights that are too large for their depth: every layer makes the signal three times larger",
        explains=(
            "A ReLU layer of n inputs multiplies the size of its signal by about √(n/2) · σ, here by 3.4, and the gradient likewise.",
            "After six layers outputs are in the thousands, and one step throws the weights out of all range.",
            "Kaiming's σ=√(2/n) makes the factor 1.",
        ),
        source="He et al. 2015",
        scene=(Edit(_DEEP, "DEPTH = 6"),),
        scene_is="six hidden layers",
        fault=(
            Edit(_OPTIMIZER, "    for layer in model[::2]:\n        nn.init.normal_(layer.weight, std=0.6)\n" + _OPTIMIZER),
        ),
        cure=(Edit("nn.init.normal_(layer.weight, std=0.6)", 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'),),
        remedy=1,
        gradients=True,
    ),
    Pathology(
        name="zero-initialization",
        finding="poor-initialization",
        title="Weights that start at zero",
        line="all weights zero: units that start alike stay alike",
        explains=(
            "Units of a layer that start with the same weights get the same gradient, and stay one and the same unit for ever.",
            "With zeros it is worse: nothing passes forward, no gradient comes back, and only the last biases learn.",
            "Random weights break the symmetry.",
        ),
        source="Glorot & Bengio 2010; He et al. 2015",
        fault=(
            Edit(_OPTIMIZER, "    for layer in model[::2]:\n        nn.init.zeros_(layer.weight)\n        nn.init.zeros_(layer.bias)\n" + _OPTIMIZER),
        ),
        cure=(Edit("nn.init.zeros_(layer.weight)", 'nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")'),),
        remedy=0,
        gradients=True,
    ),
    Pathology(
        name="dead-units",
        finding="dead-units",
        title="Dead units",
        line="biases far below zero: no ReLU ever fires",
        explains=(
            "A ReLU whose input is negative for every sample puts out zero, and its slope there is zero, too.",
            "So it gets no gradient and cannot come back, whatever the learning rate.",
            "Large steps can throw biases there; here they start at −4.",
        ),
        source="Maas, Hannun & Ng 2013",
        fault=(
            Edit(_OPTIMIZER, "    for layer in model[:-1:2]:\n        nn.init.constant_(layer.bias, -4.0)\n" + _OPTIMIZER),
        ),
        cure=(Edit("nn.init.constant_(layer.bias, -4.0)", "nn.init.zeros_(layer.bias)"), Edit("nn.ReLU()", "nn.LeakyReLU(0.01)")),
        remedy=1,
        gradients=True,
    ),
    Pathology(
        name="learning-rate-too-high",
        finding="learning-rate-too-high",
        title="A learning rate of 1.0",
        line="steps so large that they jump across every valley",
        explains=(
            "A step of gradient descent trusts the slope as far as the step goes.",
            "Beyond about 2/λ, where λ is the sharpest curvature of the loss, each step lands higher on the other side than it started.",
            "The loss then runs away, or gets stuck high with most units dead.",
        ),
        source="LeCun et al. 1998; Smith 2017",
        fault=(Edit(_RATE, "LEARNING_RATE = 1.0"),),
        cure=(Edit("LEARNING_RATE = 1.0", "LEARNING_RATE = 0.1"),),
        remedy=0,
    ),
    Pathology(
        name="learning-rate-too-low",
        finding="learning-rate-too-low",
        title="A learning rate of 0.0000001",
        line="steps so small that nothing happens within the run",
        explains=(
            "All 420 steps together move the weights by some 0.002 % of their length.",
            "Nothing is broken: the loss is where it began because the weights are.",
            "A range test, which raises the rate step by step until the loss rises, finds where to begin.",
        ),
        source="Smith 2017",
        fault=(Edit(_RATE, "LEARNING_RATE = 1e-7"),),
        cure=(Edit("LEARNING_RATE = 1e-7", "LEARNING_RATE = 0.1"),),
        remedy=0,
    ),
    Pathology(
        name="learning-rate-decayed-too-early",
        finding="learning-rate-decayed-too-early",
        title="A schedule stepped too often",
        line="scheduler.step() inside the loop over batches: the rate is gone after one epoch",
        explains=(
            "The schedule divides the rate by ten after every eighth call, and was meant to be called once an epoch.",
            "One indentation deeper it is called for every batch, and after 24 steps a thousandth of the rate is left.",
            "The loss freezes where it happens to be.",
        ),
        source="torch.optim.lr_scheduler.StepLR",
        scene=(
            Edit("    step = 0\n", "    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 8, gamma=0.1)\n    step = 0\n"),
            Edit("        model.eval()\n", "        scheduler.step()\n        model.eval()\n"),
        ),
        scene_is="a schedule that divides the rate by ten every eight epochs",
        fault=(
            Edit("        scheduler.step()\n", ""),
            Edit("            step += 1\n", "            scheduler.step()\n            step += 1\n"),
        ),
        cure=(
            Edit("            scheduler.step()\n", ""),
            Edit("        model.eval()\n", "        scheduler.step()\n        model.eval()\n"),
        ),
        remedy=1,
    ),
    Pathology(
        name="gradients-not-cleared",
        finding="gradients-not-cleared",
        title="Forgotten zero_grad()",
        line="gradients of all earlier steps are still there",
        explains=(
            "Calling `backward` adds to the gradients that are there; it does not replace them.",
            "Without clearing, each step repeats all earlier ones: momentum without friction, and growing swings.",
            "The program runs, and nothing warns.",
        ),
        source="torch.optim.Optimizer.zero_grad",
        fault=(Edit(_CLEAR, ""),),
        cure=(Edit(_BACKWARD, _CLEAR + _BACKWARD),),
        remedy=0,
    ),
    Pathology(
        name="weights-not-changing",
        finding="weights-not-changing",
        title="Gradients cleared too late",
        line="zero_grad() between backward() and step(): every update is zero",
        explains=(
            "The order is clear, backward, step.",
            "Cleared between the two, the gradient is gone when the optimizer looks for it.",
            "Training goes through all its motions, and the weights stay what they are.",
        ),
        source="torch.optim.Optimizer.zero_grad",
        fault=(Edit(_CLEAR, ""), Edit(_STEP, _CLEAR + _STEP)),
        cure=(Edit(_CLEAR, ""), Edit(_BACKWARD, _CLEAR + _BACKWARD)),
        remedy=0,
    ),
    Pathology(
        name="parameters-not-in-optimizer",
        finding="parameters-not-in-optimizer",
        title="Layers the optimizer does not know",
        line="only the last layer was given to the optimizer",
        explains=(
            "The optimizer changes what it was given, and here that is the last layer.",
            "The others keep the weights that they were drawn with: a fixed random projection.",
            "That such a model learns something is what hides the mistake.",
        ),
        source="torch.optim.Optimizer",
        fault=(Edit("SGD(model.parameters()", "SGD(model[-1].parameters()"),),
        cure=(Edit("SGD(model[-1].parameters()", "SGD(model.parameters()"),),
        remedy=0,
    ),
    Pathology(
        name="double-softmax",
        finding="softmax-before-cross-entropy",
        title="Softmax twice",
        line="a softmax in the model, and another one in the loss",
        explains=(
            "The loss `cross_entropy` takes logits and applies the softmax itself.",
            "Given probabilities, which lie between 0 and 1, the second softmax can never say more than e to 1.",
            "The loss of ten classes cannot fall below ln(1 + 9/e) = 1.461, and the gradient of what is sure and wrong dies.",
        ),
        source="Bridle 1990; torch.nn.CrossEntropyLoss",
        fault=(Edit(_HEAD, _HEAD + _SOFTMAX),),
        cure=(Edit(_SOFTMAX, ""),),
        remedy=0,
    ),
    Pathology(
        name="log-of-zero",
        finding="loss-not-finite",
        title="NaN from log 0",
        line="a cross entropy by hand: it works until the net is sure of something",
        explains=(
            "Beyond an output of about 17 a sigmoid is exactly 1 in float32, so 1 − p is 0 and its logarithm −∞.",
            "Times a zero that is NaN, and one NaN spoils every weight for good.",
            "It comes late, because a net must first grow sure. The fused loss computes with logits and never takes that logarithm.",
        ),
        source="IEEE 754; torch.nn.BCEWithLogitsLoss",
        scene=(
            Edit("    step = 0\n", "    fused = nn.BCEWithLogitsLoss()\n    step = 0\n"),
            Edit(_LOSS, "            target = F.one_hot(labels, 10).float()\n" + _FUSED),
        ),
        scene_is="ten yes-or-no questions in place of one of ten",
        fault=(Edit(_FUSED, _BY_HAND),),
        cure=(Edit(_BY_HAND, _FUSED),),
        remedy=0,
    ),
    Pathology(
        name="loss-increasing",
        finding="loss-increasing",
        title="A wrong sign",
        line="maximize=True: the loss is climbed, not descended",
        explains=(
            "Gradient descent goes against the gradient.",
            "With the sign turned round, in the loss or in the update, it makes the loss as large as it can, without bound.",
            "In a policy gradient the sign is easily lost; here one argument does it.",
        ),
        source="torch.optim.SGD(maximize=True)",
        fault=(Edit("momentum=0.9)", "momentum=0.9, maximize=True)"),),
        cure=(Edit("momentum=0.9, maximize=True)", "momentum=0.9)"),),
        remedy=0,
    ),
    Pathology(
        name="shuffled-labels",
        finding="labels-unrelated-to-inputs",
        title="Shuffled labels",
        line="labels of other pictures: the net learns them by heart, and nothing else",
        explains=(
            "Joined wrongly, labels say nothing of their pictures.",
            "A net with enough weights drives the training loss to zero all the same: it knows each sample by heart.",
            "So a falling training loss proves nothing. On held-out pictures it is right one time in ten.",
        ),
        source="Zhang et al. 2017",
        scene=(Edit(_WIDE, "WIDTH = 256"), Edit("EPOCHS = 20", "EPOCHS = 50")),
        scene_is="256 units a layer, 50 epochs",
        fault=(Edit(_LABELS, _LABELS + "    y = y[torch.randperm(len(y))]\n"),),
        cure=(
            Edit(
                "    y = y[torch.randperm(len(y))]\n",
                "    shuffled = torch.randperm(len(y))\n    x, y = x[shuffled], y[shuffled]\n",
            ),
        ),
        remedy=0,
    ),
    Pathology(
        name="forty-samples",
        finding="overfitting",
        title="Forty samples",
        line="a net with 9,000 weights, and 40 pictures to learn from",
        explains=(
            "Nine thousand weights can tell forty pictures apart in countless ways, and most of these ways say nothing of other pictures.",
            "The training loss falls to nothing, while the held-out loss rises: the net grows ever surer of what it gets wrong.",
            "More data leave fewer ways to be right by chance.",
        ),
        source="Geman, Bienenstock & Doursat 1992",
        fault=(Edit(_SPLIT, "    train = order[500:540]\n"), Edit("EPOCHS = 20", "EPOCHS = 420")),
        cure=(Edit("order[500:540]", "order[500:]"), Edit("EPOCHS = 420", "EPOCHS = 20")),
        remedy=2,
        held_out_loss=True,
        log=True,
    ),
    Pathology(
        name="too-small-a-net",
        finding="underfitting",
        title="Too small a net",
        line="one hidden layer of two units, for ten digits",
        explains=(
            "Two units turn each picture into two numbers, and in these the ten digits lie over each other.",
            "The training loss stays high, and further steps hardly help: the net cannot express the answer.",
            "Training and held-out data are told equally badly, which is how underfitting differs from overfitting.",
        ),
        source="Geman, Bienenstock & Doursat 1992",
        scene=(Edit(_DEEP, "DEPTH = 1"),),
        scene_is="one hidden layer",
        fault=(Edit(_WIDE, "WIDTH = 2"),),
        cure=(Edit("WIDTH = 2", "WIDTH = 64"),),
        remedy=0,
    ),
    Pathology(
        name="inputs-not-normalized",
        finding="inputs-not-normalized",
        title="Inputs from 0 to 255",
        line="pictures as they come from a file, neither centred nor scaled",
        explains=(
            "The curvature of the loss grows with the square of the size of the inputs.",
            "With pixels from 0 to 255 it is thousands of times steeper, and a learning rate that suits inputs near 1 throws the weights away.",
            "Inputs with mean 0 and spread 1, or at least from 0 to 1, make the usual rates usable.",
        ),
        source="LeCun et al. 1998",
        fault=(Edit(_STANDARD, "    x = x * 255 / 16  # as 8 bits hold it\n"),),
        cure=(Edit("    x = x * 255 / 16  # as 8 bits hold it\n", "    x = x * 255 / 16  # as 8 bits hold it\n    x = x / 255\n"),),
        remedy=1,
    ),
    Pathology(
        name="class-sorted-order",
        finding="data-not-shuffled",
        title="Samples sorted by class",
        line="all zeros first, all nines last: each batch pulls elsewhere",
        explains=(
            "The gradient of a batch stands for that of all data only if the batch is drawn at random.",
            "Sorted by class, a batch holds one digit, and the quickest way to a lower loss is to say this digit always.",
            "So the net swings from one answer to the next.",
        ),
        source="Bengio 2012, section 3",
        scene=(Edit(_SPLIT, _SPLIT + "    train = train[y[train].argsort()]\n"),),
        scene_is="a file in which the digits are sorted, read in a new order in every epoch",
        fault=(Edit(_LOADER, "BATCH_SIZE, shuffle=False)"),),
        cure=(Edit("BATCH_SIZE, shuffle=False)", _LOADER),),
        remedy=0,
    ),
    Pathology(
        name="dropout-too-strong",
        finding="dropout-harmful",
        title="A dropout of 0.95",
        line="nineteen of twenty units are switched off in every layer",
        explains=(
            "Dropout switches units off at random, so that none relies on another.",
            "At 0.95 three of 64 are left in each layer, other ones in every step: hardly anything of the picture gets through.",
            "From 0.1 to 0.5 is usual between layers.",
        ),
        source="Srivastava et al. 2014",
        fault=(Edit(_RELU, _RELU + "        nn.Dropout(0.95),\n"),),
        cure=(Edit("nn.Dropout(0.95)", "nn.Dropout(0.2)"),),
        remedy=0,
    ),
    Pathology(
        name="evaluation-in-train-mode",
        finding="evaluation-in-train-mode",
        title="Evaluated in training mode",
        line="model.eval() forgotten: dropout goes on while the net is scored",
        explains=(
            "In training mode dropout goes on dropping while the net is scored, and batch norm takes its statistics from whatever comes.",
            "The weights are as good as ever; the score is not theirs.",
            "It is too low, and another one each time.",
        ),
        source="Srivastava et al. 2014; torch.nn.Module.eval",
        scene=(Edit(_RELU, _RELU + "        nn.Dropout(0.5),\n"),),
        scene_is="dropout between the layers",
        fault=(Edit("        model.eval()\n", ""),),
        cure=(Edit("        with torch.no_grad():\n", "        model.eval()\n        with torch.no_grad():\n"),),
        remedy=0,
    ),
)  # fmt: skip
PATHOLOGIES = {one.name: one for one in _ALL}
