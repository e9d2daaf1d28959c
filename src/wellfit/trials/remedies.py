"""Remedies as functions: a recipe in, the smallest change that does what the catalogue says out.

`doctor/catalogue.yaml` names them under `change`, best first; here is what each does to a recipe. A function returns the dotted
paths to set, or nothing where it does not apply: there is no activation to change in a ResNet, and a rate that is the usual one
already is not set to the usual one. A value of None is derived anew. None of them reads data, trains, or knows what was found;
whether one helps is for trials to say.

    >>> changed("lower-learning-rate", recipe)
    {'optimizer.learning_rate': 0.0001}
    >>> applied("lower-learning-rate", recipe).optimizer.learning_rate
    0.0001
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from wellfit.errors import RecipeError
from wellfit.recipe import MODELS, Recipe
from wellfit.settings import Optimizer, Schedule

Changes = dict[str, Any]
SATURATING = ("sigmoid", "tanh")
WIDTHS = ("widths", "channels", "width", "units", "hidden")  # what makes a network larger, by the model's field
MOST_CLIPPED = 1.0  # Pascanu et al. 2013; the usual bound of the gradient norm


def changed(name: str, recipe: Recipe) -> Changes:
    """What a remedy sets in a resolved recipe; empty where it does not apply or changes nothing."""
    now = recipe.flat()
    wanted = CHANGES[name](recipe)
    return {path: value for path, value in wanted.items() if value is None or now.get(path) != value}


def applied(name: str, recipe: Recipe, why: str = "") -> Recipe | None:
    """The recipe with a remedy in it, what it opens left open; None where it does not apply."""
    changes = changed(name, recipe)
    if not changes:
        return None
    try:
        return recipe.override(changes, by="measured", why=why or f"tried: {name}")
    except RecipeError:  # beyond what the field allows, such as a rate above 100
        return None


def about(name: str) -> str:
    """What a remedy does, in words."""
    function = CHANGES[name]
    if isinstance(function, functools.partial):
        (factor,) = function.args
        return f"The learning rate {'times' if factor > 1 else 'divided by'} {factor if factor > 1 else round(1 / factor)}."
    return (function.__doc__ or "").strip()


def _chosen(recipe: Recipe, path: str) -> bool:
    """Whether somebody set a value that would otherwise be derived."""
    return recipe.origin(path).by not in ("derived", "default")


# ---- gradients


def clip_gradients(recipe: Recipe) -> Changes:
    """Clips the norm of the gradients at 1."""
    clipped = recipe.training.max_grad_norm
    return {"training.max_grad_norm": MOST_CLIPPED} if clipped is None or clipped > MOST_CLIPPED else {}


# ---- learning rate and optimizer


def scale_rate(factor: float, recipe: Recipe) -> Changes:
    """Multiplies all learning rates by a factor, where they are numbers."""
    rate = recipe.optimizer.learning_rate
    changes: Changes = {"optimizer.learning_rate": float(f"{rate * factor:.6g}")} if isinstance(rate, float) else {}
    rates = recipe.optimizer.learning_rates
    if rates and changes:
        changes["optimizer.learning_rates"] = {pattern: one * factor for pattern, one in rates.items()}
    return changes


def usual_rate(recipe: Recipe) -> Changes:
    """Takes the learning rate that wellfit derives from optimizer and model."""
    return {"optimizer.learning_rate": None} if _chosen(recipe, "optimizer.learning_rate") else {}


def measured_rate(recipe: Recipe) -> Changes:
    """Measures the learning rate on the training itself."""
    return {"optimizer.learning_rate": "auto"} if recipe.optimizer.learning_rate is not None else {}


def usual_optimizer(recipe: Recipe) -> Changes:
    """Takes the usual optimizer, AdamW with the values of its paper and a derived rate."""
    usual, now = Optimizer().model_dump(), recipe.optimizer.model_dump()
    return {
        f"optimizer.{name}": value
        for name, value in usual.items()
        if (value is not None and now[name] != value) or (value is None and _chosen(recipe, f"optimizer.{name}"))
    }


def warm_up(recipe: Recipe) -> Changes:
    """Lets the learning rate rise over the first tenth of the steps, in place of a smaller share."""
    warmup = recipe.schedule.warmup_steps
    return {"schedule.warmup_steps": 0.1} if warmup is None or warmup < 0.1 else {}


def usual_schedule(recipe: Recipe) -> Changes:
    """Takes the usual schedule: a short warmup, then a cosine down to zero over the whole run."""
    usual, now = Schedule().model_dump(), recipe.schedule.model_dump()
    changes = {
        f"schedule.{name}": list(value) if isinstance(value, tuple) else value
        for name, value in usual.items()
        if value is not None and now[name] != value
    }
    if _chosen(recipe, "schedule.warmup_steps"):
        changes["schedule.warmup_steps"] = None
    return changes


def usual_momentum(recipe: Recipe) -> Changes:
    """Takes the usual averages of the optimizer: its momentum, betas and eps."""
    return {
        path: value
        for path, value in usual_optimizer(recipe).items()
        if path.rpartition(".")[2] in ("momentum", "nesterov", "beta1", "beta2", "eps")
    }


# ---- precision


def wider_precision(recipe: Recipe) -> Changes:
    """Computes in bfloat16, which has float32's range, or in float32 where that is no help."""
    return {"hardware.precision": "bf16" if recipe.hardware.precision == "fp16" else "fp32"}


