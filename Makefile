# Everything runs in a virtual environment of the project's own; `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

LOWEST := $(VENV)-lowest

.PHONY: help install demo test test-slow test-gpu test-lowest lint types format docs wheel benchmark weights table1 cards clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

install: $(STAMP)  ## virtual environment with the package and its development tools

# torch comes first and alone, so that its CPU build is taken where pip offers one and later steps find it in place.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' $(CONSTRAINTS))
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev,benchmarks]'
	@touch $(STAMP)

demo: install  ## simulate recordings, pre-train, fine-tune, evaluate and draw; DATA=DIR uses real recordings, also for the shipped weights
	$(BIN)/clear-hug demo --output-dir demo $(if $(DATA),--data $(DATA))

# One file runs in one process, since its tests share what takes long to make.
test: install  ## the default test suite, one process for each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test-slow: install  ## the tests marked slow
	$(BIN)/python -m pytest -q -m slow

test-gpu: install  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

test-lowest:  ## the default test suite with the lowest versions that pyproject.toml allows; needs uv
	uv pip compile --quiet --resolution lowest-direct --python $(PYTHON) --extra all --extra benchmarks \
		--output-file $(LOWEST).txt pyproject.toml
	$(MAKE) test VENV=$(LOWEST) CONSTRAINTS=$(LOWEST).txt

lint: install  ## style, and spelling where it is American throughout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: install  ## static types
	$(BIN)/mypy

format: install  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install  ## build the documentation into site/; a broken link is an error
	$(BIN)/zensical build --strict --clean

wheel: install  ## build the package into dist/, install it alone in a new environment, and predict there
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python scripts/check_wheel.py dist/*.whl

benchmark: install  ## print and save the speed and accuracy tables
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/beat_detectors.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/preparation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prepare_dataset.py
	$(BIN)/python benchmarks/pretrain_step.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ecg_jepa_speed.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/ecg_paper_speed.py
	$(BIN)/python benchmarks/readme_tables.py

weights: install  ## train again what is in model_cards/, staged in runs/weights: SOURCES=DIR [NAMES="clear-hug-small ..."]; hours
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/weights.sh $(SOURCES) $(NAMES)

table1: install  ## pre-train and test all objectives of the paper's Table 1 at tiny size, in runs/table1: SOURCES=DIR; hours
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/table1.sh $(SOURCES)

cards: install  ## measure what is in model_cards/ again and make its cards anew: SOURCES=DIR [NAMES="clear-hug-small ..."]
	$(BIN)/python scripts/cards.py $(SOURCES) $(NAMES)

clean:  ## remove what the targets made
	rm -rf $(VENV) $(LOWEST) $(LOWEST).txt demo dist site .pytest_cache .mypy_cache .ruff_cache
