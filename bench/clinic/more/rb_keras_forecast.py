import os
os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np

keras.utils.set_random_seed(5)

# hourly "load" series: daily and weekly cycle, slow autoregressive weather, noise
rng = np.random.default_rng(5)
n = 24 * 300
hours = np.arange(n)
weather = np.zeros(n)
for i in range(1, n):
    weather[i] = 0.98 * weather[i - 1] + rng.normal(0, 0.12)
weekend = ((hours // 24) % 7 >= 5).astype(float)
load = (10 + 2.0 * np.sin(2 * np.pi * hours / 24) + 0.8 * np.sin(4 * np.pi * hours / 24 + 1)
        - 1.2 * weekend * (1 + 0.5 * np.sin(2 * np.pi * hours / 24))
        + weather + rng.normal(0, 0.15, n))

WINDOW = 48
HORIZON = 6  # predict the load six hours ahead


def windows(lo, hi):
    """All windows that lie, target included, inside hours lo..hi"""
    starts = np.arange(lo, hi - WINDOW - HORIZON + 1)
    x = np.stack([load[s:s + WINDOW] for s in starts])
    target_hour = starts + WINDOW + HORIZON - 1
    dow = (target_hour // 24) % 7
    calendar = np.stack([(dow == d).astype(float) for d in (4, 5, 6)], axis=1)  # Friday, Saturday, Sunday
    return x, calendar, load[target_hour]


# split in time order; the windows of the three parts share no hour
n_train, n_val = int(n * 0.7), int(n * 0.85)
x_train, c_train, y_train = windows(0, n_train)
x_val, c_val, y_val = windows(n_train, n_val)
x_test, c_test, y_test = windows(n_val, n)

mean, std = load[:n_train].mean(), load[:n_train].std()


def scaled(a):
    return ((a - mean) / std).astype("float32")


inp = keras.Input((WINDOW,), name="history")
cal = keras.Input((3,), name="calendar")
h = keras.layers.Concatenate()([inp, cal])
h = keras.layers.Dense(64, activation="relu")(h)
h = keras.layers.Dense(32, activation="relu")(h)
out = keras.layers.Dense(1)(h)
model = keras.Model([inp, cal], out)
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse", metrics=["mae"])

model.fit(
    [scaled(x_train), c_train.astype("float32")], scaled(y_train),
    validation_data=([scaled(x_val), c_val.astype("float32")], scaled(y_val)),
    epochs=6,
    batch_size=64,
    verbose=2,
)

pred = model.predict([scaled(x_test), c_test.astype("float32")], batch_size=256, verbose=0)[:, 0] * std + mean
mae = np.abs(pred - y_test).mean()
mae_mean = np.abs(y_test - mean).mean()
mae_last = np.abs(x_test[:, -1] - y_test).mean()
mae_day = np.abs(x_test[:, WINDOW - 1 - (24 - HORIZON)] - y_test).mean()
print(f"test MAE {mae:.3f}  (training mean {mae_mean:.3f}, last value {mae_last:.3f}, same hour yesterday {mae_day:.3f})")
