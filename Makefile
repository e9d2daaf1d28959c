# Fresh machine, Python >= 3.11 and make: `make demo` and `make test` set up what they need, in either order.

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,\
            $(shell $(p) -c 'import sys; print("$(p)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /: /'

demo: $(READY) ## train the embedded real digits to their report
	$(BIN)/wellfit train digits

test: $(READY) ## run all tests, warnings as errors
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(READY) ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

format: $(READY) ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## build the documentation into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo docs/_build/index.html

peers: $(READY) ## install what the benchmarks compare with
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,peers]'

clean: ## remove the environment and caches (runs stay)
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist docs/_build src/*.egg-info

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "wellfit needs Python 3.11 or later, and $(or $(PYTHON),what was found) is not. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "The environment could not be made; on Debian and Ubuntu, install python3-venv first."; rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: help demo test check format docs peers clean
