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
    crop: float = setting(
        1.0,
        "Least share of an image's area that is cut out at random and brought back to its size. 1: none is cut.",
        "Off: small images lose what they show. 0.25 suits photographs; ImageNet's recipe has 0.08.",
        "Szegedy et al. 2015, section 6",
        gt=0,
        le=1,
    )
    rotate: float = setting(
        0.0,
        "Largest random rotation of an image, in degrees, each way; the corners are filled with zeros.",
        "Off: only who knows the images can say how far a turned one keeps its label.",
        "Simard et al. 2003",
        ge=0,
        le=180,
    )
    colour: float = setting(
        0.0,
        "Brightness, contrast and saturation are each multiplied at random by 1 - this to 1 + this.",
        "Off: where colour is what tells the classes apart, it must stay. 0.4 is usual for photographs.",
        "Howard 2013; Wu et al. 2015",
        ge=0,
        le=1,
    )
    mixup: float = setting(
        0.0,
        "MixUp's alpha: each image is blended with another one, and so are their labels, by a share from Beta(alpha, alpha). "
        "0: off.",
        "Off: it pays on long trainings and blurs short ones. 0.2 is the paper's for ImageNet, 1.0 for CIFAR.",
        "Zhang et al. 2018, sections 3.1 and 3.2",
        ge=0,
        le=10,
    )
    cutmix: float = setting(
        0.0,
        "CutMix's alpha: a box of another image is pasted in, and the label is shared out by area, from Beta(alpha, alpha). "
        "0: off. With MixUp on as well, each image gets one of the two.",
        "Off, as MixUp. The paper has 1.0.",
        "Yun et al. 2019, section 3.1",
        ge=0,
        le=10,
    )
    delete: float = setting(
        0.0,
        "Share of a text's tokens that are left out at random; one always stays.",
        "Off: it pays where there are few texts. The paper has 0.05 for up to 2,000 of them, and 0.1 for 5,000.",
        "Wei & Zou 2019, section 2 and table 3",
        ge=0,
        lt=1,
    )
    swap: float = setting(
        0.0,
        "How often two tokens of a text change places, as a share of its length.",
        "Off, as `delete`, with the same values in the paper.",
        "Wei & Zou 2019, section 2 and table 3",
        ge=0,
        le=1,
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
        "Column to predict, for tables. For series, the columns that are scored, with commas between them; null: all.",
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
    other: str | None = setting(
        None,
        "Column of the other text, for pairs that belong together or have a score.",
        "Derived, where the table has no further columns.",
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
    time: str | None = setting(
        None,
        "Column of the times, for series.",
        "Derived: the only column that holds dates; without one the rows are taken in their order.",
    )
    history: int | None = setting(
        None, "Steps of a series from which a forecast is made.", "Derived from season, horizon and length.", ge=1
    )
    horizon: int | None = setting(
        None, "Steps of a series that are forecast.", "Derived: one season, or a tenth of a short series.", ge=1
    )
    season: int | None = setting(
        None,
        "Steps after which a series repeats itself; 1: it does not.",
        "Derived from the time step: a day or a week of hours, a week or a year of days, a year of months.",
        "Hyndman & Athanasopoulos 2021, 2.1",
        ge=1,
    )
    transform: Literal["none", "log"] | None = setting(
        None,
        "How a series is bent before anything is learnt from it. Scores and forecasts are told in its own unit all the same.",
        "Derived: log where the spread grows with the level, which makes growth a line and seasons equal.",
        "Box & Cox 1964",
    )
    parts: tuple[int, ...] | None = setting(
        None,
        "Rows of a series that learn, validate and test, in the order of time: [8640, 2880, 2880]. What lies beyond is left out.",
        "Derived from `valid_share` and `test_share`; published splits are given in rows.",
    )
    missing: Literal["error", "mean"] = setting(
        "error",
        "Empty or NaN cells: an error, or the column's mean over the training rows (for series, the line between the neighbours).",
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
        "Side in pixels to which images from a folder are brought (shorter side resized, centre cropped; for pictures with "
        "boxes, longer side).",
        "Derived: 64 for folders, up to 320 for pictures with boxes, the stored size for arrays.",
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
        default_factory=Augment, description="Random changes to training images and texts that keep their label."
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


class LeNet(Part):
    """LeNet-5: two convolutions of 5 x 5 with pools, then three linear layers."""

    kind: Literal["lenet"] = "lenet"
    activation: Activation = setting(
        "relu", "Between the layers; tanh comes closer to 1998.", "It does not saturate.", "Glorot et al. 2011"
    )
    pool: Literal["max", "average"] = setting(
        "max",
        "How four pixels become one; average comes closer to 1998.",
        "Keeps that something was seen.",
        "Scherer et al. 2010",
    )


class AlexNet(Part):
    """AlexNet: five convolutions and three wide linear layers, scaled to the image."""

    kind: Literal["alexnet"] = "alexnet"
    hidden: int = setting(
        1024, "Units of each wide layer.", "The paper's 4,096 are for a million images.", "Krizhevsky et al. 2012", ge=1
    )
    dropout: float = setting(
        0.5, "Before each wide layer.", "The paper's value.", "Krizhevsky et al. 2012, section 4.2", ge=0, lt=1
    )


class ResNet(Part):
    """A residual network."""

    kind: Literal["resnet"] = "resnet"
    stem: Literal["cifar", "imagenet"] | None = setting(
        None,
        "How it begins: cifar, one 3 x 3 convolution that keeps the resolution; imagenet, 7 x 7 and a pool that quarter it.",
        "Derived from the size of the images.",
        "He et al. 2016, table 1 and section 4.2",
    )
    depth: int | None = setting(
        None,
        "Layers: 6 n + 2 with the stem cifar (8, 14, 20, 32, ...); 18, 34, 50, 101 or 152 with imagenet.",
        "Derived from the stem: the paper's shallowest.",
        "He et al. 2016, table 1 and section 4.2",
        ge=8,
    )
    zero_init: bool = setting(
        False,
        "Each block begins as the identity.",
        "It matters for batches of thousands.",
        "Goyal et al. 2017, section 5.1",
    )


class ViT(Part):
    """A Vision Transformer: an image as a text of patches."""

    kind: Literal["vit"] = "vit"
    patch: int | None = setting(
        None,
        "Side of a patch in pixels; it divides the image's.",
        "Derived: what makes about 64 patches, since attention costs their number squared.",
        "Dosovitskiy et al. 2021",
        ge=1,
    )
    width: int = setting(128, "Size of a patch's state.", "Small sets do not fill a larger one.", ge=8)
    layers: int = setting(4, "Blocks, one upon the other.", "What a laptop trains in minutes.", ge=1)
    heads: int = setting(4, "Attention heads; they share the width.", "32 numbers each.", "Vaswani et al. 2017", ge=1)
    pool: Literal["class", "mean"] = setting(
        "mean",
        "The answer is read from the mean of the patches, or from a token of its own.",
        "The mean does as well and needs no long training.",
        "Beyer et al. 2022",
    )
    dropout: float = setting(
        0.1, "Share of each part's output silenced while training.", "The paper's value.", "Dosovitskiy et al. 2021, table 3",
        ge=0, lt=1,
    )  # fmt: skip


class Named(Part):
    """An architecture of torchvision or timm, with a head of its own."""

    kind: Literal["named"] = "named"
    name: str = setting(
        "torchvision/efficientnet_b0",
        "torchvision/NAME or timm/NAME.",
        "Good at its size, and in every installation of torchvision.",
        "Tan & Le 2019",
    )
    pretrained: bool = setting(
        False,
        "Begin with the weights that the library has for it; they are downloaded the first time.",
        "Nothing is fetched unasked. With few hundred images it is what helps most.",
        "Yosinski et al. 2014",
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


class EncoderDecoder(Transformer):
    """A Transformer that reads one text and writes another."""

    kind: Literal["encoder-decoder"] = "encoder-decoder"
    layers: int = setting(2, "Blocks on either side.", "What a laptop trains in minutes.", ge=1)
    positions: Literal["none", "sinusoidal", "learned", "rope", "alibi"] = setting(
        "sinusoidal",
        "How it knows where a token stands.",
        "Added to the states, so that the decoder sees where in the source a word stood; distances alone do not tell it.",
        "Vaswani et al. 2017, 3.5",
    )


class Recurrent(Part):
    """An LSTM or GRU that reads the past of a series and says how far the future departs from a simple forecast."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["gru", "lstm", "rnn"] = setting(
        "gru",
        "What reads.",
        "As good as an LSTM on short series, with fewer weights.",
        "Cho et al. 2014; Chung et al. 2014",
    )
    units: int = setting(32, "Size of its state.", "Short series do not fill a larger one.", ge=1)
    layers: int = setting(1, "Cells, one upon the other.", "A second one rarely helps on short series.", ge=1)
    dropout: float = setting(
        0.0, "Between layers, so only if there are two.", "With one layer there is no between.", ge=0, lt=1
    )
    start: Literal["mean", "last", "season"] | None = setting(
        None,
        "What is departed from: the mean of the history, its last value, or its last season.",
        "Derived: which of them errs least over the training windows. The network need not learn what is known anyway.",
        "Smyl 2020 (a network beside a classical forecast)",
    )


class PatchTST(Part):
    """A Transformer over patches of a series, each channel by itself."""

    kind: Literal["patchtst"] = "patchtst"
    patch: int = setting(16, "Steps that are read as one word.", "The paper's.", "Nie et al. 2023, 4.1", ge=1)
    stride: int = setting(8, "Steps from one patch to the next.", "The paper's.", "Nie et al. 2023, 4.1", ge=1)
    width: int = setting(
        16,
        "Size of a patch's state.",
        "The paper's for series of some ten thousand rows.",
        "Nie et al. 2023, A.1.4",
        ge=1,
    )
    heads: int = setting(4, "Attention heads; they share the width.", "The paper's for such series.", ge=1)
    layers: int = setting(3, "Blocks, one upon the other.", "The paper's.", "Nie et al. 2023, A.1.4", ge=1)
    feedforward: int = setting(128, "Units between the two layers of a block.", "The paper's for such series.", ge=1)
    dropout: float = setting(
        0.3,
        "Share of states silenced while training.",
        "The paper's for such series.",
        "Nie et al. 2023, A.1.4",
        ge=0,
        lt=1,
    )
    normalize: bool = setting(
        True, "Each window by its own mean and deviation.", "Series drift.", "Kim et al. 2022 (RevIN)"
    )


class DLinear(Part):
    """Two linear maps over time, of the trend and of the rest."""

    kind: Literal["dlinear"] = "dlinear"
    kernel: int = setting(
        25, "Steps whose mean is the trend; odd.", "The paper's.", "Zeng et al. 2023, section 4", ge=1
    )
    per_channel: bool = setting(False, "Maps of its own for each channel.", "Shared maps have more to learn from.")


class TFT(Part):
    """The Temporal Fusion Transformer: quantiles, and what it looked at."""

    kind: Literal["tft"] = "tft"
    width: int = setting(
        32, "Size of all states.", "Small sets do not fill a larger one.", "Lim et al. 2021, table 1", ge=1
    )
    heads: int = setting(4, "Attention heads; they share the width.", "The paper's.", "Lim et al. 2021, table 1", ge=1)
    dropout: float = setting(
        0.1, "Share of states silenced while training.", "The paper's.", "Lim et al. 2021, table 1", ge=0, lt=1
    )
    normalize: bool = setting(True, "Each window by its own mean and deviation.", "Series drift.", "Kim et al. 2022")


class Detector(Part):
    """What detectors share."""

    backbone: Literal["small", "resnet18", "resnet50", "mobilenet"] = setting(
        "small",
        "What makes features of pixels: a residual network of ten layers, or one of torchvision's.",
        "What two cores train in minutes; the others want an accelerator or trained weights.",
        "He et al. 2016",
    )
    norm: Literal["group", "batch"] = setting(
        "group",
        "Normalisation in the backbone.",
        "Batches of pictures are small, and batch norm errs on them; groups do not know of the batch at all.",
        "Wu & He 2018",
    )
    pretrained: bool = setting(
        False,
        "Begin with ImageNet's weights in the backbone (not `small`); they are downloaded the first time.",
        "Nothing is fetched unasked. With few pictures it is what helps most.",
        "Girshick et al. 2014",
    )


class FasterRCNN(Detector):
    """Faster R-CNN: proposals, then a close look at each."""

    kind: Literal["faster-rcnn"] = "faster-rcnn"
    stride: Literal[4, 8] = setting(
        8,
        "Pixels a side of a place of the finest map.",
        "4 sees things of less than about 20 pixels better, and costs four times as much.",
        "Lin et al. 2017",
    )
    width: int = setting(
        128,
        "Channels of the feature pyramid.",
        "Half of the paper's: few classes, small machines.",
        "Lin et al. 2017",
        ge=8,
    )
    anchor: float = setting(
        20.0,
        "Side in pixels of the smallest anchor; there are eight sizes, each 1.6 times the one before.",
        "Reaches from 20 to 540 pixels, at the size to which pictures are brought.",
        "Ren et al. 2015, section 3.1.1",
        gt=0,
    )
    hidden: int = setting(
        256, "Units of the head's two layers.", "The paper's 1,024 are for 80 classes.", "Lin et al. 2017", ge=8
    )
    proposals: int = setting(
        300,
        "Most boxes that the first stage hands on.",
        "The paper's value for tests.",
        "Ren et al. 2015, section 3.3",
        ge=1,
    )
    samples: int = setting(
        64,
        "Proposals of a picture that the head learns from, up to a quarter of them things.",
        "The paper's, of 128 from two pictures.",
        "Girshick 2015, section 2.3",
        ge=4,
    )


class DETR(Detector):
    """DETR: queries that are boxes, matched one to one with the things."""

    kind: Literal["detr"] = "detr"
    width: int = setting(
        128, "Size of a place's and a query's state.", "Half of the paper's.", "Carion et al. 2020", ge=8
    )
    heads: int = setting(4, "Attention heads; they share the width.", "32 numbers each.", "Vaswani et al. 2017", ge=1)
    encoder_layers: int = setting(
        1, "Blocks over the map.", "The convolutions have mixed it already.", "Carion et al. 2020, table 2", ge=0
    )
    decoder_layers: int = setting(
        3,
        "Blocks of the queries; each corrects the boxes of the one before.",
        "Half of the paper's.",
        "Carion et al. 2020",
        ge=1,
    )
    queries: int = setting(
        50, "Most things that a picture may have.", "The paper has 100, for COCO.", "Carion et al. 2020", ge=1
    )
    stride: Literal[4, 8, 16, 32] = setting(
        16,
        "Pixels a side of a place of the map.",
        "Half of the paper's: smaller pictures have smaller things.",
        "Carion et al. 2020",
    )
    dropout: float = setting(
        0.0,
        "Share of each part's output silenced while training.",
        "It slows down matching.",
        "Liu et al. 2022",
        ge=0,
        lt=1,
    )


Model = Annotated[
    GivenModel | MLP | ConvNet | LeNet | AlexNet | ResNet | ViT | Named | Encoder | Decoder | EncoderDecoder
    | Recurrent | PatchTST | DLinear | TFT
    | FasterRCNN | DETR,
    Field(discriminator="kind"),
]  # fmt: skip
MODELS: dict[str, type[Part]] = {
    "given": GivenModel,
    "mlp": MLP,
    "convnet": ConvNet,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "vit": ViT,
    "named": Named,
    "encoder": Encoder,
    "decoder": Decoder,
    "encoder-decoder": EncoderDecoder,
    "recurrent": Recurrent,
    "patchtst": PatchTST,
    "dlinear": DLinear,
    "tft": TFT,
    "faster-rcnn": FasterRCNN,
    "detr": DETR,
}


class Loss(Part):
    kind: (
        Literal["cross-entropy", "focal", "mse", "huber", "smooth-l1", "quantile", "bce-with-logits", "given"] | None
    ) = setting(
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
    quantiles: tuple[float, ...] = setting(
        (0.1, 0.5, 0.9),
        "What the quantile loss asks for, rising; the middle one is the forecast.",
        "The middle, and a range that should hold four of five values.",
        "Koenker & Bassett 1978; Lim et al. 2021, 4.5",
    )
    temperature: float = setting(
        0.05,
        "What cosines are divided by before a text's partner is told from the others (sentence embeddings).",
        "The paper's: small enough that the hardest of the others count most.",
        "Gao et al. 2021, table D.1",
        gt=0,
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
    "seq-to-seq",
    "sentence-embeddings",
    "token-classification",
    "forecasting",
    "object-detection",
    "given",
]
