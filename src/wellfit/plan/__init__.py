"""Memory and hardware: what is here (`hardware.py`), and what would be needed, traced without computing it (`trace.py`, `languages.py`)."""
