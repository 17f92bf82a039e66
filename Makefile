# everyuser: `make build-dataset` builds a first dataset, `make test` runs the tests. Both install what they need.

RUNNER ?= local
# The quickstart takes the model that this machine can serve; other machines build it as it is written.
CONFIG ?= $(if $(filter local,$(RUNNER)),quickstart,configs/quickstart.yaml)
MODEL ?=
OUTPUT ?= out/$(basename $(notdir $(CONFIG)))
BEAM_OPTIONS ?=
SHOW ?= 3
TEST_WORKERS ?= 4

PYTHON ?= python3

# The engine that .venv was set up with, if it was.
INSTALLED := $(patsubst .%-installed,%,$(notdir $(firstword $(wildcard $(or $(VENV),.venv)/.*-installed))))
# A replay needs no engine: it takes what is there.
ifeq ($(MAKECMDGOALS),demo)
ENGINE ?= $(or $(INSTALLED),none)
endif
# vLLM for CUDA where a GPU answers, vLLM's CPU build on other Linux x86-64 machines, none elsewhere.
ENGINE ?= $(shell if nvidia-smi >/dev/null 2>&1; then echo cuda; \
	elif [ "$$(uname -sm)" = "Linux x86_64" ]; then echo cpu; else echo none; fi)
# Without an engine, a .venv that has one is left as it is.
VENV ?= $(if $(and $(filter none,$(ENGINE)),$(filter cpu cuda,$(INSTALLED))),.venv-none,.venv)
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
LOCK := locks/$(ENGINE).txt
STAMP := $(VENV)/.$(ENGINE)-installed

