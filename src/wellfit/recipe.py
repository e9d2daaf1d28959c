"""A recipe: all that decides a run, as frozen, validated data. No code hides in it.

Each field is declared once, with what it is, its default, why that is the default, and the source. A value of `None`
means "derived": `defaults.resolve` fills it in from the data, the model and the machine, and says why. Each value
knows who set it (`Recipe.origin`).

    >>> recipe = Recipe.load("digits").override(["optimizer.learning_rate=3e-4", "training.epochs=5"])
    >>> recipe.origin("training.epochs").by
    'user'
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wellfit.errors import RecipeError

Who = Literal["default", "preset", "user", "derived", "measured"]


def setting(default: Any, what: str, why: str, source: str = "", **limits: Any) -> Any:
    """A field of a recipe: its default, what it is, why that default, and where the reason comes from."""
    return Field(default, description=what, json_schema_extra={"why": why, "source": source}, **limits)


class Part(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)


class Origin(Part):
    """Who set a value, and why."""

    by: Who = "default"
    why: str = ""


class Augment(Part):
    shift: int = setting(
        0, "Largest random shift of an image, in pixels, each way; the edge is filled with zeros.",
        "Off unless the preset knows that a shifted image keeps its label.", "LeCun et al. 1998, section III", ge=0,
    )  # fmt: skip
    flip: bool = setting(
        False, "Mirror an image left to right in half of the cases.",
        "Off: a mirrored digit or letter is another one. Turn it on for natural images.", "Krizhevsky et al. 2012",
    )  # fmt: skip


class Data(Part):
    source: str = setting(
        "digits", "An embedded set (digits, wine, breast-cancer, diabetes) or the path of your own data: an MNIST-style "
        "idx folder, an .npz, a folder of images by class, a .csv or .parquet file.",
        "The digits are real, small and on every machine.",
    )  # fmt: skip
    target: str | None = setting(
        None, "Column to predict, for tables.", "A guess here would be a silent mistake, so it must be named.",
    )  # fmt: skip
    categorical: tuple[str, ...] = setting(
        (), "Columns to be read as categories even if they hold numbers.",
        "Columns that hold only text are categories already.",
    )  # fmt: skip
    ignore: tuple[str, ...] = setting((), "Columns to leave out (an id, a name).", "Nothing is left out unasked.")
    missing: Literal["error", "mean"] = setting(
        "error", "Empty or NaN cells: an error, or the column's mean over the training rows.",
        "A gap is often a fault in the export; filling it in is your decision.",
    )  # fmt: skip
    valid: str | None = setting(
        None, "Path of a separate validation set, in the same format.", "Without one, a share is held out of the training data.",
    )  # fmt: skip
    test: str | None = setting(
        None, "Path of a separate test set, in the same format.", "Without one, a share is held out."
    )
    valid_share: float = setting(
        0.1, "Share of the training data held out for validation. 0: none.",
        "A tenth tells well enough when to stop and costs little training data.", "Goodfellow et al. 2016, 5.3", ge=0, lt=1,
    )  # fmt: skip
    test_share: float | None = setting(
        None, "Share of the data held out for the final test, before anything else. 0: none.",
        "Derived: a fifth for the embedded sets, none for your own data unless you ask.", ge=0, lt=1,
    )  # fmt: skip
    split_seed: int = setting(
        0, "Seed of the split, apart from the training seed.", "Runs with different seeds must be scored on the same samples.", ge=0,
    )  # fmt: skip
    image_size: int | None = setting(
        None, "Side in pixels to which images from a folder are brought (shorter side resized, centre cropped).",
        "Derived: 64 for folders, the stored size for arrays.", ge=4, le=2048,
    )  # fmt: skip
    shuffle: bool = setting(
        True, "A new random order each epoch.", "Sorted batches bias each step; a new order each epoch converges faster.", "Bottou 2009",
    )  # fmt: skip
    workers: int = setting(
        0, "Processes that load samples. In-memory data needs none.", "Data held in memory is cheaper to index than to send between processes.", ge=0,
    )  # fmt: skip
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
        (128, 128), "Units of each hidden layer.", "Two layers of 128 carry most small tables.", "Gorishniy et al. 2021, table 14",
    )  # fmt: skip
    activation: Activation = setting(
        "relu", "Between the layers.", "Cheap and does not saturate.", "Glorot et al. 2011"
    )
    norm: Literal["none", "batch", "layer", "rms"] = setting(
        "none", "Normalisation after each hidden linear layer.", "Inputs are standardised already and the net is shallow.",
    )  # fmt: skip
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
        (32, 64), "Channels of each block; each block but the first halves the resolution.", "Enough for small grey images.", "Simonyan & Zisserman 2015",
    )  # fmt: skip
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


Model = Annotated[GivenModel | MLP | ConvNet, Field(discriminator="kind")]
MODELS: dict[str, type[Part]] = {"given": GivenModel, "mlp": MLP, "convnet": ConvNet}


class Loss(Part):
    kind: Literal["cross-entropy", "focal", "mse", "huber", "smooth-l1", "bce-with-logits", "given"] | None = setting(
        None, "The loss. `given` is the callable passed to `wellfit.fit`.", "Derived: cross entropy for classes, MSE for numbers.",
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "Share of the target spread evenly over all classes (cross entropy).",
        "0 keeps probabilities calibrated; 0.1 often gains accuracy on image classes.", "Szegedy et al. 2016; Müller et al. 2019", ge=0, lt=1,
    )  # fmt: skip
    class_weights: Literal["balanced"] | tuple[float, ...] | None = setting(
        None, "One weight a class, or `balanced` for n / (classes x count).", "Equal weights, unless a rare class matters more than its share.", "King & Zeng 2001",
    )  # fmt: skip
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
        "adamw", "The update rule.", "Robust to the scale of the gradients, with decay that does not depend on it.", "Loshchilov & Hutter 2019",
    )  # fmt: skip
    learning_rate: float | None = setting(
        None, "Peak learning rate.", "Derived from the optimizer and the model.", "", gt=0, le=100,
    )  # fmt: skip
    learning_rates: dict[str, float] = Field(
        default_factory=dict, description="Differential rates: pattern of parameter names (`backbone.*`) -> peak rate; the first match counts.",
        json_schema_extra={"why": "One rate for all, unless parts are already trained.", "source": "Howard & Ruder 2018, 3.2"},
    )  # fmt: skip
    weight_decay: float | None = setting(
        None, "Decay of weights; biases and norms are never decayed.", "Derived from the optimizer.", "Loshchilov & Hutter 2019", ge=0,
    )  # fmt: skip
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
        None, "Batch size for which the learning rate was chosen. If it is set, the rate is scaled to the actual batch.",
        "Off: a rate you typed is the rate you get.", "Goyal et al. 2017; Malladi et al. 2022", ge=1,
    )  # fmt: skip
    batch_scaling: Literal["linear", "sqrt"] | None = setting(
        None, "Rule for that scaling.", "Derived: linear for SGD, square root for adaptive optimizers.", "Goyal et al. 2017; Malladi et al. 2022",
    )  # fmt: skip


class Schedule(Part):
    kind: Literal["constant", "linear", "cosine", "one-cycle", "step", "warmup-stable-decay"] = setting(
        "cosine", "Course of the learning rate after warmup.", "Falls smoothly to the end and needs no further choice.", "Loshchilov & Hutter 2017",
    )  # fmt: skip
    warmup_steps: float | None = setting(
        None, "Steps of linear warmup; below 1, a share of all steps.", "Derived: 5 % for most, 10 % for Transformers.", "Goyal et al. 2017; Vaswani et al. 2017", ge=0,
    )  # fmt: skip
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
        None, "Samples per optimizer step, over all ranks and micro-batches.", "Derived: a power of two that leaves enough steps per epoch.", "Masters & Luschi 2018", ge=1,
    )  # fmt: skip
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches into which each rank's share of a batch is cut. Changes the memory, not the result.", "One, if it fits.", ge=1,
    )  # fmt: skip
    max_grad_norm: float | None = setting(
        1.0, "Gradients longer than this are shortened to it. null: no clipping.", "Tames rare large steps and leaves the rest alone.", "Pascanu et al. 2013", gt=0,
    )  # fmt: skip
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
        "auto", "Of the forward and backward pass; weights and updates stay fp32.", "bf16 where the accelerator has it, else fp32.", "Kalamkar et al. 2019; Micikevicius et al. 2018",
    )  # fmt: skip
    compile: bool = setting(
        False, "Compile the model (the first steps take longer).", "Pays only on longer runs.", "Ansel et al. 2024"
    )
    activation_checkpointing: int = setting(
        0, "Recompute the activations of every n-th block in the backward pass. 0: keep all, 1: recompute every block.",
        "Off: it trades about a third more time for memory.", "Chen et al. 2016", ge=0,
    )  # fmt: skip


class Evaluation(Part):
    every: float | None = setting(
        None, "Steps between evaluations; below 1, a share of all steps.", "Derived: each epoch.", gt=0
    )
    metric: str | None = setting(
        None,
        "What decides which checkpoint is best.",
        "Derived: the validation loss, or the training loss where nothing is held out.",
    )
    goal: Literal["min", "max"] | None = setting(
        None,
        "Whether less or more of it is better.",
        "Derived: more for accuracy, f1 and r2; less for errors and losses.",
    )
    patience: int | None = setting(
        None,
        "Evaluations without improvement before training stops. null: never.",
        "Derived from the preset; a cosine schedule earns its gain at the end, so it should run out.",
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


Task = Literal["image-classification", "tabular-classification", "tabular-regression", "given"]


class Change(NamedTuple):
    """One difference between two recipes."""

    path: str
    before: Any
    after: Any


class Recipe(Part):
    """All that decides a run."""

    name: str = setting("", "Short name, used for the run's folder.", "Derived from the preset or the data.")
    task: Task | None = setting(None, "What is learnt.", "Derived from the data.")
    data: Data = Field(default_factory=Data, description="What is learnt from.")
    model: Model | None = Field(
        None, description="The network.", json_schema_extra={"why": "Derived from the task.", "source": ""}
    )
    loss: Loss = Field(default_factory=Loss, description="What is minimised.")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="How weights follow gradients.")
    schedule: Schedule = Field(default_factory=Schedule, description="The learning rate over time.")
    training: Training = Field(default_factory=Training, description="The loop.")
    hardware: Hardware = Field(default_factory=Hardware, description="Where and in which precision.")
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="Held-out scores, the best checkpoint, early stopping."
    )
    checkpoints: Checkpoints = Field(default_factory=Checkpoints, description="What survives a crash.")
    origins: dict[str, Origin] = Field(default_factory=dict, description="Who set each value that is not a default.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        training, model = self.training, self.model
        if training.epochs is not None and training.steps is not None:
            raise ValueError("training.epochs and training.steps are both set; keep one and set the other to null")
        milestones = self.schedule.milestones
        if list(milestones) != sorted(milestones) or any(not 0 < share < 1 for share in milestones):
            raise ValueError(
                f"schedule.milestones must rise and be shares of all steps, between 0 and 1, not {milestones}"
            )
        if isinstance(model, MLP) and any(width < 1 for width in model.widths):
            raise ValueError(f"model.widths must all be at least 1, not {model.widths}")
        if isinstance(model, ConvNet) and (not model.channels or any(width < 1 for width in model.channels)):
            raise ValueError(f"model.channels must name at least one block and all be at least 1, not {model.channels}")
        return self

    # ---- where it comes from

    @classmethod
    def load(cls, source: str | Path) -> "Recipe":
        """The recipe of a preset (`digits`), of a YAML file, or of a run folder.

        Raises RecipeError if there is none, or if it does not read as a recipe.
        """
        path = Path(source)
        if path.is_dir():
            path = path / "recipe.yaml"
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RecipeError(f"Cannot read the recipe {path}: {error}.") from None
            return cls.parse(text, where=str(path), by="user")
        if str(source) in presets():
            return cls.parse(presets()[str(source)].read_text(encoding="utf-8"), where=f"preset {source}", by="preset")
        near = nearest(str(source), presets())
        raise RecipeError(
            f"There is no recipe file and no preset called {str(source)!r}.{near} "
            f"The presets are {', '.join(sorted(presets()))}; a recipe file is YAML."
        )

    @classmethod
    def parse(cls, text: str, *, where: str = "recipe", by: Who = "user") -> "Recipe":
        """The recipe written in YAML text; values in it are marked as set `by`, unless the text says otherwise."""
        try:
            values = yaml.load(text, _Loader) or {}
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None
        if not isinstance(values, dict):
            raise RecipeError(
                f"{where} holds a {type(values).__name__}; a recipe is a mapping such as `training: {{epochs: 5}}`."
            )
        recorded = "origins" in values
        recipe = _validated(cls, values, where)
        origins = recipe.origins or {path: Origin(by=by, why=f"written in {where}") for path, _ in _leaves(values)}
        return recipe if recorded else recipe.model_copy(update={"origins": origins})

    # ---- other recipes from this one

    def override(self, changes: Mapping[str, Any] | Iterable[str], *, by: Who = "user", why: str = "") -> "Recipe":
        """A new recipe with dotted paths set: `{"training.epochs": 5}` or `["training.epochs=5"]`.

        Changing a `kind` (of the model, say) resets the rest of that group to the defaults of the new kind.
        Raises RecipeError for a path that does not exist (naming the nearest one that does) or a value out of range.
        """
        pairs = list(changes.items()) if isinstance(changes, Mapping) else [_assignment(text) for text in changes]
        values, origins = self.values(), dict(self.origins)
        for path, value in pairs:
            _put(values, origins, path, value)
            if isinstance(value, BaseModel):
                value = value.model_dump()
            stamped = (
                [f"{path}.{inner}" for inner, _ in _leaves(value)] if isinstance(value, dict) and value else [path]
            )
            origins |= {name: Origin(by=by, why=why) for name in stamped}
        values["origins"] = {path: origin.model_dump() for path, origin in origins.items()}
        return _validated(type(self), values, "the recipe")

    def origin(self, path: str) -> Origin:
        """Who set the value at a dotted path, and why."""
        return self.origins.get(path) or Origin(by="default", why=describe(path, self).get("why", ""))

    def values(self) -> dict[str, Any]:
        """All values as nested plain data, without the origins."""
        return self.model_dump(exclude={"origins"})

    def unresolved(self) -> "Recipe":
        """The same choices, with everything that was derived open again: what to change before resolving anew."""
        values, origins, defaults = self.values(), dict(self.origins), type(self)().flat()
        for path in [path for path, origin in origins.items() if origin.by == "derived"]:
            group, _, last = path.rpartition(".")
            holder = values
            for name in group.split(".") if group else []:
                holder = holder.get(name) or {}
            if path.startswith("model."):
                values["model"] = None
            elif last in holder:
                holder[last] = defaults.get(path)
            del origins[path]
        return _validated(
            type(self), {**values, "origins": {p: o.model_dump() for p, o in origins.items()}}, "the recipe"
        )

    def flat(self) -> dict[str, Any]:
        """All values by dotted path."""
        return dict(_leaves(self.values()))

    def diff(self, other: "Recipe") -> list[Change]:
        """What is different in `other`, by dotted path; who set it does not count."""
        mine, theirs = self.flat(), other.flat()
        return [
            Change(path, mine.get(path), theirs.get(path))
            for path in mine | theirs
            if mine.get(path) != theirs.get(path)
        ]

    def dump(self) -> str:
        """The recipe as YAML, with the origin of every value that is not a default. `parse` reads it back."""
        values = json.loads(self.model_dump_json(exclude={"origins"}))
        origins = {path: origin.model_dump() for path, origin in sorted(self.origins.items())}
        return yaml.safe_dump({**values, "origins": origins}, sort_keys=False, allow_unicode=True, width=120)


def presets() -> dict[str, Path]:
    """The recipes that come with wellfit, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}


