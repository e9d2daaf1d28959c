"""Training: `setup.py` makes a job of a recipe, `fit.py` is the loop, `evaluate.py` scores."""
