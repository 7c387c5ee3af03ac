# make demo   train, evaluate and simulate a silicon potential (10 minutes on two cores)
# make test   every test, the slow ones too (on two workers)
# make check  format, lint, types, layers
# make bench  speed against other programs (installs them apart)
#
# Each makes a virtual environment in .venv if there is none. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
export PYTHONUNBUFFERED := 1

.PHONY: demo test check bench install clean

demo: $(VENV)/.installed
	$(BIN)/python experiments/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --max-worker-restart=0 -m "not gpu" --durations=15

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	. $(BIN)/activate && pyright
	$(BIN)/python -m pytest -q tests/test_layers.py

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/equivariant.py nequip

install: $(VENV)/.installed

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "error: no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps torch-dftd  # tables, no torch
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