def describe(path: str, recipe: Recipe | None = None) -> dict[str, str]:
    """What is declared of the field at a dotted path: `what`, `why`, `source`. Empty for a key of a free mapping."""
    part: type[BaseModel] = Recipe
    field = None
    for i, name in enumerate(path.split(".")):
        if name not in part.model_fields:
            return {}
        field = part.model_fields[name]
        if name == "model" and i == 0:
            part = type(recipe.model) if recipe is not None and recipe.model is not None else ConvNet
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            part = field.annotation
    extra = field.json_schema_extra if field is not None and isinstance(field.json_schema_extra, dict) else {}
    return {
        "what": (field.description if field else "") or "",
        "why": str(extra.get("why", "")),
        "source": str(extra.get("source", "")),
    }


def paths() -> list[str]:
    """Every dotted path that a recipe can have, groups included."""
    return sorted(set(_paths(Recipe, "")) - {"origins"})


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean X?`, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.55)
    return f" Did you mean `{close[0]}`?" if close else ""


# ---- inside


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-3` as text; people mean the number (YAML 1.2 does too)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _assignment(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"`{text}` is not an assignment; write it as `optimizer.learning_rate=3e-4`.")
    try:
        return path.strip(), yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise RecipeError(f"The value in `{text}` is not valid YAML; quote it if it holds `:`, `[` or `{{`.") from None


