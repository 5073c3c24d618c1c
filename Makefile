# make help tells what there is.
.DEFAULT_GOAL := help
.PHONY: help setup run test unit lint up down clean

PYTHON ?= python3.11
VENV := .venv
STATE := $(CURDIR)/.state

# Everything that would otherwise land in a home folder stays in the checkout.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PREFECT_HOME := $(STATE)/prefect
export DVC_SITE_CACHE_DIR := $(STATE)/dvc-site
export DVC_GLOBAL_CONFIG_DIR := $(STATE)/dvc-config
export DVC_SYSTEM_CONFIG_DIR := $(STATE)/dvc-config
export DVC_NO_ANALYTICS := 1
export MLFLOW_TRACKING_URI := sqlite:///$(STATE)/mlflow/mlflow.db
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export XDG_CACHE_HOME := $(STATE)/cache
export XDG_CONFIG_HOME := $(STATE)/config
export MPLCONFIGDIR := $(STATE)/cache/matplotlib

# A file's tests share a process and what it has built, and files start in the order that tests/conftest.py gives.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder

# An activated shell gets the same.
KEPT_HERE := PREFECT_HOME DVC_SITE_CACHE_DIR DVC_GLOBAL_CONFIG_DIR DVC_SYSTEM_CONFIG_DIR DVC_NO_ANALYTICS \
	MLFLOW_TRACKING_URI MLFLOW_DISABLE_TELEMETRY DO_NOT_TRACK MPLCONFIGDIR

help:  ## Tell what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

setup: $(VENV)/.ready  ## Build the environment in .venv (needs python3.11)

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; install Python 3.11 or name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Building the environment in $(VENV) (about two minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --no-cache-dir --constraint constraints.txt --editable ".[dev]"
	@mkdir -p $(PREFECT_HOME)
	@for name in $(KEPT_HERE); do printf 'export %s="%s"\n' "$$name" "$$(printenv $$name)"; done >> $(VENV)/bin/activate
	@$(VENV)/bin/python -m tasks.environment
	@touch $@

# DATA and PROFILE are optional: make run PROFILE=chest_xray DATA=/path/to/folder
run: setup  ## Run the whole pipeline (PROFILE=name and DATA=folder for your own images)
	@python -m flows.pipeline $(if $(PROFILE),--profile $(PROFILE)) $(if $(DATA),--data "$(DATA)")

test: setup lint  ## Lint, type-check and pass all tests
	@python -m pytest $(SIDE_BY_SIDE) -n 3

unit: setup  ## Only the quick tests (about a minute)
	@python -m pytest $(SIDE_BY_SIDE) -n 2 -m "not system"

lint: setup
	@ruff check . && ruff format --check . && mypy

up: setup  ## Start Prefect server, worker, MLflow UI and the diagnosis service
	@python -m tasks.services up

down: setup  ## Stop them; running requests of the diagnosis service finish
	@python -m tasks.services down

clean:  ## Remove data, models and results of the pipeline (keeps .state: ledgers, registry)
	@rm -rf data models results
