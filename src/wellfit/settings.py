"""The settings of a recipe: every choice that decides a run, declared once.

Each field says what it is, its default, why that is the default, and the source of the reason. `None` means "derived":
`defaults.py` fills it in. Groups are frozen and refuse keys they do not know. How recipes are loaded, changed and compared
is in `recipe.py`.

    >>> Optimizer(kind="lion", learning_rate=1e-4).beta1
    0.9
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Who = Literal["default", "preset", "user", "derived", "measured"]


def setting(default: Any, what: str, why: str, source: str = "", **limits: Any) -> Any:
    """A field of a recipe: its default, what it is, why that default, and where the reason comes from."""
    return Field(default, description=what, json_schema_extra={"why": why, "source": source}, **limits)


class Part(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )


class Origin(Part):
    """Who set a value, and why."""

    by: Who = "default"
    why: str = ""


class Augment(Part):
    shift: int = setting(
        0,
        "Largest random shift of an image, in pixels, each way; the edge is filled with zeros.",
        "Off unless the preset knows that a shifted image keeps its label.",
        "LeCun et al. 1998, section III",
        ge=0,
    )
    flip: bool = setting(
        False,
        "Mirror an image left to right in half of the cases.",
        "Off: a mirrored digit or letter is another one. Turn it on for natural images.",
        "Krizhevsky et al. 2012",
    )


class Data(Part):
    source: str = setting(
        "digits",
        "An embedded set (digits, wine, breast-cancer, diabetes) or the path of your own data: an MNIST-style "
        "idx folder, an .npz, a folder of images by class, a .csv or .parquet file.",
        "The digits are real, small and on every machine.",
    )
    target: str | None = setting(
        None,
        "Column to predict, for tables.",
        "A guess here would be a silent mistake, so it must be named.",
    )
    categorical: tuple[str, ...] = setting(
        (),
        "Columns to be read as categories even if they hold numbers.",
        "Columns that hold only text are categories already.",
    )
    ignore: tuple[str, ...] = setting((), "Columns to leave out (an id, a name).", "Nothing is left out unasked.")
    text: str | None = setting(
        None,
        "Column of the text, for tables of texts (of the source text, for pairs).",
        "Derived: the column whose entries are longest.",
    )
    tokens: str | None = setting(
        None,
        "What a text is cut into: char, byte, word, bpe, or the path of a tokenizer.json.",
        "Derived from the task: words to classify, characters to write, byte pairs to translate.",
    )
    vocabulary: int | None = setting(
        None, "Most different symbols that are told apart.", "Derived from the task.", ge=8, le=1_000_000
    )
    context: int | None = setting(
        None,
        "Tokens of a text that are looked at: longer texts are cut there, running text is learnt in windows of it.",
        "Derived from the task.",
        ge=2,
        le=1_000_000,
    )
    missing: Literal["error", "mean"] = setting(
        "error",
        "Empty or NaN cells: an error, or the column's mean over the training rows.",
        "A gap is often a fault in the export; filling it in is your decision.",
    )
    valid: str | None = setting(
        None,
        "Path of a separate validation set, in the same format.",
        "Without one, a share is held out of the training data.",
    )
    test: str | None = setting(
        None, "Path of a separate test set, in the same format.", "Without one, a share is held out."
    )
    valid_share: float = setting(
        0.1,
        "Share of the training data held out for validation. 0: none.",
        "A tenth tells well enough when to stop and costs little training data.",
        "Goodfellow et al. 2016, 5.3",
        ge=0,
        lt=1,
    )
    test_share: float | None = setting(
        None,
        "Share of the data held out for the final test, before anything else. 0: none.",
        "Derived: a fifth for the embedded sets, none for your own data unless you ask.",
        ge=0,
        lt=1,
    )
    split_seed: int = setting(
        0,
        "Seed of the split, apart from the training seed.",
        "Runs with different seeds must be scored on the same samples.",
        ge=0,
    )
    image_size: int | None = setting(
        None,
        "Side in pixels to which images from a folder are brought (shorter side resized, centre cropped).",
        "Derived: 64 for folders, the stored size for arrays.",
        ge=4,
        le=2048,
    )
    shuffle: bool = setting(
        True,
        "A new random order each epoch.",
        "Sorted batches bias each step; a new order each epoch converges faster.",
        "Bottou 2009",
    )
    workers: int = setting(
        0,
        "Processes that load samples. In-memory data needs none.",
        "Data held in memory is cheaper to index than to send between processes.",
        ge=0,
    )
    augment: Augment = Field(
        default_factory=Augment, description="Random changes to training images that keep their label."
    )


class GivenModel(Part):
    """The caller's own `nn.Module`, passed to `wellfit.fit`."""

    kind: Literal["given"] = "given"
    name: str = setting("", "Class of the module.", "Filled in for the record.")


Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]


