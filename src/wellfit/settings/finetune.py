"""From trained weights: where they come from, what is frozen when, and how far the rest may go."""

from typing import Literal

from wellfit.settings.part import Part, setting

BESIDE, BEFORE = (
    ("lora", "qlora"),
    ("prompt", "prefix"),
)  # strategies that lay matrices beside frozen weights, or vectors before


class Finetune(Part):
    """How a network that was trained before goes on with new data."""

    strategy: (
        Literal["full", "frozen", "differential", "progressive", "recipe", "lora", "qlora", "prompt", "prefix"] | None
    ) = setting(
        None,
        "What learns. full: everything, at a small rate. frozen: the head alone, on features that stay as they are. differential: "
        "the deeper towards the input, the smaller the rate. progressive: head first, then one block after another. recipe: the head "
        "alone for `head_epochs`, then everything at a rate ten times smaller. lora: small matrices beside frozen weights. qlora: the "
        "same beside weights in four bits. prompt: learnt vectors before the tokens. prefix: the same before the keys and values of each layer.",
        "Derived: full, if the network begins with trained weights; else none.",
        "Yosinski et al. 2014; Howard & Ruder 2018; Hu et al. 2022; Dettmers et al. 2023; Lester et al. 2021; Li & Liang 2021",
    )
    weights: str | None = setting(
        None,
        "What to start from: the folder of a run, or a file of weights (.safetensors, .pt, .pth, .th, .ckpt, .bin, .npz). "
        "What does not fit, as a head for other classes, starts anew and is told.",
        "Nothing is taken over unasked. `model.pretrained` fetches a library's own.",
    )
    mean: tuple[float, ...] | None = setting(
        None,
        "Mean of each channel of the pixels (0 to 255, red first) that the weights were trained with.",
        "Derived: what the weights say, else ImageNet's.",
    )
    std: tuple[float, ...] | None = setting(
        None, "Their standard deviation.", "Derived: what the weights say, else ImageNet's."
    )
    channels: Literal["rgb", "bgr"] = setting(
        "rgb",
        "The order of the channels that the weights were trained with.",
        "Caffe's weights have bgr, all others rgb.",
    )
    head_epochs: float = setting(
        2.0,
        "recipe: epochs of the head alone, before all the rest follows.",
        "A head drawn at random would send noise through trained features; two or three epochs settle it.",
        "Kumar et al. 2022",
        ge=0,
    )
    smaller: float = setting(
        10.0,
        "recipe: how many times smaller the rate is once everything learns.",
        "Enough to adapt, too little to forget.",
        "Howard & Ruder 2018",
        ge=1,
    )
    depth_decay: float = setting(
        0.65,
        "differential: the rate of each block is this times that of the block after it.",
        "What is near the input is general and needs little change.",
        "Bao et al. 2022, A; Howard & Ruder 2018, 3.2",
        gt=0,
        le=1,
    )
    thawed: float = setting(
        0.5,
        "progressive: share of the training after which the last block is thawed; the others at equal distances before.",
        "Half of the time is left for all of them together.",
        "Howard & Ruder 2018, 3.3",
        gt=0,
        le=1,
    )
    towards_start: float = setting(
        0.0,
        "Pulls trained weights back to where they started: half this times the squared distance is added to the loss (L2-SP).",
        "Off: it pays where old abilities must stay, or samples are few. The paper has 0.001 to 0.1.",
        "Li et al. 2018, 3",
        ge=0,
    )
    remember: str | None = setting(
        None,
        "The folder of the run that learnt the old task: its score on its own held-out data is told before and after.",
        "Nothing is measured unasked: the old data must still be there, and costs an evaluation.",
        "McCloskey & Cohen 1989",
    )
    rehearsal: float = setting(
        0.0,
        "Old samples beside a batch, as a share of its size; each counts as a new one does. Wants `remember`.",
        "Off: it takes as much more time, and the old data. A tenth to a quarter keeps most of what was learnt.",
        "Robins 1995; Chaudhry et al. 2019",
        ge=0,
        le=1,
    )
    rank: int = setting(
        8, "lora, qlora: rank of the matrices.", "8 does as well as 64 on most tasks.", "Hu et al. 2022, table 6", ge=1
    )
    alpha: float = setting(
        16.0,
        "lora, qlora: what they add is scaled by alpha / rank.",
        "Twice the rank is usual.",
        "Hu et al. 2022, 4.1",
        gt=0,
    )
    targets: tuple[str, ...] = setting(
        (),
        "lora, qlora: names (endings) of the layers that get them.",
        "Derived: lora: those of attention, by the architecture; else all linear layers but the head. qlora: all linear layers, for "
        "four bits lose something everywhere.",
        "Hu et al. 2022, table 5; Dettmers et al. 2023, 4",
    )
    dropout: float = setting(
        0.05,
        "lora, qlora: share of what enters them silenced while training.",
        "As in QLoRA.",
        "Dettmers et al. 2023, B.2",
        ge=0,
        lt=1,
    )
    virtual_tokens: int = setting(
        20,
        "prompt, prefix: how many vectors are learnt.",
        "More than 20 gained little.",
        "Lester et al. 2021, 3.2",
        ge=1,
    )
