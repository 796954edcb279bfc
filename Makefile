# One command for each thing a contributor does; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
USER_STAMP := $(VENV)/.seglens-user
DEV_STAMP  := $(VENV)/.seglens-dev

# Extra arguments for pip. On Linux without an NVIDIA GPU this saves gigabytes:
#   make setup PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_FLAGS ?=
# Test processes. Each of them computes on one thread, so that two of them use two cores.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo docs quick test test-slow test-latest lint format format-check types imports static check clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV_STAMP) ## create .venv and install SegLens with everything a developer needs

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no '$(PYTHON)' found; SegLens needs Python 3.11 or newer. Install it, or run: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); SegLens needs Python 3.11 or newer. Run: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e

$(USER_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[dev]'
	@touch $@ $(USER_STAMP)

demo: $(USER_STAMP) ## draw a scene, segment it, ask about it; pictures on disk
	$(BIN)/seglens demo

# For every edit: the modules that everything depends on, one method, segmenting, and the contract of imports.
QUICK := tests/core tests/model_files tests/exports tests/data/test_spec.py tests/data/test_masks.py tests/methods/test_keypoints.py \
         tests/methods/test_losses.py tests/methods/test_lens.py tests/inference/test_segmenter.py tests/test_imports.py

quick: setup ## under a minute: the tests of what everything depends on
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -m 'not slow' $(QUICK)

test: setup ## the test suite, without the slow tests
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -m 'not slow'

test-slow: setup ## the slow tests: trainings, kills, launches of several processes, a browser
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) -m slow

# A new environment outside .venv. Only torch stays at the tested version: its newest build may be gigabytes.
LATEST := out/latest
LATEST_PIP := $(LATEST)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c $(LATEST)/torch.txt

test-latest: $(BIN)/pip ## the wheel with the newest packages that pyproject allows: the demo, and tests of what these may break
	rm -rf $(LATEST) build
	$(BIN)/python -m venv $(LATEST)
	grep '^torch==' constraints.txt > $(LATEST)/torch.txt
	$(LATEST)/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(LATEST)/wheel .
	rm -rf build
	$(LATEST_PIP) $(LATEST)/wheel/*.whl
	$(LATEST)/bin/seglens doctor # before the extras, which may force an older version of a package
	$(LATEST_PIP) "$$(echo $(LATEST)/wheel/*.whl)[train,tune,tools,serve,page]" pytest pytest-xdist hypothesis beartype openai
	$(ONE_THREAD) $(LATEST)/bin/python tests/latest.py $(LATEST)

docs: setup ## build the site into out/site; a notice of the theme about its own future is switched off
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup ## ruff
	$(BIN)/ruff check .

format: setup ## rewrite the code in the project's format
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

format-check: setup
	$(BIN)/ruff format --check .

types: setup ## mypy
	$(BIN)/mypy

imports: setup ## who may import whom
	$(BIN)/lint-imports

static: format-check lint types imports ## everything in `check` except the tests

check: static test test-slow ## what a change must pass

clean: ## remove build products and caches; keeps .venv, runs/ and out/
	rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
