"""stand-in"""
from dataclasses import dataclass
from typing import Any
from torch import Tensor
@dataclass(frozen=True)
class Arrays:
    inputs: Tensor
    targets: Tensor
    def __len__(self): return len(self.inputs)
    def take(self, i): return Arrays(self.inputs[i], self.targets[i])
@dataclass(frozen=True)
class Loaded:
    task: str; train: Arrays; valid: Arrays | None; test: Arrays | None; classes: tuple; features: tuple; columns: Any; name: str; embedded: bool; notes: tuple; fingerprint: str
