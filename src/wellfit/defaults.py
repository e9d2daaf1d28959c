"""What a recipe leaves open, filled in from the data and the machine, each value with its reason.

One pure function of (recipe, facts): no data is read and no device is touched here. A value that the user or the preset
set is never changed. The reasons end up in `recipe.yaml`, in `wellfit explain` and in the report.

    >>> resolved = resolve(Recipe(), Facts(task="image-classification", train_samples=60_000))
    >>> resolved.optimizer.learning_rate, resolved.origin("optimizer.learning_rate").why
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellfit.errors import RecipeError
from wellfit.recipe import Recipe
from wellfit.settings import Pretrained

LEARNING_RATES = {
    "sgd": (
        0.05,
        "with momentum 0.9 this is where SGD on normalised networks is usually stable (He et al. 2016 use 0.1)",
    ),
    "adam": (1e-3, "the paper's value (Kingma & Ba 2015)"),
    "adamw": (1e-3, "Adam's value, which decoupled decay keeps (Loshchilov & Hutter 2019)"),
    "adafactor": (1e-2, "the paper's largest relative step (Shazeer & Stern 2018)"),
    "lion": (1e-4, "three to ten times below AdamW's, because each step has full sign size (Chen et al. 2023)"),
    "muon": (1e-3, "updates are scaled to AdamW's size, so AdamW's rate fits (Liu et al. 2025)"),
}
TRANSFORMER_LEARNING_RATE = (
    3e-4,
    "Transformers take a third of what other networks do under Adam (Radford et al. 2018)",
)
UNNORMALISED_LEARNING_RATES = {  # deep, and without batch norm
    "sgd": (0.01, "without batch norm larger steps diverge (Krizhevsky et al. 2012, section 5)"),
    "adam": (3e-4, "without batch norm the usual 1e-3 makes its wide layers diverge or die"),
    "adamw": (3e-4, "without batch norm the usual 1e-3 makes its wide layers diverge or die"),
}
WEIGHT_DECAYS = {
    "sgd": (5e-4, "the ResNet and VGG recipes' order of magnitude; SGD adds it to the gradient"),
    "adam": (0.0, "decay inside Adam's gradient is rescaled away; use adamw to decay (Loshchilov & Hutter 2019)"),
    "adamw": (1e-2, "torch's default; per step the weights shrink by rate x decay"),
    "adafactor": (0.0, "the paper uses none"),
    "lion": (0.1, "rate x decay as for AdamW, at Lion's smaller rate (Chen et al. 2023)"),
    "muon": (1e-2, "as AdamW"),
}
VIT_WEIGHT_DECAY = (
    0.05,
    "nothing in it knows of images, so a ViT overfits sooner than a ConvNet (Touvron et al. 2021, table 9)",
)
BETA2 = {
    "lion": (0.99, "the paper's value (Chen et al. 2023)"),
    "muon": (0.95, "for the parameters that AdamW updates beside Muon (Jordan et al. 2024)"),
}
STARTS = {  # the kind of model to begin with
    "given": "given",
    "image-classification": "convnet",
    "tabular-classification": "mlp",
    "tabular-regression": "mlp",
    "text-classification": "encoder",
    "text-generation": "decoder",
    "seq-to-seq": "encoder-decoder",
    "sentence-embeddings": "encoder",
    "token-classification": "encoder",
    "forecasting": "recurrent",
    "object-detection": "faster-rcnn",
}
FEW_TEXTS = 20_000
TRANSFORMERS = ("pretrained", "encoder", "decoder", "encoder-decoder", "vit", "detr")
FORECASTING_BATCH = 32  # windows overlap, so a batch of them holds each value many times
WRITERS_BATCH = 8  # rows of a pretrained model that writes: a row of 1,024 tokens and 50,000 words has 200 MB of logits
CONVOLUTIONAL = ("convnet", "lenet", "alexnet", "resnet", "named")
DEPTHS = {"cifar": 20, "imagenet": 18}  # of a ResNet, by its stem
SMALL_IMAGE = 96  # pixels a side: imagenet's stem and stages leave a 32nd of it
FEW_PATCHES = 64
ADAPTING = 130  # steps in which a trained language model learns to tell texts apart; below some 1,200 of them three epochs have fewer
LESS_IS_BETTER = ("loss", "error", "mae", "mae_raw", "mse", "rmse", "perplexity", "wer", "cer")
MORE_IS_BETTER = (
    "accuracy", "f1", "r2", "auc", "bleu", "map", "map50", "precision", "recall",
    "spearman", "chrf", "rouge1", "rougeL", "mrr", "recall_at_1", "token_accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of the data, the model and the machine when a recipe is resolved."""

    task: str
    train_samples: int  # 0 if unknown
    valid_samples: int = 0
    name: str = ""
    model: str = ""  # class of a given model
    transformer: bool = False
    world: int = 1
    device: str = "cpu"
    bf16: bool = False  # the device multiplies bf16 in hardware
    steps_per_epoch: int | None = None  # where the caller's own batches decide it
    batch_size: int | None = None  # the same
    workers: tuple[int, str] = (0, "the data lies in memory")  # how many processes to load it, and why
    shape: tuple[int, ...] = ()  # [C, H, W] of images
    derived: Mapping[str, tuple[Any, str]] = field(default_factory=dict)  # what reading the data decided


