"""Memory and hardware: what is here, and what would be needed. So far: what is here (`hardware.py`)."""
