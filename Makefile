.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Waiting OpenMP threads sleep: spinning threads slow down every process on the same cores
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test lint bench commit-file clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## pretrain on a megabase of human DNA, generate DNA and plot the results
	$(BIN)/python -m pipelines.demo

test: .venv/installed-dev  ## run every test
	$(BIN)/python -m pytest

lint: .venv/installed-dev  ## run ruff, mypy and the import checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed-dev  ## measure kernels, training and loader on this machine
	$(BIN)/python -m kernels.benchmarks
	$(BIN)/python -m pipelines.benchmarks.training_cpu
	$(BIN)/python -m pipelines.benchmarks.loader

commit-file: .venv/installed  ## write COMMIT, which names the commit in a copy without git
	$(BIN)/python -m kernels.provenance

clean:  ## remove the environment and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
