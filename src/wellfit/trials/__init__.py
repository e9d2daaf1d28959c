"""What is found out by runs beside runs: counterfactuals, comparisons, ablations, the cure, and the learning rate.

A *trial* is a whole run in a folder of its own (`trial.py`). Everything here makes recipes from recipes, trains them through
`wellfit/api.py`, and compares what their folders say; nothing here reaches into the loop.
"""
