"""wellfit: train any neural network well, and know why when it isn't."""

__version__ = "0.1.0"
