# Needs Python 3.11 or newer and make. Everything else goes into .venv, which any target sets up when it is missing
# or when the dependencies have changed. PYTHON=... chooses the interpreter that .venv is made with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test lint types bench clean

# The guest that `make run` shows exit by exit; one of `harness list`.
SHOWN ?= clts

help: ## say what the targets do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the harness and its tools in it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "harness needs Python 3.11 or newer; say PYTHON=... to choose one" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	$(BIN)/python -m compileall -q harness
	@touch $@

run: $(READY) ## run every guest kernel, then show one of them exit by exit
	$(BIN)/harness run --all
	@echo
	$(BIN)/harness run $(SHOWN) --trace

# Policy is measured by its own tests alone: tracing every guest as well would take twice as long.
test: lint types ## lint, import rules, types, all tests, branch coverage of pv and code
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n auto tests/pv tests/code
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest -n auto --ignore=tests/pv --ignore=tests/code

lint: $(READY) ## ruff and the import rules between rooms
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## measure what a trap costs against bare loops
	$(BIN)/harness bench

clean: ## remove what can be made again, .venv too
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
