"""Which network, and of what size: a group of settings for each kind. `Model` is any of them, `MODELS` all by their kind."""

from typing import Annotated, Literal

from pydantic import Field

from wellfit.settings.part import Part, setting


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


class Pretrained(Part):
    """A language model of the Hugging Face hub or of a folder, with its own tokenizer."""

    kind: Literal["pretrained"] = "pretrained"
    name: str = setting(
        "sentence-transformers/all-MiniLM-L6-v2",
        "A folder with config.json, model.safetensors and tokenizer.json, or a name of the hub, which is fetched once.",
        "Small, quick, and good at meaning.",
        "Wang et al. 2020",
    )
    pretrained: bool = setting(
        True,
        "Begin with its trained weights; false: the same network and tokenizer, with weights drawn at random.",
        "They are what it is taken for. Without them one sees what they are worth.",
        "Devlin et al. 2019",
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


class Bag(Part):
    """A bag of words: a vector for each token, and the mean of them for a text."""

    kind: Literal["bag"] = "bag"
    width: int = setting(
        128,
        "Size of a token's vector.",
        "Few texts do not fill a larger one; 300 is usual for large ones.",
        "Bojanowski et al. 2017, 4.3",
        ge=1,
    )
    dropout: float = setting(
        0.1,
        "Share of tokens left out while training.",
        "So that no single word decides.",
        "Iyyer et al. 2015, 3.2",
        ge=0,
        lt=1,
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
    GivenModel | MLP | ConvNet | LeNet | AlexNet | ResNet | ViT | Named | Encoder | Decoder | EncoderDecoder | Bag | Pretrained
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
    "bag": Bag,
    "pretrained": Pretrained,
    "recurrent": Recurrent,
    "patchtst": PatchTST,
    "dlinear": DLinear,
    "tft": TFT,
    "faster-rcnn": FasterRCNN,
    "detr": DETR,
}
