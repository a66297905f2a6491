.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# OpenMP's threads sleep while they wait for each other: spinning, they slow down whatever shares the cores
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test lint bench clean

help:  ## say what each target does
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-6s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## pretrain on a megabase of human DNA, generate, and show what was learnt
	$(BIN)/python -m pipelines.demo

test: .venv/installed-dev  ## run every test
	$(BIN)/python -m pytest

lint: .venv/installed-dev  ## ruff, mypy and the one-way imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev  ## print this machine's speed: kernels, training, loader
	$(BIN)/python -m kernels.benchmarks
	$(BIN)/python -m pipelines.benchmarks.training_cpu
	$(BIN)/python -m pipelines.benchmarks.loader

clean:  ## remove the environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
