# What CI runs is what a person runs.
#   make test    the tests          make check   style, types, the house's floors
#   make demo    the story          make clean   remove what was made here
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two at a time by default; PYTEST_ARGS=-n0 for one, or any other argument of pytest.
PYTEST_ARGS ?= -n 2

.PHONY: test check demo clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml
	@echo "Making $(VENV) and installing (once; about a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"shieldmw needs Python 3.11 or newer, this is {sys.version.split()[0]}: run make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(STAMP)
	$(BIN)/shieldmw demo

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