class MLP(Part):
    """A multi-layer perceptron."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[int, ...] = setting(
        (128, 128),
        "Units of each hidden layer.",
        "Two layers of 128 carry most small tables.",
        "Gorishniy et al. 2021, table 14",
    )
    activation: Activation = setting(
        "relu", "Between the layers.", "Cheap and does not saturate.", "Glorot et al. 2011"
    )
    norm: Literal["none", "batch", "layer", "rms"] = setting(
        "none",
        "Normalisation after each hidden linear layer.",
        "Inputs are standardised already and the net is shallow.",
    )
    dropout: float = setting(
        0.1,
        "Share of hidden units silenced at random while training.",
        "Light: small tables overfit.",
        "Srivastava et al. 2014",
        ge=0,
        lt=1,
    )


class ConvNet(Part):
    """A plain convolutional network: blocks of two 3x3 convolutions with batch norm, then one linear layer."""

    kind: Literal["convnet"] = "convnet"
    channels: tuple[int, ...] = setting(
        (32, 64),
        "Channels of each block; each block but the first halves the resolution.",
        "Enough for small grey images.",
        "Simonyan & Zisserman 2015",
    )
    activation: Activation = setting(
        "relu", "After each batch norm.", "Cheap and does not saturate.", "Glorot et al. 2011"
    )
    dropout: float = setting(
        0.2,
        "Before the last layer.",
        "The last layer is where a small set is memorised.",
        "Srivastava et al. 2014",
        ge=0,
        lt=1,
    )


class Transformer(Part):
    """What all Transformers share."""

    width: int = setting(128, "Size of a token's state.", "Small texts do not fill a larger one.", ge=8)
    layers: int = setting(2, "Blocks, one upon the other.", "Two see words and what they are said of.", ge=1)
    heads: int = setting(
        4, "Attention heads; they share the width.", "32 dimensions each.", "Vaswani et al. 2017", ge=1
    )
    kv_heads: int | None = setting(
        None,
        "Heads of keys and values; null: as many.",
        "Fewer save memory while writing.",
        "Ainslie et al. 2023",
        ge=1,
    )
    mlp: Literal["gelu", "relu", "swiglu"] = setting(
        "gelu", "Bend of the feed-forward part.", "Smooth, and usual in Transformers.", "Hendrycks & Gimpel 2016"
    )
    norm: Literal["layer", "rms"] = setting("layer", "Normalisation.", "The best known.", "Ba et al. 2016")
    order: Literal["pre", "post"] = setting(
        "pre", "Whether it comes before or after each part.", "Before: trains without long warmup.", "Xiong et al. 2020"
    )
    positions: Literal["none", "sinusoidal", "learned", "rope", "alibi"] = setting(
        "rope", "How it knows where a token stands.", "By distance, for texts of any length.", "Su et al. 2021"
    )
    dropout: float = setting(
        0.1,
        "Share of each part's output silenced while training.",
        "The paper's value.",
        "Vaswani et al. 2017",
        ge=0,
        lt=1,
    )


class Encoder(Transformer):
    """A Transformer encoder: every token sees the whole text."""

    kind: Literal["encoder"] = "encoder"


class Decoder(Transformer):
    """A Transformer decoder: a token sees those before it."""

    kind: Literal["decoder"] = "decoder"
    layers: int = setting(4, "Blocks, one upon the other.", "What a laptop trains in minutes.", ge=1)


Model = Annotated[GivenModel | MLP | ConvNet | Encoder | Decoder, Field(discriminator="kind")]
MODELS: dict[str, type[Part]] = {
    "given": GivenModel,
    "mlp": MLP,
    "convnet": ConvNet,
    "encoder": Encoder,
    "decoder": Decoder,
}


class Loss(Part):
    kind: Literal["cross-entropy", "focal", "mse", "huber", "smooth-l1", "bce-with-logits", "given"] | None = setting(
        None,
        "The loss. `given` is the callable passed to `wellfit.fit`.",
        "Derived: cross entropy for classes, MSE for numbers.",
    )
    label_smoothing: float = setting(
        0.0,
        "Share of the target spread evenly over all classes (cross entropy).",
        "0 keeps probabilities calibrated; 0.1 often gains accuracy on image classes.",
        "Szegedy et al. 2016; Müller et al. 2019",
        ge=0,
        lt=1,
    )
    class_weights: Literal["balanced"] | tuple[float, ...] | None = setting(
        None,
        "One weight a class, or `balanced` for n / (classes x count).",
        "Equal weights, unless a rare class matters more than its share.",
        "King & Zeng 2001",
    )
    gamma: float = setting(
        2.0,
        "How strongly focal loss discounts easy samples; 0 is cross entropy.",
        "The paper's best value.",
        "Lin et al. 2017, table 1b",
        ge=0,
    )
    delta: float = setting(
        1.0,
        "Where Huber and smooth L1 turn from square to line, in units of the (standardised) target.",
        "One standard deviation.",
        "Huber 1964",
        gt=0,
    )


class Optimizer(Part):
    kind: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon"] = setting(
        "adamw",
        "The update rule.",
        "Robust to the scale of the gradients, with decay that does not depend on it.",
        "Loshchilov & Hutter 2019",
    )
    learning_rate: float | None = setting(
        None,
        "Peak learning rate.",
        "Derived from the optimizer and the model.",
        "",
        gt=0,
        le=100,
    )
    learning_rates: dict[str, float] = Field(
        default_factory=dict,
        description="Differential rates: pattern of parameter names (`backbone.*`) -> peak rate; the first match counts.",
        json_schema_extra={
            "why": "One rate for all, unless parts are already trained.",
            "source": "Howard & Ruder 2018, 3.2",
        },
    )
    weight_decay: float | None = setting(
        None,
        "Decay of weights; biases and norms are never decayed.",
        "Derived from the optimizer.",
        "Loshchilov & Hutter 2019",
        ge=0,
    )
    decay_embeddings: bool = setting(
        True,
        "Whether embedding tables are decayed too.",
        "They are weights; GPT-2 and later decoders decay them.",
        "Radford et al. 2019 (nanoGPT)",
    )
    momentum: float = setting(
        0.9,
        "Momentum of SGD and Muon's share of the old direction; 0 is plain SGD.",
        "Averages over about ten steps.",
        "Sutskever et al. 2013",
        ge=0,
        lt=1,
    )
    nesterov: bool = setting(
        False,
        "Look ahead along the momentum (SGD).",
        "Plain momentum is the better known reference.",
        "Sutskever et al. 2013",
    )
    beta1: float = setting(
        0.9, "Decay of the running mean (Adam, AdamW, Lion).", "The paper's value.", "Kingma & Ba 2015", ge=0, lt=1
    )
    beta2: float | None = setting(
        None,
        "Decay of the running square (Adam, AdamW) or of the momentum (Lion).",
        "Derived: 0.999 for Adam and AdamW, 0.99 for Lion.",
        "Kingma & Ba 2015; Chen et al. 2023",
        ge=0,
        lt=1,
    )
    eps: float = setting(
        1e-8, "Added to the root of the running square.", "The paper's value.", "Kingma & Ba 2015", gt=0
    )
    reference_batch_size: int | None = setting(
        None,
        "Batch size for which the learning rate was chosen. If it is set, the rate is scaled to the actual batch.",
        "Off: a rate you typed is the rate you get.",
        "Goyal et al. 2017; Malladi et al. 2022",
        ge=1,
    )
    batch_scaling: Literal["linear", "sqrt"] | None = setting(
        None,
        "Rule for that scaling.",
        "Derived: linear for SGD, square root for adaptive optimizers.",
        "Goyal et al. 2017; Malladi et al. 2022",
    )


class Schedule(Part):
    kind: Literal["constant", "linear", "cosine", "one-cycle", "step", "warmup-stable-decay"] = setting(
        "cosine",
        "Course of the learning rate after warmup.",
        "Falls smoothly to the end and needs no further choice.",
        "Loshchilov & Hutter 2017",
    )
    warmup_steps: float | None = setting(
        None,
        "Steps of linear warmup; below 1, a share of all steps.",
        "Derived: 5 % for most, 10 % for Transformers.",
        "Goyal et al. 2017; Vaswani et al. 2017",
        ge=0,
    )
    final_share: float = setting(
        0.0,
        "Learning rate at the end, as a share of the peak (linear, cosine, warmup-stable-decay).",
        "Down to zero averages out the last noise.",
        "Bergsma et al. 2025",
        ge=0,
        le=1,
    )
    milestones: tuple[float, ...] = setting(
        (0.5, 0.75),
        "Where the step schedule drops, as shares of all steps.",
        "The usual halves of the ResNet recipe.",
        "He et al. 2016, 4.2",
    )
    drop: float = setting(0.1, "Factor at each milestone.", "The ResNet recipe.", "He et al. 2016", gt=0, lt=1)
    decay_share: float = setting(
        0.2,
        "Share of all steps spent decaying (warmup-stable-decay).",
        "A fifth is enough for most of the gain.",
        "Hägele et al. 2024",
        gt=0,
        le=1,
    )


class Training(Part):
    epochs: float | None = setting(None, "Passes over the training data.", "Derived from the size of the data.", gt=0)
    steps: int | None = setting(
        None, "Optimizer steps, instead of epochs.", "Epochs are easier to compare between sets.", ge=1
    )
    batch_size: int | None = setting(
        None,
        "Samples per optimizer step, over all ranks and micro-batches.",
        "Derived: a power of two that leaves enough steps per epoch.",
        "Masters & Luschi 2018",
        ge=1,
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Micro-batches into which each rank's share of a batch is cut. Changes the memory, not the result.",
        "One, if it fits.",
        ge=1,
    )
    max_grad_norm: float | None = setting(
        1.0,
        "Gradients longer than this are shortened to it. null: no clipping.",
        "Tames rare large steps and leaves the rest alone.",
        "Pascanu et al. 2013",
        gt=0,
    )
    max_grad_value: float | None = setting(
        None,
        "Each gradient element is cut to plus or minus this, before the norm.",
        "Off: it bends the direction.",
        "Pascanu et al. 2013",
        gt=0,
    )
    seed: int = setting(
        0, "Seed of weights, data order, augmentation and dropout.", "Any number does, if it is kept.", ge=0, lt=2**32
    )
    doctor: bool = setting(
        True,
        "Watch the training and say what is wrong with it. Changes no bit of it.",
        "A fault that is named at its onset costs minutes; one that is not costs the run.",
    )
    deterministic: bool = setting(
        True,
        "Only deterministic kernels.",
        "A run that cannot be repeated cannot be diagnosed.",
        "PyTorch notes: reproducibility",
    )
    log_every: int = setting(
        50,
        "Steps between reads of the buffered numbers.",
        "A read makes the accelerator wait; fifty steps make that vanish.",
        ge=1,
        le=100_000,
    )


class Hardware(Part):
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps, ...", "The accelerator, if one is there.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        "Of the forward and backward pass; weights and updates stay fp32.",
        "bf16 where the accelerator has it, else fp32.",
        "Kalamkar et al. 2019; Micikevicius et al. 2018",
    )
    compile: bool = setting(
        False, "Compile the model (the first steps take longer).", "Pays only on longer runs.", "Ansel et al. 2024"
    )
    activation_checkpointing: int = setting(
        0,
        "Recompute the activations of every n-th block in the backward pass. 0: keep all, 1: recompute every block.",
        "Off: it trades about a third more time for memory.",
        "Chen et al. 2016",
        ge=0,
    )


class Evaluation(Part):
    every: float | None = setting(
        None, "Steps between evaluations; below 1, a share of all steps.", "Derived: each epoch.", gt=0
    )
    metric: str | None = setting(
        None,
        "What decides which checkpoint is best.",
        "Derived: the validation loss. Where nothing is held out there is no best.",
    )
    goal: Literal["min", "max"] | None = setting(
        None,
        "Whether less or more of it is better.",
        "Derived: more for accuracy, f1 and r2; less for errors and losses.",
    )
    patience: int | None = setting(
        None,
        "Evaluations without improvement before training stops. null: never.",
        "Never: a cosine schedule earns its gain at the end, so it should run out.",
        "Prechelt 1998",
        ge=1,
    )
    min_improvement: float = setting(0.0, "Smallest change that counts as better.", "Any.", ge=0)
    restore_best: bool = setting(
        True,
        "Give back the weights of the best evaluation, not the last.",
        "The last is rarely the best.",
        "Prechelt 1998",
    )
    batch_size: int | None = setting(
        None,
        "Samples per forward pass while evaluating.",
        "Derived: four times the micro-batch; no gradients are kept.",
        ge=1,
    )


class Checkpoints(Part):
    every: float | None = setting(
        None, "Steps between checkpoints; below 1, a share of all steps.", "Derived: at each evaluation.", gt=0
    )
    minutes: float | None = setting(
        5.0,
        "Longest time between checkpoints.",
        "Nobody should lose more than a coffee break. Saving changes no bits.",
        gt=0,
    )
    keep: int = setting(
        2, "Latest checkpoints kept, besides the best.", "One to use and one in case it is damaged.", ge=1
    )


Task = Literal[
    "image-classification",
    "tabular-classification",
    "tabular-regression",
    "text-classification",
    "text-generation",
    "given",
]
