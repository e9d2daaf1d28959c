"""A Keras 3 model on the torch backend trains like any module, with dropout on while training and off while scoring."""

import importlib.util
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np, torch, wellfit

x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
y = (x[:, 0] + x[:, 1] > 0).astype("int64")
seen = []

class Watching(keras.layers.Dropout):
    def call(self, inputs, training=False):
        seen.append((torch.is_grad_enabled(), bool(training)))
        return super().call(inputs, training=training)

class Subclass(keras.Model):
    def __init__(self, parts):
        super().__init__()
        self.dense, self.norm, self.drop, self.head = parts
    def call(self, inputs, training=False):
        hidden = self.norm(self.dense(inputs), training=training)
        return self.head(self.drop(hidden, training=training))

def built(kind, layers):
    if kind == "functional":
        inputs = outputs = keras.Input((8,))
        for layer in layers:
            outputs = layer(outputs)
        return keras.Model(inputs, outputs)
    return {"sequential": lambda: keras.Sequential([keras.Input((8,)), *layers]),
            "unbuilt": lambda: keras.Sequential(layers), "subclass": lambda: Subclass(layers)}[kind]()

for kind in ("sequential", "unbuilt", "functional", "subclass"):
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.BatchNormalization(), Watching(0.3), keras.layers.Dense(2)]
    model = built(kind, layers)
    seen.clear()
    run = wellfit.fit(model, (x[:160], y[:160]), (x[160:], y[160:]), loss="cross-entropy",
                      set={"training.epochs": 15, "training.batch_size": 16, "optimizer.learning_rate": 0.01},
                      root=sys.argv[1], quiet=True)
    assert run.scores()["accuracy"] > 0.85, (kind, run.scores())
    while seen and not seen[0][1]:
        del seen[0]  # what was looked at before the first step, in evaluation mode
    assert any(grad and training for grad, training in seen), kind
    assert not any(training for grad, training in seen if not grad), f"{kind}: dropout was on while scoring"
    assert not any(grad and not training for grad, training in seen), f"{kind}: dropout was off while training"
    assert abs(np.array(layers[1].moving_mean)).sum() > 0, f"{kind}: batch norm's statistics stood still"
    assert (model.predict(x[160:], verbose=0).argmax(1) == y[160:]).mean() > 0.85, f"{kind}: the best weights are not in the model"
"""


def test_keras_models_train(tmp_path) -> None:
    """Sequential, built late, functional and subclassed."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
