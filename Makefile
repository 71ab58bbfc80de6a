# Every command sets up what it needs; `make` alone lists them.
PYTHON ?= python3
PROFILE ?=
MATRIX ?= matrices/embedded.yaml
SET ?=
CORPUS ?=
EVALUATION ?=
TEMPLATES ?= local/templates
SOURCES ?=
BONITO_PARAMS ?=
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
RUNS ?= 1
TRIALS ?= 100
BENCH ?=
ROUNDS ?= 5
BIN := .venv/bin
# What DVC compares of a run. A few KB, kept with the repository: docs/operations.md, "dvc.lock".
FIGURES := artifacts/evaluate/metrics.json artifacts/evaluate/f1.csv artifacts/validate/metrics.json artifacts/finetune/loss.csv
COMPILE := cd requirements && ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11

# Nothing leaves this machine; tasks/core/privacy.py has the whole list.
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
# Not /var/tmp/dvc, which everybody can write to.
BONITO_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bonito-pipeline
export DVC_SITE_CACHE_DIR ?= $(abspath $(BONITO_CACHE))/dvc

.DEFAULT_GOAL := help
.PHONY: browser help setup data publish run runs ingest matrix test lint ui serve soak bench repair audit repro doctor bonito schemas pictures lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## make .venv from the pins (DEVICE=cpu|gpu; otherwise a GPU is looked for)
	@$(PYTHON) scripts/setup.py

# The figures are missing where dvc.lock was committed without `make publish`: then there is nothing to compare with.
data: setup ## fetch the data version that data.dvc names, and the figures that dvc.lock names
	@$(BIN)/dvc status --quiet data.dvc || { $(BIN)/dvc pull data.dvc && { $(BIN)/dvc fetch --quiet $(FIGURES) 2>/dev/null || true; }; }

run: data ## run the whole pipeline (PROFILE=name[,name] of files of profiles/, SET="section.key=value ...")
	@$(BIN)/python -m flows.pipeline $(if $(PROFILE),--profile $(PROFILE)) $(if $(SET),--set $(SET))

ingest: setup ## documents into passages alone: CORPUS=folder (also PROFILE, SET; EVALUATION=items to look for in them)
	@$(BIN)/python scripts/ingest.py --corpus "$(CORPUS)"$(if $(PROFILE), --profile $(PROFILE))$(if $(EVALUATION), --evaluation "$(EVALUATION)")$(if $(SET), --set $(SET))

publish: setup ## keep the last run's figures with the repository: then commit dvc.lock and datastore/
	@$(BIN)/dvc push $(FIGURES)
	@git status --short dvc.lock datastore

repro: data ## the same work through DVC alone, without Prefect
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro

runs: setup ## every run with its F1 and the settings that differ
	@$(BIN)/dvc exp show --no-pager --only-changed --drop '.*/' --keep '^(f1|gain|zero_shot|yield)'

matrix: data ## compare supervision sources: every cell of a matrix file, and a report (MATRIX=file.yaml)
	@$(BIN)/python -m flows.matrix $(MATRIX)

test: data ## run the tests (SLOW=1: those that take minutes, instead)
	@$(BIN)/python -m pytest $(if $(SLOW),-m slow)

browser: data ## the pages in a headless Chromium, which must be installed: a run from the form, F1s compared; pictures in artifacts/browser
	@$(BIN)/python -m pytest -m browser tests/flows/test_browser.py

pictures: browser ## take the pictures of README again: docs/pictures
	@$(BIN)/python scripts/pictures.py

lint: setup ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ui: setup ## Prefect and MLflow in the browser, a worker and the forms to start runs (RUNS=n at once, TEAM=1 with passwords); Ctrl-C ends all
	@$(BIN)/python -m flows.ui --prefect-port $(PREFECT_PORT) --mlflow-port $(MLFLOW_PORT) --runs $(RUNS) $(if $(TEAM),--team)

serve: setup ## serve a registered model over HTTP on loopback (MODEL=models:/NAME@champion, SERVE_PORT=8000)
	@$(BIN)/python -m tasks.serve --model "$(MODEL)" --port $(or $(SERVE_PORT),8000)

soak: setup ## every fault TRIALS times (hours; MINUTES=n stops earlier, FAULT=name tries one): artifacts/soak/results.json. Again: it goes on
	@$(BIN)/python -m tests.faults --trials $(TRIALS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(FAULT),--only "$(FAULT)")

bench: data ## us and the peers side by side: one table of ratios, and artifacts/bench (BENCH=name[,name], ROUNDS=n, MODEL=name or folder)
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS)$(if $(BENCH), --only $(BENCH))$(if $(MODEL), --model $(MODEL))

repair: setup ## remove damaged objects from DVC's cache, and name them
	@$(BIN)/python -m flows.runs.repair

audit: setup ## known vulnerabilities of the pins (asks a public service, so it needs a network), and a static check of the code
	@$(BIN)/ruff check --select S flows tasks bonito scripts
	@$(BIN)/python scripts/audit.py

doctor: setup ## what is the matter with each prompt template (TEMPLATES=folder; without it promptsource's): artifacts/doctor
ifeq ($(TEMPLATES),local/templates)
	@test -d $(TEMPLATES) || $(BIN)/python -m bonito.templating.fetch_templates --out $(TEMPLATES)
endif
	@$(BIN)/python -m bonito.doctor --templates $(TEMPLATES) $(if $(SOURCES),--sources $(SOURCES)) $(if $(BONITO_PARAMS),--params $(BONITO_PARAMS)) --out artifacts/doctor

bonito: setup ## make the generator from local/sources.yaml (PROFILE=embedded|mistral-7b|llama-3.1-8b, SET="section.key=value ..."): bonito/artifacts
	@test -f local/sources.yaml || { echo "error: bonito: local/sources.yaml is missing: it says where the annotated datasets are, see docs/generator.md" >&2; exit 2; }
	@test -d local/templates || $(BIN)/python -m bonito.templating.fetch_templates --out local/templates
	@$(BIN)/python -m bonito.settings --profile $(or $(filter-out default,$(PROFILE)),embedded) $(if $(SET),--set $(SET))
	@PATH="$(CURDIR)/$(BIN):$$PATH" dvc repro bonito/dvc.yaml

schemas: setup ## write the JSON schemas of params, profiles, datasets and matrices again: schemas/
	@$(BIN)/python scripts/schemas.py

lock: setup ## pin again: requirements/*.in to requirements/*.txt
	@$(COMPILE) cpu.in --overrides cpu.overrides --excludes cpu.excludes -o cpu.txt
	@$(COMPILE) gpu.in --excludes gpu.excludes -o gpu.txt

clean: ## remove resume journals, worktrees of runs and tool caches; results, DVC's cache and MLflow's ledger stay
	@rm -rf .work .runs .pytest_cache .mypy_cache .ruff_cache dvc_plots
	@git worktree prune
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
