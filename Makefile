# Every command sets up what it needs; `make` lists them.
PYTHON ?= python3
PROFILE ?=
REVIEWER ?=
REVIEW_PORT ?=
ITEM ?=
RUN ?=
LABEL_PORT ?=
MATRIX ?= matrices/embedded.yaml
SET ?=
CORPUS ?=
EVALUATION ?=
NAME ?=
TASK ?=
TEMPLATES ?= local/templates
SOURCES ?=
BONITO_PARAMS ?= bonito/params.yaml
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
RUNS ?= 1
TRIALS ?= 100
JOBS ?= 1
BENCH ?=
SHAPE ?=
ROUNDS ?= 5
RECORD ?=
MINUTES ?=
FAULT ?=
MODEL ?=
SERVE_PORT ?= 8000
QUESTION ?=
ASK_PORT ?=
OUT ?=
REPO ?=
YES ?=
ADVISORIES ?=
DAYS ?= 30
BIN := .venv/bin
# The files of a run that DVC compares: a few KB in the repository (docs/operations.md, "dvc.lock").
FIGURES := artifacts/evaluate/metrics.json artifacts/evaluate/f1.csv \
  artifacts/validate/metrics.json artifacts/verify/metrics.json artifacts/finetune/loss.csv
COMPILE := cd requirements && ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11

# Nothing leaves this machine; tasks/core/privacy.py has the whole list.
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
# Not /var/tmp/dvc, which every user can write to.
BONITO_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bonito-pipeline
export DVC_SITE_CACHE_DIR ?= $(if $(filter /%,$(BONITO_CACHE)),,$(CURDIR)/)$(BONITO_CACHE)/dvc
# Values reach programs through the environment, never in the text of a command: the shell would run
# what a folder's name holds in backquotes. Make itself would run $(shell ...) in one, but for this.
VALUES := PROFILE MATRIX SET CORPUS EVALUATION NAME TASK ITEM RUN REVIEWER REVIEW_PORT LABEL_PORT \
  TEMPLATES SOURCES BONITO_PARAMS PREFECT_PORT MLFLOW_PORT RUNS TRIALS JOBS MINUTES FAULT \
  BENCH SHAPE ROUNDS RECORD SIZE MODEL SERVE_PORT QUESTION ASK_PORT OUT REPO YES ADVISORIES \
  GPU_MEMORY DAYS
$(foreach name,$(VALUES),$(eval override $(name) := $$(value $(name))))
export $(VALUES)
# A misspelt variable would be ignored, and `make run PROFIL=mine` run the shipped example.
OTHERS := PYTHON BIN DEVICE SLOW TEAM BONITO_CACHE DVC_SITE_CACHE_DIR SHELL MAKE%
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(VALUES) $(OTHERS),$(GIVEN)),$(error unknown variable $(name): \
  `make` lists those of each command. One for the environment goes before make: $(name)=... make))

.DEFAULT_GOAL := help
.PHONY: browser gpu-check help setup data publish run follow runs start plan review label why \
  ask export push ingest matrix test lint ui serve soak soak-eye bench repair audit repro \
  doctor annotated bonito answering schemas pictures lock prune clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 11

setup: ## make .venv from the pins (DEVICE=cpu|gpu; default: gpu where there is one)
	@$(PYTHON) scripts/setup.py

# The figures are missing where dvc.lock was committed without `make publish`.
# DVC's status is 1 where they differ, and another where it cannot look: another run has its lock.
data: setup ## fetch the data of data.dvc and the figures of dvc.lock
	@$(BIN)/dvc status --quiet data.dvc \
	  || { test $$? -ne 1 && test -d data && echo "data/ stays as it is: DVC cannot compare it with data.dvc now, as while another run starts. $(BIN)/dvc status data.dvc says why"; } \
	  || { $(BIN)/dvc pull --quiet data.dvc 2>/dev/null && { $(BIN)/dvc fetch --quiet -r datastore $(FIGURES) 2>/dev/null || true; }; } \
	  || { test -d data && echo "data/ differs from data.dvc, and stays: files of your own belong into local/. $(BIN)/dvc add data records what is there, $(BIN)/dvc checkout data.dvc undoes it and asks before it removes a file"; } \
	  || $(BIN)/dvc pull data.dvc

run: data ## run the whole pipeline (PROFILE=name[,name], SET="section.key=value ...")
	@$(BIN)/python -m flows.pipeline $${PROFILE:+--profile="$$PROFILE"} --settings="$$SET"

