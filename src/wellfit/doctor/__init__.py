"""The doctor: what is wrong with a training run, from its events and from what a probe measures.

The watch (`watch.py`; what it listens at is in `patches.py`, what it keeps in `account.py`, `roots.py`, `evaluation.py` and
`samples.py`) turns tensors into numbers: `graph.py` and `reading.py` read the graph of a loss, `looks.py` and `measure.py` the weights
around an update, `checks.py` and `autopsy.py` try things on copies. The rules (`rules/`) turn numbers into findings (`finding.py`,
`catalogue.yaml`); `doctor.py` keeps the histories and asks the rules. Doors: `script.py`, `beside.py`, and `probe.py` inside `fit`.
"""
