"""The rules: small pure functions from a history to findings, one file a family.

`RULES` says after which kind of news each is asked; "step" now and then as steps go by, "end" once when the training is
over. A rule states what it measured and the threshold it crossed, and stays silent where it cannot tell.
"""

from collections.abc import Callable, Iterable

from wellfit.doctor.finding import Finding
from wellfit.doctor.history import History
from wellfit.doctor.rules import data, finetuning, fit, head, loop, numbers, rate, resources, structure

Rule = Callable[[History], Iterable[Finding]]

RULES: dict[str, tuple[Rule, ...]] = {
    "loop": (loop.gradients_not_cleared, loop.accumulation_not_divided, loop.gradients_emptied),
    "discarded": (loop.never_stepped, loop.gradients_thrown_away),
    "windows": (loop.windows_carried_over,),
    "structure": (loop.stale_parameters, loop.parameters_not_in_optimizer, loop.parameters_without_gradient),
    "update": (loop.weights_not_changing, head.loss_increasing),
    "mode": (loop.training_in_eval_mode,),
    "evaluation": (loop.evaluation_in_train_mode, data.trained_on_all),
    "loss": (
        head.softmax_before_cross_entropy, head.sigmoid_before_bce_with_logits, head.head_loss_mismatch,
        head.initial_loss_off, data.targets_all_ignored, structure.dropout_on_output, head.one_loss_negated,
    ),
    "broadcast": (head.loss_broadcasts_shapes,),
    "masked": (data.loss_masked_away,),
    "game": (head.players_agree, head.samples_out_of_reach, structure.dropout_on_samples),
    "given": (head.wrong_targets,),
    "beyond": (head.symbols_beyond_head,),
    "root": (head.loss_negated,),
    "input": (data.inputs_not_finite, data.inputs_not_normalized, data.inputs_degenerate),
    "tokens": (data.empty_sequences, data.padding_dominates, data.tokens_degenerate),
    "stored": (data.duplicate_samples,),
    "labels": (data.labels_single_class, data.class_imbalance, data.data_not_shuffled),
    "tags": (data.rare_tags,),
    "dense-labels": (data.dense_labels_single_class,),
    "targets": (data.targets_not_shuffled,),
    "population": (data.duplicate_samples,),
    "overlap": (data.train_validation_leakage,),
    "workers": (data.workers_repeat_randomness,),
    "activation": (structure.dead_units, structure.saturated_units),
    "layer": (structure.poor_initialization, numbers.vanishing_gradients, numbers.exploding_through_layers, numbers.signals_explode),
    "through-time": (numbers.vanishing_through_time, numbers.exploding_through_time),
    "linear-pair": (structure.missing_nonlinearity,),
    "batch-norm": (structure.batch_statistics_unreliable,),
    "independence": (structure.samples_mixed_in_batch,),
    "ahead": (structure.future_leak,),
    "peek": (structure.target_among_inputs,),
    "dropout": (structure.dropout_too_strong,),
    "not-finite": (numbers.not_finite,),
    "scaler": (numbers.loss_scale_collapse,),
    "crash": (finetuning.frozen_head_crashed, finetuning.ids_beyond_embedding, numbers.crashed, data.crashed_on_data),
    "head": (finetuning.head_not_trained,),
    "frozen": (finetuning.frozen_weights_changed,),
    "misspelt": (finetuning.frozen_in_name_only,),
    "adapter": (finetuning.adapter_without_effect,),
    "statistics": (finetuning.frozen_statistics_drifting,),
    "padding-targets": (finetuning.labels_not_masked,),
    "vocabulary": (finetuning.unknown_tokens,),
    "schedule": (rate.cosine_past_its_end,),
    "memory": (resources.memory_growing,),
    "yardstick": (data.labels_unrelated_to_inputs, fit.underfitting, fit.beaten_by_baseline),
    "bigrams": (data.tokens_say_nothing, fit.worse_than_counting),
    "step": (
        rate.learning_rate_too_high, rate.learning_rate_of_scratch, head.falls_without_bound, numbers.exploding_over_steps,
        numbers.loss_spike, resources.input_pipeline_slow,
    ),
    "end": (
        rate.learning_rate_too_low, rate.learning_rate_decayed_too_early, rate.warmup_missing, fit.overfitting, fit.memorised, fit.beaten_by_yardstick,
        fit.training_too_short, fit.validation_missing, fit.weights_wither, rate.loss_not_decreasing, resources.accelerator_idle,
    ),
}  # fmt: skip

# cause -> what it explains. Where both are found, the symptom stands under the cause.
_POOR = ("loss-not-decreasing", "underfitting", "training-too-short", "beaten-by-baseline", "learning-rate-too-low")
_BROKEN = ("loss-not-finite", "gradient-not-finite", "activation-not-finite")
_WILD = (*_BROKEN, "learning-rate-too-high", "exploding-gradients", "warmup-missing", "loss-spike", "dead-units", "saturated-units",
         "loss-scale-collapse", "weights-not-changing")  # fmt: skip