follow: data ## one look at the corpus: run the pipeline if files or settings changed (PROFILE, SET)
	@$(BIN)/python -m flows.follow_once $${PROFILE:+--profile="$$PROFILE"} --settings="$$SET"

start: setup ## from a folder to a profile: CORPUS=folder NAME=name (EVALUATION=items, MODEL, TASK, SET)
	@$(BIN)/python scripts/start.py

plan: data ## what a run will give and cost, from a trial on some passages (PROFILE, SET)
	@$(BIN)/python scripts/plan.py $${PROFILE:+--profile="$$PROFILE"} --settings="$$SET"

ingest: setup ## only ingest: CORPUS=folder into passages (EVALUATION=items, PROFILE, SET)
	@$(BIN)/python scripts/ingest.py --corpus="$$CORPUS" --evaluation="$$EVALUATION" --profile="$$PROFILE" --settings="$$SET"

publish: setup ## push the last run's figures; then commit dvc.lock and datastore/
	@test -z "$$PROFILE$$SET" || { echo "error: make publish knows the run of params.yaml alone: dvc.lock has no other" >&2; exit 2; }
	@$(BIN)/dvc push -r datastore $(FIGURES)
	@git status --short dvc.lock datastore

repro: data ## the same work through DVC alone, without Prefect
	@test -z "$$PROFILE$$SET" || { echo "error: make repro runs params.yaml alone: make run PROFILE=... SET=..." >&2; exit 2; }
	@$(BIN)/python -m tasks.tracking.champion_start
	@PATH="$$PWD/$(BIN):$$PATH" dvc repro

runs: setup ## every run: rows, F1 with its interval, start, gain, date
	@$(BIN)/python -m flows.runs.table

matrix: data ## compare supervision sources: a matrix file and its report (MATRIX=file.yaml)
	@test -z "$$PROFILE$$SET" || { echo "error: make matrix takes its settings from the matrix file alone: MATRIX=file.yaml" >&2; exit 2; }
	@$(BIN)/python -m flows.matrix -- "$$MATRIX"

# A file of tests stays in one process: its tests share what is costly. The files go out in the order
# of tests/conftest.py, the longest first. Two processes whose threads wait for each other would take
# longer than one: one thread each.
test: data ## run the tests (SLOW=1: only those that take minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(if $(SLOW),-m slow,--numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder)

browser: data ## test the pages in headless Chromium; screenshots in artifacts/browser
	@$(BIN)/python -m pytest -m browser tests/flows/test_browser.py tests/review/test_browser.py tests/review/test_why.py tests/evaluate/test_report.py tests/test_report_pages.py

pictures: setup ## take README's pictures, after `make run`, with Chromium: docs/pictures
	@$(BIN)/python scripts/pictures.py

lint: setup ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ui: setup ## Prefect, MLflow and a worker in the browser (RUNS=n at once, TEAM=1: passwords, PREFECT_PORT, MLFLOW_PORT)
	@$(BIN)/python -m flows.ui --prefect-port="$$PREFECT_PORT" --mlflow-port="$$MLFLOW_PORT" --runs="$$RUNS" $(if $(TEAM),--team)

review: data ## judge 100 of the rows that the last run kept, in the browser (PROFILE, SET, REVIEWER=name, REVIEW_PORT)
	@$(BIN)/python -m flows.review.rows --profile "$$PROFILE" --settings="$$SET" --port "$${REVIEW_PORT:-4300}"

label: data ## make labelled items of held-out passages in the browser (PROFILE, SET, REVIEWER=name, LABEL_PORT)
	@$(BIN)/python -m flows.review.label --profile "$$PROFILE" --settings="$$SET" --port "$${LABEL_PORT:-4301}"

why: setup ## explain the answers to one item: the nearest training rows and their places (ITEM=id; PROFILE, SET, or RUN of the page)
	@$(BIN)/python -m flows.review.why --profile "$$PROFILE" --settings="$$SET" --run="$$RUN" --item="$$ITEM"

ask: setup ## ask the last run's model about its passages (QUESTION='...', else a page; PROFILE, SET, MODEL, ASK_PORT)
	@$(BIN)/python -m flows.review.ask --profile "$$PROFILE" --settings="$$SET" --model="$$MODEL" --port "$${ASK_PORT:-4302}"

export: setup ## write a registered model as safetensors and GGUF, for Ollama and llama.cpp (MODEL=models:/NAME@champion, OUT=folder)
	@$(BIN)/python -m tasks.release.export --model="$$MODEL" --out="$$OUT"

push: setup ## show what would go to the hub; YES=1 sends adapter and card (MODEL, REPO=owner/name)
	@$(BIN)/python -m tasks.release.push --model="$$MODEL" --repo="$$REPO" --yes="$$YES"

