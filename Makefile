# make run · make test-fast · make test · make lab · make notebooks. The same lines without make are in README.md.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install run test test-fast lint lab notebooks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: install
	$(BIN)/nbutils run

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

test-fast: install
	$(BIN)/python -m pytest -m "not slow"

test: lint
	$(BIN)/python -m pytest

lab: install
	$(BIN)/jupyter lab notebooks

notebooks: install
	$(BIN)/python tools/refresh.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .import_linter_cache .ruff_cache
