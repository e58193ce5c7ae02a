# Needs Python >= 3.10, git and make; everything else goes into .venv.

PYTHON ?= python3
BUNDLE ?= build/quickstart/digits.eexit

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --require-virtualenv

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-aarch64 test-lower-bounds check format lint types bench clean

help: ## list these commands
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name what; do printf '%-25s%s\n' "$$name" "$$what"; done

install: $(STAMP) ## make .venv and install everything into it, at the versions in constraints.txt

demo: $(STAMP) ## train a small cascade on scikit-learn's digits, export it, and run it on one tier and on two
	$(BIN)/edgeexit quickstart --out build/quickstart

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest

test-aarch64: $(STAMP) ## run the device side on emulated aarch64, with bundles made here, or BUNDLE=… too
	@PYTHONPATH=tests $(BIN)/python -m aarch64.emulation
	EDGEEXIT_AARCH64=1 EDGEEXIT_AARCH64_BUNDLE="$(if $(filter file,$(origin BUNDLE)),,$(BUNDLE))" $(BIN)/python -m pytest tests/aarch64

test-lower-bounds: $(STAMP) ## run the device side's tests with the oldest Python and packages that it says it takes
	@PYTHONPATH=tests $(BIN)/python -m lower_bounds.environment $(if $(LOWER_PYTHON),--python $(LOWER_PYTHON))

check: format lint types test ## formatter, linter, strict type checker and tests

format: $(STAMP) ## is the code formatted? (to format it: .venv/bin/ruff format)
	$(BIN)/ruff format --check .

lint: $(STAMP) ## run the linter
	$(BIN)/ruff check .

types: $(STAMP) ## run the strict type checker
	$(BIN)/mypy

bench: $(BUNDLE) | $(STAMP) ## time the cascade of the demo, or BUNDLE=…, against the whole model
	$(BIN)/edgeexit bench $(BUNDLE) --batch 1,8,64 --threads 1

clean: ## remove what was built and all caches; .venv stays
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

build/quickstart/digits.eexit: | $(STAMP)
	$(MAKE) demo

# Installed again only when a pyproject.toml or a pin changes. The runtime comes before the exporters, which want it too:
# pip does not find it the other way round.
$(STAMP): pyproject.toml exporters/pyproject.toml runtime/pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) was not found; install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $$($(PYTHON) --version 2>&1) is too old; install Python 3.10 or newer, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV): a few minutes the first time."
	$(PIP) install --quiet --constraint constraints.txt hatchling editables
	$(PIP) install --no-build-isolation --constraint constraints.txt --editable '.[dev,train]' --editable './runtime[tiers,websocket]' --editable './exporters[quickstart]'
	@touch $@
