"""What is learnt from: embedded sets and your files (`source.py`), your own objects (`given.py`), batches (`batches.py`)."""
