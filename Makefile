# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin/python
OLDEST := $(VENV)/oldest

# One thread per process: several test workers with several threads each only get in each other's way.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo test test-slurm lint types test-oldest test-full check

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## make .venv with everything that the project and its tests need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup  ## the ablation suite on the embedded benchmark: tables and figures in results/glue_ablation/micro
	$(BIN) -m suites.run glue_ablation

test: setup  ## all tests but the long ones
	$(BIN) -m pytest --numprocesses auto --dist worksteal

test-full: setup  ## the long tests too
	$(BIN) -m pytest --numprocesses auto --dist worksteal -m ''

test-slurm: setup  ## the tests on a real Slurm, started by slurm/cluster.py
	eval "$$($(BIN) slurm/cluster.py start)" && trap "$(BIN) slurm/cluster.py stop" EXIT && \
		GPPDFD_SLURM=required $(BIN) -m pytest -m slurm

lint: setup  ## style and format
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

types: setup  ## static types
	$(BIN) -m mypy
	$(BIN) -m mypy slurm/cluster.py

test-oldest: setup $(OLDEST)/.ready  ## the core tests on the oldest supported transformers
	PYTHONPATH="$(CURDIR)/$(OLDEST)" $(BIN) -m pytest --numprocesses auto --dist worksteal \
		tests/test_golden.py tests/test_contracts.py tests/test_extraction.py tests/test_budget.py tests/test_pruned.py tests/test_training.py tests/test_oldest.py

$(OLDEST)/.ready: pyproject.toml
	rm -rf $(OLDEST)
	$(BIN) -m pip install --quiet --disable-pip-version-check --target $(OLDEST) "transformers==5.4.0"
	@touch $@

check: lint types test test-oldest  ## everything that continuous integration runs
