"""A Keras 3 model on the torch backend, as the `nn.Module` that it is, with one difference mended.

Keras layers take their mode from a `training` argument and not from `module.training`, so a plain call would leave
dropout and batch norm in inference mode while training.

    >>> module = adopted(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
"""

import sys
from typing import Any

from torch import Tensor, nn

from wellfit.errors import ModelError


class KerasModule(nn.Module):
    """Calls the Keras model in this module's mode."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.keras = model

    def forward(self, *inputs: Tensor) -> Any:
        return self.keras(inputs[0] if len(inputs) == 1 else list(inputs), training=self.training)


def adopted(model: Any) -> nn.Module:
    """The model as an `nn.Module` that keeps train and eval apart. Raises ModelError if it is not one."""
    keras = sys.modules.get("keras")  # if it is not imported, nothing can be a Keras model
    if keras is not None and isinstance(model, keras.layers.Layer):
        if keras.backend.backend() != "torch":
            raise ModelError(
                f"The Keras model runs on the {keras.backend.backend()} backend; wellfit trains it on torch. "
                "Set the environment variable KERAS_BACKEND=torch before keras is imported."
            )
        return KerasModule(model)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The model is a {type(model).__name__}; it must be a torch.nn.Module (a Keras 3 model on torch is one)."
        )
    return model
