import logging
import warnings

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class ChurnData(pl.LightningDataModule):
    def __init__(self, batch_size=64, seed=11):
        super().__init__()
        self.batch_size = batch_size
        X, y = make_classification(
            n_samples=2000, n_features=20, n_informative=8, n_redundant=4, n_classes=2,
            n_clusters_per_class=3, class_sep=1.3, weights=[0.7], flip_y=0.0, random_state=seed,
        )
        X = X * np.logspace(-2, 4, X.shape[1])  # every column comes in its own unit
        Xtr, Xva, ytr, yva = train_test_split(X, y, test_size=0.3, random_state=seed, stratify=y)
        scaler = StandardScaler().fit(Xtr)
        self.train_set = self.pack(scaler.transform(Xtr), ytr)
        self.val_set = self.pack(scaler.transform(Xva), yva)

    @staticmethod
    def pack(X, y):
        return TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))

    def train_dataloader(self):
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val_set, batch_size=300)


class ChurnModel(pl.LightningModule):
    def __init__(self, n_in=20, hidden=48, depth=2, dropout=0.1, lr=3e-3, weight_decay=1e-2):
        super().__init__()
        self.save_hyperparameters()
        layers = []
        for i in range(depth):
            layers += [nn.Linear(n_in if i == 0 else hidden, hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, 1)
        self.train_losses, self.val_out = [], []

    def forward(self, x):
        return self.head(self.body(x)).squeeze(-1)

    def compute_loss(self, logits, y):
        return F.binary_cross_entropy_with_logits(logits, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = self.compute_loss(logits, y)
        self.train_losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        loss = self.compute_loss(logits, y)
        self.log("val_loss", loss)
        self.val_out.append((logits, y))
        return loss

    def on_validation_epoch_end(self):
        logits = torch.cat([o[0] for o in self.val_out])
        y = torch.cat([o[1] for o in self.val_out])
        pred = (logits > 0).float()
        acc = (pred == y).float().mean().item()
        recall = pred[y == 1].mean().item()
        auc = roc_auc_score(y.numpy(), logits.numpy()) if torch.isfinite(logits).all() and 0 < y.sum() < len(y) else float("nan")
        train = sum(self.train_losses) / max(1, len(self.train_losses))
        val = self.trainer.callback_metrics["val_loss"].item()
        print(f"epoch {self.current_epoch:2d} train_loss {train:.4f} val_loss {val:.4f} acc {acc:.3f} recall {recall:.3f} auc {auc:.3f}")
        self.train_losses.clear()
        self.val_out.clear()

    def configure_optimizers(self):
        opt = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)
        sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=self.trainer.max_epochs)
        return {"optimizer": opt, "lr_scheduler": sched}


if __name__ == "__main__":
    pl.seed_everything(11, verbose=False)
    data = ChurnData()
    model = ChurnModel()
    trainer = pl.Trainer(
        max_epochs=20,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, datamodule=data)
