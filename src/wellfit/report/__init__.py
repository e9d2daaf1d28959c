"""A run told to people: in words, as one page, as it goes on.

>>> report.write(run)
PosixPath('runs/2026-11-22-1015-digits-convnet/report.html')
"""

from wellfit.report.page import write

__all__ = ["write"]