EXPLAINS: dict[str, tuple[str, ...]] = {
    "inputs-not-finite": (*_WILD, *_POOR, "initial-loss-off", "inputs-not-normalized"),
    "targets-all-ignored": (*_WILD, *_POOR),
    "empty-sequences": (*_WILD, *_POOR, "inputs-degenerate", "padding-dominates"),
    "inputs-not-normalized": (*_WILD, *_POOR, "initial-loss-off", "vanishing-gradients"),
    "inputs-degenerate": (*_POOR, "labels-unrelated-to-inputs", "duplicate-samples", "train-validation-leakage"),
    "poor-initialization": (*_WILD, *_POOR, "initial-loss-off", "vanishing-gradients", "weights-not-changing"),
    "exploding-gradients": (*_BROKEN, "learning-rate-too-high", "warmup-missing", "loss-spike", "dead-units", "saturated-units",
                            "initial-loss-off", *_POOR),
    "learning-rate-too-high": (*_BROKEN, "dead-units", "saturated-units", "warmup-missing", "loss-spike", *_POOR, "overfitting",
                               "vanishing-gradients", "labels-unrelated-to-inputs"),
    "loss-increasing": (*_WILD, *_POOR, "initial-loss-off", "vanishing-gradients", "overfitting"),
    "gradients-not-cleared": (*_WILD, *_POOR, "overfitting", "vanishing-gradients", "memory-growing"),
    "optimizer-holds-stale-parameters": (*_POOR, "parameters-not-in-optimizer", "parameters-without-gradient", "weights-not-changing", "adapter-without-effect",
                                         "labels-unrelated-to-inputs", "overfitting"),
    "parameters-not-in-optimizer": (*_POOR, "samples-mixed-in-batch", "weights-not-changing",
                                    "parameters-without-gradient", "adapter-without-effect", "dead-units", "vanishing-gradients"),
    "parameters-without-gradient": (*_POOR, "weights-not-changing"),
    "weights-not-changing": (*_POOR, "vanishing-gradients", "labels-unrelated-to-inputs",
                             "learning-rate-decayed-too-early"),
    "accumulation-miscounted": ("learning-rate-too-high", "exploding-gradients", "warmup-missing", "loss-spike", "learning-rate-too-low"),
    "softmax-before-cross-entropy": (*_POOR, "vanishing-gradients", "dead-units"),
    "sigmoid-before-bce-with-logits": (*_POOR, "vanishing-gradients", "saturated-units", "dead-units"),
    "loss-broadcasts-shapes": (*_POOR, "overfitting", "samples-mixed-in-batch"),
    "head-loss-mismatch": (*_POOR, *_WILD, "initial-loss-off", "vanishing-gradients", "loss-broadcasts-shapes", "dropout-harmful"),
    "initial-loss-off": ("warmup-missing", "saturated-units", "dead-units", *_POOR),
    "vanishing-gradients": (*_POOR,),
    "dead-units": (*_POOR, "vanishing-gradients"),
    "saturated-units": (*_POOR, "vanishing-gradients"),
    "missing-nonlinearity": ("underfitting", "beaten-by-baseline"),
    "samples-mixed-in-batch": (*_POOR, "overfitting", "labels-unrelated-to-inputs"),
    "training-in-eval-mode": ("overfitting", *_WILD),
    "evaluation-in-train-mode": ("overfitting",),
    "dropout-harmful": (*_POOR, "initial-loss-off", "labels-unrelated-to-inputs"),
    "batch-statistics-unreliable": (*_POOR, "loss-spike", "exploding-gradients", "learning-rate-too-high"),
    "labels-unrelated-to-inputs": ("loss-not-decreasing", "dead-units", "overfitting", "underfitting", "beaten-by-baseline", "training-too-short"),
    "labels-single-class": ("class-imbalance", "initial-loss-off"),
    "data-not-shuffled": ("labels-single-class", "initial-loss-off", "loss-spike", *_POOR, "overfitting", "learning-rate-too-high", "class-imbalance"),
    "duplicate-samples": ("train-validation-leakage", "overfitting", "class-imbalance"),
    "learning-rate-decayed-too-early": (*_POOR,),
    "learning-rate-too-low": ("loss-not-decreasing", "underfitting", "training-too-short", "beaten-by-baseline", "labels-unrelated-to-inputs"),
    "warmup-missing": ("loss-spike",),
    "loss-scale-collapse": (*_BROKEN, *_POOR, "weights-not-changing"),
    "overfitting": ("beaten-by-baseline",),
    "underfitting": ("loss-not-decreasing", "beaten-by-baseline", "training-too-short"),
    "labels-out-of-range": (*_BROKEN,),
    "padding-dominates": ("empty-sequences",),
    "head-not-trained": (*_POOR, "parameters-without-gradient", "weights-not-changing", "overfitting"),
    "frozen-weights-changed": ("overfitting", "vanishing-gradients", "learning-rate-too-high", *_POOR),
    "adapter-without-effect": (*_POOR, "poor-initialization", "weights-not-changing", "parameters-without-gradient"),
    "frozen-statistics-drifting": ("overfitting", "evaluation-in-train-mode"),
    "labels-not-masked": (*_POOR, "initial-loss-off", "class-imbalance", "padding-dominates"),
    "vocabulary-mismatch": (*_POOR, "labels-unrelated-to-inputs", "duplicate-samples", "train-validation-leakage"),
}  # fmt: skip