def _put(values: dict[str, Any], origins: dict[str, Origin], path: str, value: Any) -> None:
    """Sets the dotted path in nested values; a new `kind` resets its group."""
    if path == "origins" or path.startswith("origins."):
        raise RecipeError("`origins` is kept by wellfit itself and cannot be set.")
    *parents, last = path.split(".")
    if parents[:2] == ["optimizer", "learning_rates"]:  # its keys are patterns, which hold dots
        parents, last = parents[:2], ".".join([*parents[2:], last])
    group = values
    for name in parents:
        if name in group and group[name] is None:
            group[name] = {}
        if name not in group or not isinstance(group[name], dict):
            raise RecipeError(
                f"`{path}` is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields."
            )
        group = group[name]
    if parents == ["model"] and last == "kind" and group.get("kind") != value:
        group.clear()
        for stale in [known for known in origins if known.startswith("model.")]:
            del origins[stale]
    elif parents != ["optimizer", "learning_rates"] and last not in group and f"{path}" not in paths():
        raise RecipeError(f"`{path}` is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields.")
    group[last] = value
    if path in _INSTEAD and value is not None:  # one says the same thing as the other
        group[_INSTEAD[path]] = None
        origins.pop(f"{parents[0]}.{_INSTEAD[path]}", None)


