"""The doctor: what is wrong with a training run, from its events and from what a probe measures.

The probe (`watch.py`, `patches.py`, `graph.py`, `measure.py`, `samples.py`, `checks.py`, `autopsy.py`) turns tensors into numbers; the rules (`rules/`) turn
numbers into findings (`finding.py`, `catalogue.yaml`); `doctor.py` keeps the histories and asks the rules.
"""
