# Every command sets up what it needs; `make` alone lists them.
PYTHON ?= python3
PROFILE ?= default
MATRIX ?= matrices/embedded.yaml
SET ?=
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
BIN := .venv/bin
COMPILE := cd requirements && ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11

# Nothing leaves this machine; tasks/privacy.py has the whole list.
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup data run matrix test lint ui repro lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## make .venv from the pins (DEVICE=cpu|gpu; otherwise a GPU is looked for)
	@$(PYTHON) scripts/setup.py

data: setup ## fetch the data version that data.dvc names
	@$(BIN)/dvc status --quiet data.dvc || $(BIN)/dvc pull data.dvc

run: data ## run the whole pipeline (PROFILE=name of a file of profiles/, SET="section.key=value ...")
	@$(BIN)/python -m flows.pipeline --profile $(PROFILE) $(if $(SET),--set $(SET))

repro: data ## the same work through DVC alone, without Prefect
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

matrix: data ## compare supervision sources: every cell of a matrix file, and a report (MATRIX=file.yaml)
	@$(BIN)/python -m flows.run_matrix $(MATRIX)

test: data ## run the tests
	@$(BIN)/python -m pytest

lint: setup ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ui: setup ## Prefect and MLflow in the browser, and a deployment to start runs from; Ctrl-C ends all
	@$(BIN)/python -m flows.ui --prefect-port $(PREFECT_PORT) --mlflow-port $(MLFLOW_PORT)

lock: setup ## pin again: requirements/*.in to requirements/*.txt
	@$(COMPILE) cpu.in --overrides cpu.overrides --excludes cpu.excludes -o cpu.txt
	@$(COMPILE) gpu.in --excludes gpu.excludes -o gpu.txt

clean: ## remove resume journals, worktrees of runs and tool caches; results, DVC's cache and MLflow's ledger stay
	@rm -rf .work .runs .pytest_cache .mypy_cache .ruff_cache dvc_plots
	@git worktree prune
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