serve: setup ## serve a model on loopback (MODEL=models:/NAME@champion, SERVE_PORT=n, GPU_MEMORY=n)
	@exec $(BIN)/python -m tasks.serve --model="$$MODEL" --port="$$SERVE_PORT" \
	  $${GPU_MEMORY:+--gpu-memory="$$GPU_MEMORY"}

soak: setup ## try every fault TRIALS times, for hours, in JOBS processes; resumable (MINUTES=n, FAULT=name)
	@$(BIN)/python -m tests.faults --trials="$$TRIALS" --jobs="$$JOBS" \
	  $${MINUTES:+--minutes="$$MINUTES"} --only="$$FAULT"

soak-eye: data ## plant faults in a copy of the code: the tests have to see them (FAULT=name)
	@$(BIN)/python -m tests.faults.planted --only="$$FAULT"

bench: data ## compare with other packages: artifacts/bench (BENCH=name[,name], ROUNDS=n, MODEL, RECORD=1, SIZE=quick|whole)
	@$(BIN)/python -m benchmarks --rounds="$$ROUNDS" --only="$$BENCH" $${MODEL:+--model="$$MODEL"} \
	  $${RECORD:+--record} $${SIZE:+--size="$$SIZE"}

gpu-check: data ## on an NVIDIA GPU: train, score, generate, serve a random 7B model, 45 GB of disk (SHAPE=tiny: CPU)
	@$(BIN)/python -m benchmarks.gpu_check $${SHAPE:+--shape="$$SHAPE"}

repair: setup ## find and remove damaged objects in DVC's cache
	@$(BIN)/python -m flows.runs.repair

audit: setup ## check code and pins: by the network, or ADVISORIES=OSV's all.zip (RECORD=1 keeps it)
	@$(BIN)/ruff check --select S flows tasks bonito scripts
	@$(BIN)/python scripts/audit.py

doctor: setup ## diagnose every prompt template: artifacts/doctor (TEMPLATES=folder, SOURCES, BONITO_PARAMS)
	@test "$$TEMPLATES" != local/templates || test -d local/templates || $(BIN)/python -m bonito.templating.fetch_templates --out local/templates
	@$(BIN)/python -m bonito.doctor --templates="$$TEMPLATES" $${SOURCES:+--sources="$$SOURCES"} --params="$$BONITO_PARAMS" --out artifacts/doctor

annotated: setup
	@test -f local/sources.yaml || { echo "error: bonito: local/sources.yaml, which names the annotated datasets, is missing: see docs/generator.md" >&2; exit 2; }
	@test -d local/templates || $(BIN)/python -m bonito.templating.fetch_templates --out local/templates

bonito: annotated ## train the generator: bonito/artifacts (PROFILE=embedded|mistral-7b|llama-3.1-8b)
	@$(BIN)/python -m bonito.settings --profile=$(if $(filter-out default,$(PROFILE)),"$$PROFILE",embedded) --settings="$$SET"
	@PATH="$$PWD/$(BIN):$$PATH" dvc repro bonito/dvc.yaml:evaluate

# Its remix has shorter passages and more rows than the generator's.
answering: annotated ## train the answering model: bonito/artifacts/train_answering (SET: of the remix)
	@test -z "$$PROFILE" || { echo "error: make answering takes no PROFILE: the model and its training are in bonito/answering/params.yaml" >&2; exit 2; }
	@$(BIN)/python -m bonito.settings --profile=embedded --only=remix --set remix.max_context_chars=1100 remix.max_rows_per_dataset=9000 --settings="$$SET"
	@PATH="$$PWD/$(BIN):$$PATH" dvc repro bonito/dvc.yaml:train_answering

schemas: setup ## write the JSON schemas of params, profiles, datasets and matrices: schemas/
	@$(BIN)/python scripts/schemas.py

lock: setup ## pin again after a change of requirements/*.in: what still fits keeps its version
	@$(COMPILE) cpu.in --overrides cpu.overrides --excludes cpu.excludes -o cpu.txt
	@$(COMPILE) gpu.in --excludes gpu.excludes -o gpu.txt

prune: setup ## list what was not used in .runs/ for DAYS=30 days; YES=1 removes what nothing needs
	@$(BIN)/python -m flows.runs.prune --days="$$DAYS" --yes="$$YES"

clean: ## remove work files, tool caches and .runs/: make run PROFILE=... brings a run back from DVC's cache
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m flows.runs.clean
	@git worktree prune
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