def lower_precision(recipe: Recipe) -> Changes:
    """Computes in bfloat16."""
    return {"hardware.precision": "bf16"} if recipe.hardware.precision == "fp32" else {}


# ---- units and structure


def unsaturated(recipe: Recipe) -> Changes:
    """Takes ReLU, which does not saturate, in place of sigmoid or tanh."""
    return {"model.activation": "relu"} if getattr(recipe.model, "activation", None) in SATURATING else {}


def gelu(recipe: Recipe) -> Changes:
    """Takes GELU, whose units do not die, in place of ReLU."""
    return {"model.activation": "gelu"} if getattr(recipe.model, "activation", None) == "relu" else {}


def normalise_layers(recipe: Recipe) -> Changes:
    """Normalises between the layers: batch norm, or layer norm where batches are too small for it."""
    if getattr(recipe.model, "kind", "") != "mlp" or getattr(recipe.model, "norm", "") != "none":
        return {}
    micro = (recipe.training.batch_size or 1) // recipe.training.gradient_accumulation_steps
    return {"model.norm": "batch" if micro >= 16 else "layer"}


def layer_norm(recipe: Recipe) -> Changes:
    """Takes layer norm, which needs no other samples, in place of batch norm."""
    return {"model.norm": "layer"} if getattr(recipe.model, "norm", "") == "batch" else {}


def pre_norm(recipe: Recipe) -> Changes:
    """Normalises before each part of a Transformer, which trains without a long warmup (Xiong et al. 2020)."""
    return {"model.order": "pre"} if getattr(recipe.model, "order", "") == "post" else {}


