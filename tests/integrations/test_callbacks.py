"""The doctor beside other people's trainers: a fault is named, and a healthy training is left in peace."""

import os

import pytest
import torch
from torch import nn

X, Y = torch.randn(128, 8, generator=torch.Generator().manual_seed(0)), torch.arange(128) % 3

pytestmark = pytest.mark.filterwarnings("ignore")


def network(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3), *last)


@pytest.mark.parametrize("sick", [False, True])
def test_hugging_face(tmp_path, sick: bool) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from wellfit.integrations.hf import DoctorCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(*([nn.Softmax(1)] if sick else []))

        def forward(self, x, labels):
            out = self.net(x)
            return {"loss": nn.functional.cross_entropy(out, labels), "logits": out}

    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=12, per_device_train_batch_size=16, report_to=[], save_strategy="no", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    doctor = DoctorCallback(quiet=True)
    transformers.Trainer(Model(), arguments, train_dataset=data, callbacks=[doctor]).train()
    found = [f.id for f in doctor.findings if f.severity != "advice"]
    assert found == (["softmax-before-cross-entropy"] if sick else [])


@pytest.mark.parametrize("sick", [False, True])
def test_lightning(tmp_path, sick: bool) -> None:
    lightning = pytest.importorskip("lightning")
    from wellfit.integrations.lightning import DoctorCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(*([nn.Softmax(1)] if sick else []))

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 16, shuffle=True)
    doctor = DoctorCallback(quiet=True)
    trainer = lightning.Trainer(
        max_steps=12, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[doctor], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    found = [f.id for f in doctor.findings if f.severity != "advice"]
    assert found == (["softmax-before-cross-entropy"] if sick else [])


def test_keras() -> None:
    if os.environ.setdefault("KERAS_BACKEND", "torch") != "torch":
        pytest.skip("Keras is set to another backend")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras was imported on another backend")
    from wellfit.integrations.keras import DoctorCallback

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(3)])
    model.compile(keras.optimizers.AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    doctor = DoctorCallback(quiet=True)
    model.fit(X.numpy(), Y.numpy(), epochs=3, batch_size=16, verbose=0, callbacks=[doctor])
    assert [f.id for f in doctor.findings if f.severity != "advice"] == []
