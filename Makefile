# What CI runs is what a person runs.
#   make test      the tests, but for whole servers     make check   style, types, the import contract
#   make test-all  all tests, as CI runs them           make bench   what it costs, beside others
#   make demo      the story                            make clean   remove what was made here
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
# Two at a time by default; PYTEST_ARGS=-n0 for one, or any other argument of pytest.
PYTEST_ARGS ?= -n 2
# All of it takes about an hour: BENCH_ARGS=--quick to try, BENCH_ARGS='--into docs/performance.md' to write it down.
BENCH_ARGS ?=

.PHONY: test test-all check protos demo bench clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml
	@echo "Making $(VENV) and installing (once; about a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"shieldmw needs Python 3.11 or newer, this is {sys.version.split()[0]}: run make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# About five minutes on two cores. What it leaves out takes twice as long: whole servers under load, and long runs of
# many cases.
test: $(STAMP)
	$(BIN)/python -m pytest --ignore=tests/e2e --ignore=tests/demo -m "not thorough" $(PYTEST_ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Generates shieldmw/doors/envoy/protos. Needs grpcio-tools and mypy-protobuf, which nothing else does.
protos:
	$(PYTHON) -m grpc_tools.protoc -I. --python_out=. --mypy_out=quiet:. shieldmw/doors/envoy/protos/*.proto

demo: $(STAMP)
	$(BIN)/shieldmw demo

$(BENCH_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

bench: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