def fewer_layers(recipe: Recipe) -> Changes:
    """Takes half of the hidden layers."""
    widths = getattr(recipe.model, "widths", ())
    return {"model.widths": list(widths[: max(2, len(widths) // 2)])} if len(widths) > 2 else {}


def usual_model(recipe: Recipe) -> Changes:
    """Takes the usual sizes and parts of this kind of network."""
    if recipe.model is None or recipe.model.kind in ("given", "named", "pretrained"):
        return {}
    changes: Changes = {}
    for name, field in MODELS[recipe.model.kind].model_fields.items():
        path, usual = f"model.{name}", field.default
        if name == "kind" or recipe.origin(path).by in ("derived", "default") or getattr(recipe.model, name) == usual:
            continue
        changes[path] = list(usual) if isinstance(usual, tuple) else usual
    return changes


def gated(recipe: Recipe) -> Changes:
    """Takes a GRU, whose gates let gradients through time, in place of a plain RNN."""
    return {"model.cell": "gru"} if getattr(recipe.model, "cell", "") == "rnn" else {}


# ---- batches


def larger_batch(recipe: Recipe) -> Changes:
    """Takes batches of 32 over as many epochs; of each micro-batch, where gradients are accumulated."""
    parts = recipe.training.gradient_accumulation_steps
    batch = recipe.training.batch_size or 1
    if batch // parts >= 32:
        return {}
    changes: Changes = {"training.batch_size": 32 * parts}
    if recipe.training.steps is not None:
        changes["training.steps"] = max(1, recipe.training.steps * batch // (32 * parts))
    changes |= {path: None for path in ("evaluation.every", "checkpoints.every") if recipe.origin(path).by == "derived"}
    return changes


def smaller_micro_batch(recipe: Recipe) -> Changes:
    """Halves the micro-batch and keeps the batch, so the gradient is the same and the activations take half the memory."""
    parts, batch = recipe.training.gradient_accumulation_steps, recipe.training.batch_size or 1
    return {"training.gradient_accumulation_steps": 2 * parts} if batch % (2 * parts) == 0 else {}


def checkpoint_activations(recipe: Recipe) -> Changes:
    """Computes activations again in the backward pass in place of keeping them."""
    return {} if recipe.hardware.activation_checkpointing else {"hardware.activation_checkpointing": 1}


# ---- data


def shuffle(recipe: Recipe) -> Changes:
    """Takes the samples in a new random order each epoch."""
    return {} if recipe.data.shuffle else {"data.shuffle": True}


def deduplicate(recipe: Recipe) -> Changes:
    """Leaves training samples out that repeat others."""
    can = recipe.task in ("image-classification", "tabular-classification", "tabular-regression")
    return {"data.deduplicate": True} if can and not recipe.data.deduplicate else {}


def balance_classes(recipe: Recipe) -> Changes:
    """Weighs the classes by how rare they are."""
    if recipe.loss.class_weights is not None or recipe.loss.kind not in ("cross-entropy", "focal"):
        return {}
    return {"loss.class_weights": "balanced"}


def hold_out(recipe: Recipe) -> Changes:
    """Holds out a tenth of the training data to validate on."""
    return {"data.valid_share": 0.1} if not recipe.data.valid_share and recipe.data.valid is None else {}


# ---- how much is fitted


def stop_early(recipe: Recipe) -> Changes:
    """Stops after five evaluations without a better one."""
    return {"evaluation.patience": 5} if recipe.evaluation.patience is None else {}


def decay_more(recipe: Recipe) -> Changes:
    """Decays the weights ten times as much, at least 0.05 and at most 0.5."""
    decay = recipe.optimizer.weight_decay or 0.0
    return {"optimizer.weight_decay": min(0.5, max(0.05, 10 * decay))} if decay < 0.5 else {}


def more_dropout(recipe: Recipe) -> Changes:
    """Silences more units at random, three in ten or half of them."""
    dropout = getattr(recipe.model, "dropout", None)
    if dropout is None or dropout >= 0.5:
        return {}
    return {"model.dropout": 0.3 if dropout < 0.3 else 0.5}


def smooth_labels(recipe: Recipe) -> Changes:
    """Spreads a tenth of each target over all classes."""
    fits = recipe.loss.kind == "cross-entropy" and not recipe.loss.label_smoothing
    return {"loss.label_smoothing": 0.1} if fits else {}


def usual_dropout(recipe: Recipe) -> Changes:
    """Takes the usual dropout of this kind of network."""
    if recipe.model is None or "dropout" not in MODELS[recipe.model.kind].model_fields:
        return {}
    usual = MODELS[recipe.model.kind].model_fields["dropout"].default
    return {"model.dropout": usual} if getattr(recipe.model, "dropout", usual) > usual else {}


def no_dropout(recipe: Recipe) -> Changes:
    """Silences no units."""
    return {"model.dropout": 0.0} if getattr(recipe.model, "dropout", 0.0) else {}


def usual_decay(recipe: Recipe) -> Changes:
    """Takes the weight decay that is usual for the optimizer."""
    return {"optimizer.weight_decay": None} if _chosen(recipe, "optimizer.weight_decay") else {}


def sharp_labels(recipe: Recipe) -> Changes:
    """Takes the targets as they are, without smoothing."""
    return {"loss.label_smoothing": 0.0} if recipe.loss.label_smoothing else {}


def larger(recipe: Recipe) -> Changes:
    """Makes the network wider: at least the usual width of its kind, or else twice what it has."""
    if recipe.model is None:
        return {}
    for name, field in MODELS[recipe.model.kind].model_fields.items():
        if name not in WIDTHS:
            continue
        now, usual = getattr(recipe.model, name), field.default
        if isinstance(now, tuple):
            small = len(now) < len(usual) or min(now) < min(usual)
            return {f"model.{name}": list(usual) if small else [2 * width for width in now]}
        if isinstance(now, int):
            return {f"model.{name}": usual if isinstance(usual, int) and now < usual else 2 * now}
    return {}


def smaller(recipe: Recipe) -> Changes:
    """Makes the network a quarter as wide."""
    if recipe.model is None:
        return {}
    for name in WIDTHS:
        now = getattr(recipe.model, name, None)
        if isinstance(now, tuple) and min(now) >= 8:
            return {f"model.{name}": [width // 4 for width in now]}
    return {}


def longer(recipe: Recipe) -> Changes:
    """Trains three times as long."""
    if recipe.training.steps is not None:
        return {"training.steps": 3 * recipe.training.steps}
    return {"training.epochs": 3 * recipe.training.epochs} if recipe.training.epochs else {}


CHANGES: Mapping[str, Callable[[Recipe], Changes]] = {
    "clip-gradients": clip_gradients,
    "usual-learning-rate": usual_rate,
    "measured-learning-rate": measured_rate,
    "lower-learning-rate": functools.partial(scale_rate, 0.1),
    "slightly-lower-learning-rate": functools.partial(scale_rate, 1 / 3),
    "much-lower-learning-rate": functools.partial(scale_rate, 0.01),
    "higher-learning-rate": functools.partial(scale_rate, 10),
    "slightly-higher-learning-rate": functools.partial(scale_rate, 3),
    "much-higher-learning-rate": functools.partial(scale_rate, 100),
    "usual-optimizer": usual_optimizer,
    "usual-momentum": usual_momentum,
    "warmup": warm_up,
    "usual-schedule": usual_schedule,
    "wider-precision": wider_precision,
    "lower-precision": lower_precision,
    "unsaturated-activation": unsaturated,
    "gelu": gelu,
    "normalise-layers": normalise_layers,
    "layer-norm": layer_norm,
    "pre-norm": pre_norm,
    "fewer-layers": fewer_layers,
    "usual-model": usual_model,
    "gated-cell": gated,
    "larger-batch": larger_batch,
    "smaller-micro-batch": smaller_micro_batch,
    "checkpoint-activations": checkpoint_activations,
    "shuffle": shuffle,
    "deduplicate": deduplicate,
    "balance-classes": balance_classes,
    "hold-out": hold_out,
    "stop-early": stop_early,
    "more-weight-decay": decay_more,
    "more-dropout": more_dropout,
    "smooth-labels": smooth_labels,
    "usual-dropout": usual_dropout,
    "no-dropout": no_dropout,
    "usual-weight-decay": usual_decay,
    "sharp-labels": sharp_labels,
    "larger-network": larger,
    "smaller-network": smaller,
    "train-longer": longer,
}