_INSTEAD = {"training.epochs": "steps", "training.steps": "epochs"}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name == "origins" and not prefix:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _paths(part: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in part.model_fields.items():
        yield f"{prefix}{name}"
        for inner in MODELS.values() if name == "model" else [field.annotation]:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _paths(inner, f"{prefix}{name}.")


def _validated(kind: type[Recipe], values: dict[str, Any], where: str) -> Recipe:
    """Validation whose errors a person can read."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(" ".join(_sentence(dict(problem), where) for problem in error.errors()[:3])) from None


def _sentence(problem: dict[str, Any], where: str) -> str:
    parts = [str(part) for part in problem["loc"]]
    if parts[:1] == ["model"] and len(parts) > 1 and parts[1] in MODELS:
        del parts[1]  # pydantic names the chosen kind, which is not part of the path
    parts = [part for part in parts if not part.startswith(("literal[", "tuple[", "constrained-", "function-"))]
    path = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        return f"`{path}` (in {where}) is not in a recipe.{nearest(path, paths())} `wellfit explain` lists all fields."
    if problem["type"] == "union_tag_invalid":
        given = problem["input"].get("kind") if isinstance(problem["input"], dict) else problem["input"]
        return f"`model.kind` is {given!r} (in {where}); it can be {', '.join(MODELS)}.{nearest(str(given), MODELS)}"
    if problem["type"] == "union_tag_not_found":
        return f"`model` (in {where}) needs a `kind`: one of {', '.join(MODELS)}."
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        allowed = [
            word.strip("'") for word in message.removeprefix("Input should be ").replace(" or ", ", ").split(", ")
        ]
        return f"`{path}` is {problem['input']!r} (in {where}); it can be {', '.join(allowed)}.{nearest(str(problem['input']), allowed)}"
    if not path:
        return f"{message[0].upper()}{message[1:]} (in {where})."
    return f"`{path}` is {problem['input']!r} (in {where}): {message[0].lower()}{message[1:]}."
