import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
keras.utils.set_random_seed(12)

# 8x8 digits, pixel values 0..16
X, y = load_digits(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, stratify=y, random_state=1)
X_train, X_val = X_train / 16.0, X_val / 16.0

model = keras.Sequential([
    keras.Input((64,)),
    keras.layers.Dense(64, activation="relu"),
    keras.layers.Dropout(0.1),
    keras.layers.Dense(32, activation="relu"),
    keras.layers.Dense(10),
])
model.compile(
    optimizer=keras.optimizers.Adam(3e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
hist = model.fit(X_train, y_train, batch_size=64, epochs=12, validation_data=(X_val, y_val), verbose=0)

h = hist.history
for i, loss in enumerate(h["loss"]):
    line = f"epoch {i + 1:2d}  loss {loss:.4f}  acc {h['accuracy'][i]:.3f}"
    if "val_loss" in h:
        line += f"  val_loss {h['val_loss'][i]:.4f}  val_acc {h['val_accuracy'][i]:.3f}"
    print(line)