# Most runs need none of these: Dataflow and gs://, s3://, tests and lint. What asks for one has it added to .venv.
EXTRAS ?=
reason.gcp := Dataflow and gs:// need
reason.s3 := s3:// needs
reason.dev := tests and lint need
with = $(STAMP) $(foreach extra,$(sort $(1) $(EXTRAS)),$(VENV)/.with-$(extra))
# Comments of a configuration may name buckets too.
addresses = $(CONFIG) $(OUTPUT) $(MODEL) $(BEAM_OPTIONS) $(shell sed 's/\#.*//' '$(CONFIG)' 2>/dev/null | grep -o '[a-z0-9]*://')
asked = $(if $(filter dataflow,$(RUNNER))$(findstring gs://,$(addresses))$(findstring gcs://,$(addresses)),gcp) \
	$(if $(findstring s3://,$(addresses))$(findstring s3a://,$(addresses)),s3)

# uv does not read pip's settings, so they are passed on.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
export UV_NATIVE_TLS ?= 1
export UV_LINK_MODE ?= copy

# Without bytecode on disk each process compiles its imports again: 3 s for Beam, in each of hundreds of test processes.
unexport PYTHONDONTWRITEBYTECODE

# Runs a command and shows its output only if it fails.
quietly = { out=$$($(1) 2>&1) || { echo "$$out"; exit 1; }; }

runner.local :=
runner.dataflow := --runner=DataflowRunner
runner.flink := --runner=FlinkRunner

.PHONY: help setup build-dataset demo record-demo test test-fast lint format lock clean
help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 24
	@echo "  CONFIG=FILE MODEL=NAME|FOLDER OUTPUT=DIR|gs://...|s3://... RUNNER=local|dataflow|flink BEAM_OPTIONS='...' choose what is built, by which model, where and how"

setup: $(call with) ## Create .venv and install what every run needs, from the lock, and EXTRAS (gcp, s3, dev)

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "error: Python 3.11 to 3.14 is needed; name one: make PYTHON=python3.13 ..."; exit 1; }
	@echo "setting up $(VENV) (engine: $(ENGINE)); the first time this downloads packages"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
		{ echo "error: 'python -m venv' failed; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@test -x $(UV) || $(call quietly,$(PY) -m pip install --disable-pip-version-check uv==0.13.9)
	@grep -v '^torch==' $(LOCK) > $(VENV)/lock-without-torch.txt
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet $(VENV)/lock-without-torch.txt
	@$(MAKE) --no-print-directory torch-$(ENGINE)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@# Compiles what a run imports, which the first build would wait for; all packages would take a minute and more.
	@$(call quietly,$(PY) -c 'import pipeline.dag')
	@rm -f $(VENV)/.*-installed $(VENV)/.with-*
	@touch $@

$(VENV)/.with-%: locks/$(ENGINE)-%.txt $(STAMP)
	@echo "adding $$(grep -c == $<) packages to $(VENV), which $(reason.$*) (EXTRAS=$*)"
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --requirement $<
	@touch $@

# PyTorch's CPU build is not on the common index: first from its own, then wherever this machine's pip finds one.
.PHONY: torch-cpu torch-cuda torch-none
torch-none:
	@:
torch-cpu:
	@torch=$$(grep '^torch==' $(LOCK)); \
		VIRTUAL_ENV=$(VENV) UV_HTTP_RETRIES=0 $(UV) pip install --quiet --no-deps --torch-backend=cpu $$torch 2>/dev/null || \
		$(call quietly,$(PY) -m pip install --disable-pip-version-check $$torch)
torch-cuda:
	@torch=$$(grep '^torch==' $(LOCK)); VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps $$torch

# Checked first, so that a wrong name fails before minutes of set-up and never means the local runner.
ifeq ($(filter $(RUNNER),local dataflow flink),)
$(error RUNNER is '$(RUNNER)'; the runners are local, dataflow and flink)
endif
ifeq ($(filter $(ENGINE),cuda cpu none),)
$(error ENGINE is '$(ENGINE)'; the engines are cuda, cpu and none)
endif
ifneq ($(filter-out gcp s3 dev,$(EXTRAS)),)
$(error EXTRAS is '$(EXTRAS)'; the extras are gcp, s3 and dev)
endif
ifneq ($(filter build-dataset,$(MAKECMDGOALS)),)
ifeq ($(findstring ://,$(CONFIG))$(filter quickstart,$(CONFIG))$(shell test -f '$(CONFIG)' && echo yes),)
$(error CONFIG is '$(CONFIG)': no such file; try CONFIG=configs/quickstart.yaml)
endif
endif

# A folder is named from here, not from the configuration's folder.
model := $(if $(wildcard $(MODEL)/config.json),$(abspath $(MODEL)),$(MODEL))
set_model := $(if $(MODEL),--set 'generation.model=$(model)')

build-dataset: $(call with,$(asked)) ## Build CONFIG into OUTPUT (default: the quickstart, by a packaged model; no GPU and no account)
	@$(VENV)/bin/everyuser build '$(CONFIG)' --output '$(OUTPUT)' $(set_model) -- $(runner.$(RUNNER)) $(BEAM_OPTIONS)
	@$(VENV)/bin/everyuser inspect '$(OUTPUT)' --count $(SHOW)

REPLAY := --set 'engine={kind: replay, journal: packaged}'
demo: OUTPUT := out/demo
demo: $(STAMP) ## Replay the recorded quickstart into out/demo: 128 examples on any machine, without vLLM and PyTorch
	@$(VENV)/bin/everyuser build quickstart --output '$(OUTPUT)' $(REPLAY)
	@$(VENV)/bin/everyuser inspect '$(OUTPUT)' --count $(SHOW)

RECORDING := --set generation.model=packaged:qwen2.5-coder-1.5b-instruct --set pairs=64
record-demo: $(STAMP) ## Build the quickstart with the larger packaged model (10 to 20 minutes), and record its replies
	@$(VENV)/bin/everyuser build quickstart --output out/recording $(RECORDING)
	@$(PY) -m pipeline.generation.recording out/recording
	@rm -rf out/recording

test: $(call with,dev gcp s3) ## Run all tests, those with the real model too
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(call with,dev gcp s3) ## Run the tests that start no processes and few builds
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile -m "not long and not slow"

lint: $(call with,dev) ## Lint, format check, direction of imports, and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/lint-imports --no-logo
	@$(VENV)/bin/mypy

format: $(call with,dev) ## Format the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

lock: $(STAMP) ## Resolve the locks again
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) locks/resolve.py none cpu cuda

clean: ## Delete .venv and caches (out/ stays)
	@rm -rf $(VENV) .venv-none .mypy_cache .ruff_cache .pytest_cache *.egg-info
