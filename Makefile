# `make` lists the targets. Everything runs in .venv, which `setup` makes and keeps up to date.
SHELL := /bin/bash
VENV := .venv/bin/python

# The first Python that runs, that of .venv before others: set-up itself says when it is the wrong one.
PYTHON ?= $(shell for p in $(VENV) python3.11 python3.12 python3.13 python3.10 python3 python; do $$p -c $(IS_3) >/dev/null 2>&1 && { echo $$p; break; }; done)
IS_3 := 'import sys; sys.exit(sys.version_info < (3,))'

# Two one-thread processes get more done than one two-thread process.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup lock demo demo-scratch study figures test test-fast test-full test-matrix lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with the locked stack (MMCV=compiled: mmcv's own ops; TORCH=cpu: a small torch)
	@python="$(PYTHON)"; if ! "$${python:-no-python}" -c $(IS_3) >/dev/null 2>&1; then \
	  echo "error: no Python 3 found ($${python:-python3.11, python3, python} does not run as one):" \
	    "install Python 3.11 or call make PYTHON=/path/to/python3.11" >&2; \
	  exit 2; fi; "$$python" tools/setup/setup_env.py

lock:  ## resolve the stack anew from pyproject.toml (LOCK_ARGS=--upgrade: to newest versions)
	@.venv/bin/uv pip compile -q --universal --python-version 3.10 --only-binary :all: --no-binary grad-cam \
	  --generate-hashes --no-annotate --custom-compile-command 'make lock' --extra dev --group setup $(LOCK_ARGS) \
	  --output-file tools/setup/lock.txt pyproject.toml

DEMO_LENGTH = $(if $(filter-out 0,$(FULL)),--full)

demo: setup  ## pretrain, convert, train and test on real digits (FULL=1 trains longer)
	@$(VENV) tools/demo/run.py $(DEMO_LENGTH)

demo-scratch: setup  ## the same downstream training without the pretrained backbone
	@$(VENV) tools/demo/run.py --scratch $(DEMO_LENGTH)

study: setup  ## train what is left of the study's grid and report (STUDY_ARGS="--budget 60"; docs/study.md)
	@$(VENV) tools/study.py $(STUDY_ARGS) && $(VENV) tools/study.py --report

figures: setup  ## draw the pictures of README.md and docs/ from what `make demo` left
	@$(VENV) tools/demo/figures.py

# Two workers, each with whole files, whose tests share what they trained; the slow files first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# The core without its compilers, checkpoints, and a tiny run of each library.
FAST := tests/ops tests/layers tests/models tests/checkpoint tests/test_doctests.py \
  tests/configs/test_training.py
FAST_LEAVES_OUT := tests/ops/kernels tests/models/test_compile.py tests/models/test_counting.py
LONG := tests/checkpoint/test_fuzz.py tests/tools/test_kills.py tests/ops tests/configs

test: lint  ## lint, then run all tests (PYTEST_ARGS="-k ops" replaces the default options)
	@$(VENV) -m pytest $(PYTEST_ARGS)

test-fast: setup  ## a part of the tests in 90 seconds: core, checkpoints, a tiny run of each library
	@$(VENV) -m pytest $(PYTEST_ARGS) -m "not slow" $(FAST) $(FAST_LEAVES_OUT:%=--ignore=%)

test-full: setup  ## the long checks: 4,201 mutated checkpoints, 20 kills of a training
	@MMVHEAT_FULL=1 $(VENV) -m pytest $(LONG)

test-matrix: setup  ## the tests on other versions (MATRIX_ARGS=--list; docs/compatibility.md)
	@$(VENV) tools/matrix/run.py $(MATRIX_ARGS)

lint: setup  ## check style and formatting
	@$(VENV) -m ruff check . && $(VENV) -m ruff format --check .

format: setup  ## fix what lint can fix by itself
	@$(VENV) -m ruff check --fix . && $(VENV) -m ruff format .

clean:  ## remove .venv and caches; keeps data/, work_dirs/ and the mmcv wheel cache
	rm -rf .venv .matrix build dist *.egg-info .pytest_cache .ruff_cache .dist_test
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
