"""Keras 3 on the PyTorch backend: functional model with callbacks, sklearn digits."""
import os

os.environ["KERAS_BACKEND"] = "torch"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import torch
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

torch.set_num_threads(1)
keras.utils.set_random_seed(1337)

digits = load_digits()
x = (digits.images / 16.0).astype("float32")[..., None]
y = keras.utils.to_categorical(digits.target, 10)
x_fit, x_test, y_fit, y_test = train_test_split(x, y, test_size=0.2, random_state=3, stratify=digits.target)
x_train, x_val, y_train, y_val = train_test_split(x_fit, y_fit, test_size=0.2, random_state=3)

inputs = keras.Input(shape=(8, 8, 1))
h = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
h = layers.MaxPooling2D(2)(h)
h = layers.Conv2D(32, 3, padding="same", activation="relu")(h)
h = layers.Flatten()(h)
h = layers.Dropout(0.3)(h)
outputs = layers.Dense(10, activation="softmax")(h)
model = keras.Model(inputs, outputs, name="digits_convnet")

model.compile(optimizer=keras.optimizers.Adam(learning_rate=2e-3),
              loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.05),
              metrics=["accuracy"])


class PrintEvery(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch % 3 == 0:
            print(f"epoch {epoch:2d}  " + "  ".join(f"{k}={v:.3f}" for k, v in logs.items()))


callbacks = [
    keras.callbacks.EarlyStopping(monitor="val_loss", patience=4, restore_best_weights=True),
    keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2, min_lr=1e-4),
    PrintEvery(),
]
history = model.fit(x_train, y_train, validation_data=(x_val, y_val), batch_size=64, epochs=18,
                    callbacks=callbacks, verbose=0)

loss, acc = model.evaluate(x_test, y_test, verbose=0)
print("best val_loss %.3f" % min(history.history["val_loss"]))
print("test loss %.3f, accuracy %.3f" % (loss, acc))
pred = model.predict(x_test, verbose=0).argmax(1)
print("confused pairs:", int(np.sum(pred != y_test.argmax(1))), "of", len(pred))
