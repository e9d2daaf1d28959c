"""`python -m wellfit` is the command `wellfit`."""

from wellfit.cli import main

main()
