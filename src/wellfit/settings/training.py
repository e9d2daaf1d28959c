"""How it is learnt, watched and kept: loss, optimizer, schedule, the loop, hardware, evaluation, checkpoints."""

import math
from typing import Any, Literal

from pydantic import Field, field_validator

from wellfit.settings.part import Part, setting


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
    kind: Literal["sgd", "adam", "adamw", "adafactor", "lion", "muon", "adamw8bit", "lion8bit"] = setting(
        "adamw",
        "The update rule; those of 8bit keep their averages in eight bits, by bitsandbytes.",
        "Robust to the scale of the gradients, with decay that does not depend on it.",
        "Loshchilov & Hutter 2019",
    )
    learning_rate: float | Literal["auto"] | None = setting(
        None,
        "Peak learning rate, above 0 and at most 100; auto: measured before the training, as by `wellfit find-lr`.",
        "Derived from the optimizer and the model.",
        "",
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

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _is_a_rate(cls, value: Any) -> Any:
        """One sentence, where a union of types would tell of each."""
        if value is None or value == "auto":
            return value
        try:
            rate = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 < rate <= 100:
            raise ValueError(
                "it can be a number above 0 and at most 100, auto to have it measured, or null to have it derived"
            )
        return rate


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
    parallel: Literal["ddp", "zero1", "zero2", "fsdp"] = setting(
        "ddp",
        "How several ranks share the work. ddp: each holds the whole model; fsdp: each holds a share of weights, gradients and optimizer "
        "state (ZeRO-3). zero1, zero2, by DeepSpeed: a share of the optimizer state, and with zero2 of gradients.",
        "ddp is the fastest one wherever the model fits.",
        "Li et al. 2020; Rajbhandari et al. 2020; Zhao et al. 2023",
    )
    offload: bool = setting(
        False,
        "With fsdp: what a rank keeps lies in main memory, where the update happens too.",
        "Off: each step then waits for the bus.",
        "Ren et al. 2021",
    )
    rank_timeout: float = setting(
        600.0,
        "Seconds that ranks wait for one another before the run ends with an error.",
        "Longer than any evaluation's odd batch.",
        gt=0,
    )
    channels_last: bool | Literal["auto"] = setting(
        "auto",
        "Keep images and the kernels of convolutions in memory pixel by pixel, all channels of one together. "
        "The same mathematics; sums are rounded, and the dropout of maps is drawn, in another order.",
        "Derived: on for wellfit's own networks of convolutions on CUDA in 16 bits, whose tensor cores read it so; else off.",
        "PyTorch tutorial: channels last memory format",
    )
    activation_checkpointing: int = setting(
        0,
        "Recompute the activations of every n-th block in the backward pass. 0: keep all, 1: recompute every block.",
        "Off: it trades about a third more time for memory.",
        "Chen et al. 2016",
        ge=0,
    )

    @field_validator("channels_last", mode="before")
    @classmethod
    def _is_a_choice(cls, value: Any) -> Any:
        if value not in (True, False, "auto"):
            raise ValueError("it can be true, false, or auto to have it derived")
        return value


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


class Recovery(Part):
    out_of_memory: bool = setting(
        False,
        "Where memory runs out: halve the micro-batch, keep the batch, and take the same step again.",
        "Off: a run does nothing by itself that it was not asked for. The gradient is the same; each step takes longer.",
    )
    not_finite: int = setting(
        0,
        "Skip steps whose loss or gradient is not finite, and after so many in a row, or half of the last 100 (of twice as many, "
        "if that is more), go back to the last good checkpoint. 0: off; such a loss ends the run.",
        "Off: NaN has a cause, which is better found. 3 is a good number. Each step then waits until its loss can be read.",
        "Zhang et al. 2022 (OPT), section 2.5",
        ge=0,
    )
    rollbacks: int = setting(
        3,
        "How often a run may go back; after that such a loss ends it.",
        "What lower rates and other data do not mend in three attempts has another cause.",
        ge=0,
    )
    rate_factor: float = setting(
        0.5,
        "Factor of all learning rates from each going back on.",
        "Steps that are too large are the usual cause.",
        "Zhang et al. 2022 (OPT), section 2.5",
        gt=0,
        le=1,
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
