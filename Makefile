# From a fresh clone, with Python 3.11-3.13, git and make: `make quick` or `make test`. The environment is made once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
READY := $(VENV)/.ready
SLOW := slow or mmdet or gpu
# From the locks: just what stands there, each file by its hash; sources are built with the tools of requirements-build.lock.
INSTALL := pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --require-hashes -r
OURS := pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

.DEFAULT_GOAL := help
.PHONY: help setup mmdet extras quick test test-slow test-all lint format bench gpu lock audit

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(READY) ## the environment in .venv, once, and again when pyproject.toml or a lock changes

mmdet: $(VENV)/.mmdet ## mmdet into .venv: compiles mmcv, about ten minutes on two cores, with a C++ compiler

extras: $(READY) ## Ray, PyAV and Weights & Biases into .venv
	@$(RUN) $(INSTALL) requirements-extras.lock

quick: $(READY) ## run the default grid and print its tables: no download of data, no GPU
	@$(RUN) benchmark run jobs=auto

test: $(READY) ## fast tests
	@$(RUN) pytest -q --numprocesses auto --dist loadfile -m "not ($(SLOW))"

test-slow: $(READY) ## slow tests, and those of mmdet and of a GPU where there is one
	@$(RUN) pytest -q -m "$(SLOW)"

test-all: $(READY) ## every test that can run here
	@$(RUN) pytest -q

lint: $(READY) ## ruff and mypy --strict
	@$(RUN) ruff check --quiet --output-format concise .
	@$(RUN) ruff format --quiet --check --output-format concise .
	@$(RUN) mypy --strict benchmark strategies tasks encoders tools

format: $(READY) ## put the code into shape
	@$(RUN) ruff check --quiet --fix .
	@$(RUN) ruff format --quiet .

bench: $(READY) ## time the hot paths beside the usual ways (half an hour), and write results/benchmarks
	@OMP_NUM_THREADS=$$(getconf _NPROCESSORS_ONLN) $(RUN) pytest -q --benchmark-only --benchmark-json=$(VENV)/bench.json tests/benchmarks
	@$(RUN) tools.benchmark_pages $(VENV)/bench.json

# Where there is no environment, with any Python that has the packages, or gets them from a folder of wheels: docs/gpu.md.
GPU_PYTHON = $(if $(wildcard $(READY)),$(VENV)/bin/python,$(PYTHON))
SECONDS ?= 480
gpu: ## GPU tests, benchmarks and rounds of grid=gpu_reference in SECONDS=480, without a network: OUT=DIR [DATA=DIR] [WHEELS=DIR]
	@$(if $(OUT),,echo "make gpu OUT=DIR: OUT receives what comes of it (docs/gpu.md)"; exit 2;) \
	$(GPU_PYTHON) -m tools.gpu_session "$(OUT)" --seconds $(SECONDS) $(if $(DEVICE),--device $(DEVICE)) \
	  $(if $(DATA),--data "$(DATA)") $(if $(WHEELS),--wheels "$(WHEELS)") $(if $(RECORDS),--records "$(RECORDS)") \
	  $(if $(STEPS),--steps $(STEPS)) $(if $(TINY),--tiny)

# The versions stand in constraints.txt, what is needed in pyproject.toml; the locks add the hashes. An extra's lock holds
# what the environment has not got. uv resolves for Python 3.11 to 3.13 on Linux and macOS at once.
export ENVIRONMENTS := ["python_full_version < '3.14' and sys_platform == 'linux'", "python_full_version < '3.14' and sys_platform == 'darwin'"]
LOCK = cd $(LOCKING) && bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
	--custom-compile-command "make lock" -c constraints.txt
BESIDES = $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' requirements.lock requirements-build.lock)
LOCKING := $(VENV)/lock

lock: $(READY) ## the locks anew, from pyproject.toml and constraints.txt
	@$(PYTHON) -m venv --clear $(LOCKING)
	@$(LOCKING)/bin/pip install --quiet --disable-pip-version-check uv==0.13.8
	@cp constraints.txt $(LOCKING) && cp pyproject.toml $(LOCKING)
	@printf '%s\n' '[tool.uv]' "environments = $$ENVIRONMENTS" >>$(LOCKING)/pyproject.toml
	@$(LOCK) pyproject.toml --extra train --extra test -o requirements.lock
	@printf '%s\n' hatchling ninja setuptools wheel >$(LOCKING)/build.in
	@$(LOCK) build.in -o requirements-build.lock
	@$(LOCK) pyproject.toml --extra train --extra ray --extra video --extra wandb $(BESIDES) -o requirements-extras.lock
	@$(LOCK) pyproject.toml --extra train --extra mmdet $(BESIDES) -o requirements-mmdet.lock
	@echo pip-audit==2.10.1 >$(LOCKING)/audit.in
	@$(LOCK) audit.in -o requirements-audit.lock
	@cp $(LOCKING)/requirements*.lock .

# A database that does not know the holes of jinja2 2.4.1 is none: some index mirrors have the packages but no advisories.
AUDITOR := $(VENV)/audit/bin/pip-audit
AUDIT := $(AUDITOR) --no-deps --disable-pip --progress-spinner off
# --ignore-vuln ID for each that does not concern us, and why:
#   (none)
IGNORED :=

audit: $(AUDITOR) ## known vulnerabilities of what the locks hold; says so where no advisory database can be reached
	@canary=$$(mktemp) && trap 'rm -f "$$canary"' EXIT && echo jinja2==2.4.1 >"$$canary" && \
	for service in pypi osv; do \
	  if $(AUDIT) -s $$service -r "$$canary" 2>/dev/null | grep -q '^jinja2  *2\.4\.1 '; then \
	    echo "advisories: $$service"; \
	    $(AUDIT) -s $$service --strict $(IGNORED) $(addprefix -r ,$(wildcard requirements*.lock)); exit; \
	  fi; \
	done; \
	echo "not audited: no advisory database reachable (tried pypi, osv)"

$(VENV)/audit/bin/pip-audit: requirements-audit.lock
	@$(PYTHON) -m venv --clear $(VENV)/audit
	@$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r $<
	@touch $@

# mmcv compiles its operators against the torch that is there; an isolated build finds none and leaves them out.
$(VENV)/.mmdet: $(READY) requirements-mmdet.lock
	@$(RUN) $(INSTALL) requirements-mmdet.lock
	@touch $@

$(READY): pyproject.toml requirements.lock requirements-build.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; (3, 11) <= v < (3, 14) or sys.exit("al-benchmark needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % v[:2])'
	@echo "setting up $(VENV) (the first time minutes: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) $(INSTALL) requirements-build.lock
	@$(RUN) $(INSTALL) requirements.lock
	@$(RUN) $(OURS)
	@$(VENV)/bin/python -m compileall -q benchmark strategies tasks encoders
	@report=$$($(RUN) pip check) || { echo "$$report"; exit 1; }
	@touch $@
