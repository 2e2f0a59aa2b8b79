# The verbs that people and CI share. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR)

# Through the environment, so that no quote in a prompt can break the command line.
export PROMPT MODEL IMAGE SEED
DEMO_ARGS = $(if $(PROMPT),--prompt "$$PROMPT") $(if $(MODEL),--model "$$MODEL") \
            $(if $(IMAGE),--image "$$IMAGE") $(if $(SEED),--seed "$$SEED")

# pip compiles on one core, compileall on all of them. What it skips is seldom imported, and compiled when it is; it fails
# on the few files that are for newer Pythons only.
SELDOM := /(tests|testing|transformers/models|diffusers/pipelines|_inductor)/
define install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r $(1)
	$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' $(VENV)/lib || true
endef

.PHONY: help
help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.PHONY: setup
setup: $(VENV)/.installed ## build .venv from requirements.lock

$(VENV)/.installed: requirements.lock
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip  # half the time of the one in Python 3.11
	$(call install,requirements.lock)
	touch $@

.PHONY: setup-dev
setup-dev: $(VENV)/.installed-dev ## setup, and the developer's tools

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(call install,requirements-dev.lock)
	touch $@

.PHONY: demo
demo: setup ## one real video: make demo PROMPT="a blue square moves up on a white background", or MODEL=svd-tiny IMAGE=x.png
	@$(BIN)/python -m cli demo $(DEMO_ARGS)

.PHONY: serve
serve: setup ## the service in the foreground on http://127.0.0.1:8000
	@exec $(BIN)/python -m cli serve

.PHONY: check
check: setup-dev ## ruff, mypy --strict and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: fix
fix: setup-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test
test: setup-dev ## the tests that every change has to pass, without a GPU (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not long"

.PHONY: test-long
test-long: setup-dev ## the rest: more kills, faults, databases and scaling
	$(BIN)/python -m pytest -m long

.PHONY: eval-tiny
eval-tiny: setup ## judge the demo models on prompts and pictures they never saw
	$(BIN)/python -m training evaluate

.PHONY: train-tiny
train-tiny: setup ## train a demo model from scratch: MODEL=ltx-tiny or svd-tiny (under 2 hours on 2 cores)
	$(BIN)/python -m training train $(or $(MODEL),ltx-tiny) --out out/$(or $(MODEL),ltx-tiny)

.PHONY: fidelity
fidelity: setup ## compare every family with diffusers, bit for bit
	@$(BIN)/python -m benchmarks.fidelity

.PHONY: bench-overhead
bench-overhead: setup ## the service against diffusers in one process
	$(BIN)/python -m benchmarks.overhead

.PHONY: bench-gpu
bench-gpu: setup ## every stage at its real size on this machine's GPU, against diffusers; MODELS="ID ..." for some, OUT=configs/gpus/NAME.yaml keeps it
	$(BIN)/python -m benchmarks.gpu $(or $(OUT),-) $(MODELS)

.PHONY: bench-load
bench-load: setup ## how many requests the API takes and what it does with more, on SQLite and PostgreSQL; KINDS=sqlite for one
	@$(BIN)/python -m benchmarks.load $(KINDS)

.PHONY: bench-weights
bench-weights: setup ## load and run a text encoder of the real size on this CPU, in bfloat16 and from GGUF (20 minutes, 20 GB of disk)
	@$(BIN)/python -m benchmarks.weights

.PHONY: bench-jobs
bench-jobs: setup ## what a long history costs the job store, on SQLite and PostgreSQL
	@$(BIN)/python -m benchmarks.jobs

.PHONY: bench-storage
bench-storage: setup-dev ## the bucket store against boto3 alone, on a server of its own
	@$(BIN)/python -m benchmarks.storage_throughput

.PHONY: storage-faults
storage-faults: setup-dev ## spoil the way to the bucket in every way, and count what was lost
	@$(BIN)/python -m benchmarks.storage_faults

.PHONY: chaos
chaos: setup ## kill everything in turn and count what was lost
	@$(BIN)/python -m benchmarks.chaos

.PHONY: chaos-short
chaos-short: setup-dev ## two kills, as a test
	$(BIN)/python -m pytest tests/chaos

.PHONY: bench-scale
bench-scale: setup ## how the service scales, on simulated GPUs; ROWS="burst storm" for some of it
	@$(BIN)/python -m benchmarks.scale $(ROWS)

.PHONY: bench-conductor
bench-conductor: setup ## the CPU time that a conductor spends on a job, against an earlier version; ARGS="--denoisers 32 --rounds 2"
	@$(BIN)/python -m benchmarks.conductor $(ARGS)

.PHONY: modules
modules: setup-dev ## draw the folders and their imports into docs/architecture.md
	@$(BIN)/python scripts/draw_modules.py

.PHONY: openapi
openapi: setup-dev ## write docs/openapi.json, which a test compares with the code
	@$(BIN)/python -m scripts.write_openapi

.PHONY: accepted
accepted: setup-dev ## replay what people send against a running service: pictures, requests, files
	@$(BIN)/python -m benchmarks.accepted $(ARGS)

.PHONY: test-clusters
test-clusters: setup-dev ## clusters that `ray up` starts over ssh, and a node that drains; as root
	KINORAY_TEST_CLUSTERS=1 $(BIN)/python -m pytest tests/deploy/test_ray_up.py tests/deploy/test_drain.py

.PHONY: lock
lock: ## compile requirements.lock and requirements-dev.lock anew
	scripts/lock
