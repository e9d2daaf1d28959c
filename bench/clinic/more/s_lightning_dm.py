"""LightningModule + LightningDataModule on the breast cancer table."""
import logging
import warnings

import lightning as L
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)


class CancerDataModule(L.LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage=None):
        if hasattr(self, "train_ds"):
            return
        X, y = load_breast_cancer(return_X_y=True)
        X_fit, X_test, y_fit, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=7)
        X_train, X_val, y_train, y_val = train_test_split(X_fit, y_fit, test_size=0.2, stratify=y_fit,
                                                          random_state=7)
        scaler = StandardScaler().fit(X_train)
        make = lambda a, b: TensorDataset(torch.tensor(scaler.transform(a), dtype=torch.float32),
                                          torch.tensor(b, dtype=torch.float32))
        self.train_ds, self.val_ds, self.test_ds = make(X_train, y_train), make(X_val, y_val), make(X_test, y_test)

    def train_dataloader(self):
        return DataLoader(self.train_ds, batch_size=self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_ds, batch_size=128)

    def test_dataloader(self):
        return DataLoader(self.test_ds, batch_size=128)


class LitClassifier(L.LightningModule):
    def __init__(self, in_dim=30, hidden=32, lr=2e-3, weight_decay=1e-2, dropout=0.2):
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(in_dim, hidden), nn.GELU(), nn.Dropout(dropout),
                                  nn.Linear(hidden, hidden), nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, 1)
        self.history = []

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)

    def _shared(self, batch, name):
        x, y = batch
        logit = self(x)
        loss = F.binary_cross_entropy_with_logits(logit, y)
        acc = ((logit > 0) == y.bool()).float().mean()
        self.log_dict({f"{name}_loss": loss, f"{name}_acc": acc}, prog_bar=False, on_epoch=True, on_step=False)
        return loss

    def training_step(self, batch, batch_idx):
        return self._shared(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._shared(batch, "val")

    def test_step(self, batch, batch_idx):
        self._shared(batch, "test")

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.history.append(float(self.trainer.callback_metrics["val_loss"]))

    def configure_optimizers(self):
        opt = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
        sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=self.trainer.max_epochs)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": sched, "interval": "epoch"}}


if __name__ == "__main__":
    L.seed_everything(7, verbose=False)
    dm = CancerDataModule()
    model = LitClassifier()
    trainer = L.Trainer(max_epochs=20, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0)
    trainer.fit(model, datamodule=dm)
    print("val loss", [round(v, 3) for v in model.history])
    print(trainer.test(model, datamodule=dm, verbose=False))
