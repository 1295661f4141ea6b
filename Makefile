# Every target sets up what it needs in .venv: each works as the first command on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
NEWEST := .venv-newest
# The tests' tensors are tiny: a process for each core, of one thread, beats threads.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-oldest test-newest check bench reproduce glue-sst2 glue-mrpc glue-rte clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.done ## Install the package and its tools into .venv

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup ## Run the whole method offline on a small pretrained BERT (a few minutes)
	HF_HUB_OFFLINE=1 $(BIN)/hf-worm demo

test: setup ## Run the tests, offline
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

test-oldest: $(OLDEST)/.done ## Run the tests, offline, on the oldest versions that pyproject.toml admits
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(PARALLEL)

$(OLDEST)/.done: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --upgrade pip
	$(OLDEST)/bin/pip install --quiet --constraint tests/oldest.txt --editable ".[test]" peft
	@touch $@

# No stamp: what is newest changes. PIP_EXTRA_INDEX_URL or PIP_CONSTRAINT choose a build of torch without CUDA (ci.yml).
test-newest: ## Run the tests, offline, on the newest versions that pyproject.toml admits (TRANSFORMERS=git+URL)
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade pip
	$(NEWEST)/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test,trainers]"
	$(if $(TRANSFORMERS),$(NEWEST)/bin/pip install --quiet --upgrade "$(TRANSFORMERS)")
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest $(PARALLEL)

check: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict hf_worm

bench: setup ## Measure speed: ratios within one run, into benchmarks/results
	$(BIN)/python benchmarks/speed/overhead.py
	$(BIN)/python benchmarks/speed/data_pipeline.py
	$(BIN)/python benchmarks/speed/compact.py
	$(BIN)/python benchmarks/speed/faster.py

glue-sst2: setup ## The paper's settings on SST-2: EB Train and WORM (MODEL=, DATASET=, SEEDS=, OUTPUT=)
glue-mrpc: setup ## The same on MRPC
glue-rte: setup ## The same on RTE
glue-sst2 glue-mrpc glue-rte:
	PYTHON=$(abspath $(BIN))/python sh glue_scripts/$(@:glue-%=%).sh

reproduce: setup ## The paper's tables and figures and the baselines, small (SCALE=full DATA=FOLDER, ARGS=)
	$(BIN)/python benchmarks/accuracy/reproduce.py --scale $(or $(SCALE),small) $(if $(DATA),--data $(DATA)) $(ARGS)
	$(BIN)/python benchmarks/accuracy/truncation.py $(if $(DATA),--data $(DATA))

clean: ## Remove the virtual environments and what tools left behind
	rm -rf $(VENV) $(OLDEST) $(NEWEST) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
