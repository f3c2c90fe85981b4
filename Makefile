# From a fresh clone, with Python 3.11-3.13, git and make: `make quick` or `make test`. The environment is made once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
SLOW := slow or mmdet or gpu

.DEFAULT_GOAL := help
.PHONY: help setup mmdet extras quick test test-slow test-all lint format bench

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## the environment in .venv, once, and again when pyproject.toml or constraints.txt change

mmdet: $(VENV)/.mmdet ## mmdet into .venv: compiles mmcv, about ten minutes on two cores, with a C++ compiler

extras: $(READY) ## Ray and Weights & Biases into .venv
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray,wandb]"

quick: $(READY) ## run the default grid and print its tables: no download of data, no GPU
	@$(RUN) benchmark run

test: $(READY) ## fast tests
	@$(RUN) pytest -q -m "not ($(SLOW))"

test-slow: $(READY) ## slow tests, and those of mmdet and of a GPU where there is one
	@$(RUN) pytest -q -m "$(SLOW)"

test-all: $(READY) ## every test that can run here
	@$(RUN) pytest -q

lint: $(READY) ## ruff and mypy --strict
	@$(RUN) ruff check --quiet --output-format concise .
	@$(RUN) ruff format --quiet --check --output-format concise .
	@$(RUN) mypy --strict benchmark strategies tasks

format: $(READY) ## put the code into shape
	@$(RUN) ruff check --quiet --fix .
	@$(RUN) ruff format --quiet .

bench: $(READY) ## time the hot paths (pytest-benchmark)
	@$(RUN) pytest -q --benchmark-only tests/benchmarks

# mmcv compiles its operators against the torch that is there; an isolated build finds none and leaves them out.
$(VENV)/.mmdet: $(READY)
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt ninja setuptools wheel
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation onedl-mmcv==2.3.6
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mmdet]"
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit("al-benchmark needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % v[:2])'
	@echo "setting up $(VENV) (the first time minutes: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@