READS = {"encoder": ("word", "an encoder's states are of words, in their order")}  # kind of model -> kind of tokens


def before_reading(recipe: Recipe) -> Recipe:
    """What the model and the strategy that are asked for decide of how data is read."""
    if recipe.data.packing is None and recipe.finetune.strategy in ("prompt", "prefix"):
        why = "learnt vectors stand before a row, and so before the first conversation of it alone"
        recipe = recipe.override({"data.packing": False}, by="derived", why=why)
    if recipe.data.tokens is None and isinstance(recipe.model, Pretrained):
        why = "a trained model knows texts only as its own tokenizer cuts them"
        return recipe.override({"data.tokens": f"pretrained:{recipe.model.name}"}, by="derived", why=why)
    start = Path(recipe.finetune.weights or "")
    if recipe.data.tokens is None and recipe.finetune.weights and _has_tokens(start):
        why = "the weights know texts only as they were cut when they were learnt"
        return recipe.override({"data.tokens": str(start)}, by="derived", why=why)
    if recipe.data.tokens is None and recipe.model is not None and recipe.model.kind in READS:
        tokens, why = READS[recipe.model.kind]
        return recipe.override({"data.tokens": tokens}, by="derived", why=why)
    return recipe


def _has_tokens(run: Path) -> bool:
    """Whether a folder is that of a run that learnt from texts."""
    try:
        return "tokens" in json.loads((run / "task.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def resolve(recipe: Recipe, facts: Facts) -> Recipe:
    """The recipe with nothing left open; raises RecipeError for a metric whose goal is not known."""
    for derive in (_what, _of_images, _trained_before, _learning, _length, _machine, _watching):
        for path, (value, why) in derive(recipe, facts).items():
            if _open(recipe, path):
                recipe = recipe.override({path: value}, by="derived", why=why)
    return recipe


Derived = dict[str, tuple[Any, str]]


def _open(recipe: Recipe, path: str) -> bool:
    return recipe.flat().get(path, "not there") in (None, "", "auto")


def _what(recipe: Recipe, facts: Facts) -> Derived:
    usual: tuple[Any, str] = ({"kind": STARTS[facts.task]}, f"the usual start for {facts.task}")
    if facts.task == "text-classification" and 0 < facts.train_samples < FEW_TEXTS:
        usual = (
            {"kind": "bag"},
            f"of fewer than {FEW_TEXTS:,} texts little more than words can be learnt (Wang & Manning 2012)",
        )
    kind = facts.derived.get("model", usual)[0]["kind"]  # reading the data may have decided it
    model = recipe.model.kind if recipe.model else kind
    losses = {"tabular-regression": "mse", "given": "given", "forecasting": "quantile" if model == "tft" else "mse"}
    return {
        **facts.derived,
        "task": (facts.task, "what the data holds"),
        "model": facts.derived.get(
            "model", ({**usual[0], **({"name": facts.model} if kind == "given" else {})}, usual[1])
        ),
        "model.name": (facts.model, "for the record"),
        "loss.kind": facts.derived.get(
            "loss.kind",
            (
                losses.get(facts.task, "cross-entropy"),
                "maximum likelihood for numbers with equal noise"
                if facts.task in losses
                else "maximum likelihood for classes",
            ),
        ),
        "name": ("-".join(filter(None, [facts.name, model])), "from the data and the model"),
    }


FULL_RATE = (
    "frozen",
    "recipe",
    "lora",
    "qlora",
    "prompt",
    "prefix",
)  # where trained weights stay as they are, or get a smaller rate by themselves


def goes_on(recipe: Recipe) -> bool:
    """Whether the network begins with trained weights."""
    return bool(getattr(recipe.model, "pretrained", False)) or recipe.finetune.weights is not None


def _trained_before(recipe: Recipe, _: Facts) -> Derived:
    if not goes_on(recipe):
        return {}
    return {"finetune.strategy": ("full", "everything can adapt; with few samples `frozen` or `recipe` is safer")}


def stem_for(shape: Sequence[int]) -> str:
    """The stem of a ResNet for images [C, H, W]."""
    return "imagenet" if min(shape[1:]) >= SMALL_IMAGE else "cifar"


def patch_for(shape: Sequence[int]) -> int:
    """The side of a ViT's patches for images [C, H, W]: of those that divide both sides, what comes nearest to 64 patches."""
    _, H, W = shape
    sides = [side for side in range(1, min(H, W) + 1) if H % side == 0 and W % side == 0]
    return min(sides, key=lambda side: abs(math.log(H * W / side**2 / FEW_PATCHES)))


def _of_images(recipe: Recipe, facts: Facts) -> Derived:
    """What the size of the images decides of a model."""
    if recipe.model is None or len(facts.shape) != 3:
        return {}
    _, H, W = facts.shape
    if recipe.model.kind == "vit":
        patch = patch_for(facts.shape)
        return {"model.patch": (patch, f"cuts {H} x {W} pixels into {H // patch} x {W // patch} patches")}
    if recipe.model.kind != "resnet":
        return {}
    stem = recipe.model.stem or stem_for(facts.shape)
    small = f"images of {H} x {W} pixels are small: imagenet's stem would leave {-(-H // 32)} x {-(-W // 32)} places"
    large = f"images of {H} x {W} pixels are large: at full resolution most of the work would be lost on near copies"
    return {
        "model.stem": (stem, small if stem == "cifar" else large),
        "model.depth": (DEPTHS[stem], f"the paper's shallowest with the stem {stem}"),
    }


def _learning(recipe: Recipe, facts: Facts) -> Derived:
    kind = recipe.optimizer.kind.removesuffix("8bit")  # whose averages in fewer bits want no other settings
    rate = LEARNING_RATES[kind]
    if recipe.model is not None and recipe.model.kind == "alexnet":
        rate = UNNORMALISED_LEARNING_RATES.get(kind, rate)
    transformer = facts.transformer or (recipe.model is not None and recipe.model.kind in TRANSFORMERS)
    if transformer and kind in ("adam", "adamw", "muon"):
        rate = TRANSFORMER_LEARNING_RATE
    if goes_on(recipe) and recipe.finetune.strategy not in FULL_RATE:
        rate = (rate[0] / 10, "a tenth of the usual, so that what was learnt before is not lost (Howard & Ruder 2018)")
    warmup = (0.1, "Transformers diverge without it (Xiong et al. 2020)") if transformer else (
        0.05, "adaptive steps are noisy until their averages have filled (Liu et al. 2020)")  # fmt: skip
    return {
        "optimizer.learning_rate": rate,
        "optimizer.weight_decay": VIT_WEIGHT_DECAY
        if kind == "adamw" and recipe.model is not None and recipe.model.kind == "vit"
        else WEIGHT_DECAYS[kind],
        "optimizer.beta2": BETA2.get(kind, (0.999, "the paper's value (Kingma & Ba 2015)")),
        "optimizer.batch_scaling": ("linear", "SGD's noise grows with rate over batch (Goyal et al. 2017)")
        if kind == "sgd"
        else ("sqrt", "adaptive steps scale with the root of the batch (Malladi et al. 2022)"),
        "schedule.warmup_steps": warmup,
    }


def _length(recipe: Recipe, facts: Facts) -> Derived:
    if facts.batch_size is not None:
        return {
            "training.batch_size": (facts.batch_size, "what the given batches hold"),
            **(
                {}
                if recipe.training.steps
                else {"training.epochs": (10.0, "a start; the curves tell whether to go on")}
            ),
        }
    samples = max(1, facts.train_samples)
    ways = facts.world * recipe.training.gradient_accumulation_steps
    most = FORECASTING_BATCH if facts.task == "forecasting" or isinstance(recipe.model, Pretrained) else 128
    if _writes(recipe, facts.task):
        most = WRITERS_BATCH
    target = max(8, min(most, samples // 20))
    size = max(ways, min(2 ** int(math.log2(target)), samples) // ways * ways)
    chosen = recipe.training.batch_size or size
    bag = recipe.model is not None and recipe.model.kind == "bag"
    steps = 1000 if bag else 2000  # a bag has little to learn, and soon has
    epochs = max(3, min(100, round(steps * chosen / samples)))
    length = f"about {steps:,} steps of {chosen}, between 3 and 100 epochs"
    if isinstance(recipe.model, Pretrained) and goes_on(recipe):
        epochs, length = 3, "a trained language model adapts in two to four (Devlin et al. 2019, A.3)"
        if facts.task == "text-classification" and round(ADAPTING * chosen / samples) > epochs:
            epochs = min(10, round(ADAPTING * chosen / samples))
            length = f"about {ADAPTING} steps, in up to 10 epochs: of few samples three end before it has adapted (Mosbach et al. 2021)"
    derived: Derived = {
        "training.batch_size": (
            size,
            f"about 20 steps per epoch of {samples:,} samples or more, between 8 and {most}",
        ),
    }
    if recipe.training.steps is None:
        derived["training.epochs"] = (float(epochs), length)
    return derived


def _writes(recipe: Recipe, task: str | None) -> bool:
    """Whether a pretrained model says next tokens, of which it knows tens of thousands."""
    return task == "text-generation" and isinstance(recipe.model, Pretrained)


def evaluated_at_once(recipe: Recipe, task: str | None, micro_batch: int) -> int:
    """Held-out samples of one forward pass, where nothing else is said, beside micro-batches of so many."""
    return micro_batch if _writes(recipe, task) else min(1024, 4 * micro_batch)


def _machine(recipe: Recipe, facts: Facts) -> Derived:
    lower = facts.bf16
    precision = recipe.hardware.precision
    sixteen = precision in ("bf16", "fp16") or (precision == "auto" and lower)
    on_tensor_cores = facts.device.startswith("cuda") and sixteen
    convolves = recipe.model is not None and recipe.model.kind in CONVOLUTIONAL
    if recipe.optimizer.kind.endswith("8bit"):
        last = (False, f"{recipe.optimizer.kind} takes weights in the order of their shape")
    elif recipe.hardware.parallel != "ddp":
        last = (False, "weights that are shared out over ranks lie in the order of their shape")
    elif on_tensor_cores and convolves:
        last = (
            True,
            "tensor cores read images so, and turn each layer's inputs round otherwise (PyTorch tutorial: 8 to 35 % faster)",
        )
    elif on_tensor_cores:
        last = (
            False,
            "not known to be a network of convolutions that takes images in either order; true is worth a try for one",
        )
    else:
        last = (
            False,
            f"a clear gain only on CUDA in 16 bits; on {facts.device} try true, and compare the time of a step",
        )
    return {
        "hardware.device": (facts.device, "the best device here"),
        "hardware.precision": ("bf16", f"{facts.device} multiplies it in hardware, with fp32's range")
        if lower
        else ("fp32", f"{facts.device} has no faster arithmetic that trains as well"),
        "hardware.channels_last": last,
        "data.workers": facts.workers,
    }


def _watching(recipe: Recipe, facts: Facts) -> Derived:
    training = recipe.training
    batch = training.batch_size or 1
    per_epoch = facts.steps_per_epoch or max(1, math.ceil(facts.train_samples / batch))
    steps = training.steps or math.ceil((training.epochs or 1) * per_epoch)
    every = min(steps, per_epoch * max(1, math.ceil(steps / per_epoch / 100)))
    metric = recipe.evaluation.metric or "loss"
    if recipe.evaluation.goal is None and metric not in (*MORE_IS_BETTER, *LESS_IS_BETTER):
        raise RecipeError(
            f"`evaluation.metric` is {metric!r}, and whether more or less of it is better is not known. "
            "Set `evaluation.goal` to max or min."
        )
    micro = max(1, batch // (facts.world * training.gradient_accumulation_steps))
    return {
        "evaluation.every": (
            float(every),
            "each epoch" if every == per_epoch else "about a hundred times over the run",
        ),
        "evaluation.metric": (
            "loss",
            "the validation loss sees more than a count of hits" if facts.valid_samples else "nothing is held out",
        ),
        "evaluation.goal": ("max", f"more {metric} is better")
        if metric in MORE_IS_BETTER
        else ("min", f"less {metric} is better"),
        "evaluation.batch_size": (
            evaluated_at_once(recipe, facts.task, micro),
            "most memory goes into a number for each token and word, gradients or not"
            if _writes(recipe, facts.task)
            else "no gradients are kept, so four times the micro-batch fits",
        ),
        "checkpoints.every": (recipe.evaluation.every or float(every), "at each evaluation"),
    }
