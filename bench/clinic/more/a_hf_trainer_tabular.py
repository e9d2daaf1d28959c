"""A custom classifier for tabular data trained with the transformers Trainer."""
import tempfile

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

torch.set_num_threads(1)
set_seed(21)

FEATURES, CLASSES = 20, 5


class TabularDataset(Dataset):
    def __init__(self, features, labels):
        self.features = torch.tensor(features, dtype=torch.float32)
        self.labels = torch.tensor(labels, dtype=torch.long)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, idx):
        return {"features": self.features[idx], "labels": self.labels[idx]}


class TabularClassifier(nn.Module):
    def __init__(self, n_features, n_classes, hidden=64, dropout=0.2):
        super().__init__()
        self.input = nn.Linear(n_features, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, n_classes)

    def forward(self, features, labels=None):
        h = F.gelu(self.norm(self.input(features)))
        h = h + self.dropout(F.gelu(self.middle(h)))
        logits = self.classifier(h)
        output = {"logits": logits}
        if labels is not None:
            output = {"loss": F.cross_entropy(logits, labels), **output}
        return output


def compute_metrics(prediction):
    logits, labels = prediction
    return {"accuracy": float((np.argmax(logits, axis=-1) == labels).mean())}


X, y = make_classification(n_samples=2400, n_features=FEATURES, n_informative=12, n_redundant=3, n_classes=CLASSES,
                           n_clusters_per_class=1, class_sep=1.5, flip_y=0.02, random_state=8)
X = X * np.logspace(-1, 3, FEATURES)                # columns in different units
X_train, X_valid, y_train, y_valid = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
scaler = StandardScaler().fit(X_train)
train_data = TabularDataset(scaler.transform(X_train), y_train)
valid_data = TabularDataset(scaler.transform(X_valid), y_valid)

model = TabularClassifier(FEATURES, CLASSES)
args = TrainingArguments(
    output_dir=tempfile.mkdtemp(),
    per_device_train_batch_size=32,
    per_device_eval_batch_size=200,
    num_train_epochs=6,
    learning_rate=3e-3,
    weight_decay=0.01,
    lr_scheduler_type="linear",
    warmup_steps=20,
    eval_strategy="steps",
    eval_steps=25,
    logging_steps=25,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
    seed=21,
)
trainer = Trainer(
    model=model,
    args=args,
    train_dataset=train_data,
    eval_dataset=valid_data,
    compute_metrics=compute_metrics,
)
trainer.train()
metrics = trainer.evaluate()
print("final", {k: round(v, 4) for k, v in metrics.items() if k in ("eval_loss", "eval_accuracy")})
