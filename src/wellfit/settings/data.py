"""Which data, how it is read and split, and how training samples are varied."""

from typing import Any, Literal

from pydantic import Field, field_validator

from wellfit.settings.part import Part, setting


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
        "What a text is cut into: char, byte, word, bpe, the path of a tokenizer.json, or a run, whose tokens are taken over.",
        "Derived: those of `finetune.weights`, if that is a run; else from the task: words to classify, characters to write, byte pairs to "
        "translate.",
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
    template: str | None = setting(
        None,
        "What makes one text of a conversation: model (its own chat template), plain (a line `role:`, what is said, the end mark), or "
        "the path of a Jinja template.",
        "Derived: the model's own, where it brings one; else plain.",
    )
    learn_from: Literal["assistant", "all"] = setting(
        "assistant",
        "What of a conversation is learnt: what the assistant says and the mark that ends it, or all of it.",
        "A model that is to answer need not learn to ask.",
        "Ouyang et al. 2022; Zhou et al. 2023",
    )
    packing: bool | None = setting(
        None,
        "Whether conversations share rows of `context` tokens, each as if it were alone there.",
        "Derived: yes, unless vectors are learnt before the tokens.",
        "Krell et al. 2021",
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
    deduplicate: bool = setting(
        False,
        "Leave out training samples, rows or pictures, that repeat an earlier one or one that is held out of the same data, target included. What is "
        "held out stays the same.",
        "A row that comes twice may well have been seen twice; whether it was, only you know.",
    )
    train_samples: int | None = setting(
        None,
        "Learn from that many of the training samples, in the proportions of the classes and with one of each at least; null: from "
        "all. What is held out stays the same, and fewer are always among more.",
        "All there are: labels are worth more than anything else. Fewer tell what they are worth, or try a recipe quickly.",
        "Perlich et al. 2003",
        ge=1,
    )
    draw_seed: int = setting(
        0,
        "Seed of which samples `train_samples` takes, apart from the training seed.",
        "Runs that are compared should learn from the same ones.",
        ge=0,
        lt=2**63,
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
    workers: int | Literal["auto"] = setting(
        0,
        "Processes that load the samples of a Dataset; auto: as many as its samples take time. Changes no bit.",
        "Data held in memory is cheaper to index than to send between processes.",
    )
    augment: Augment = Field(
        default_factory=Augment, description="Random changes to training images and texts that keep their label."
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _is_a_number_of_workers(cls, value: Any) -> Any:
        if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise ValueError("it can be a whole number from 0 up, or auto to have it measured")
        return value
