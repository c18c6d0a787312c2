# `make app` and `make test` are all that a fresh machine with Python needs; the rest is for convenience.
# Options are handed on: make app ARGS="--port 8080", make test ARGS="-k maps".

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Files of tests that run at a time; most of the tests keep one core busy.
JOBS ?= 2

# TensorFlow has wheels for these; Debian has Python without ensurepip, which makes no environment.
SUITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUITS)' 2>/dev/null && echo $$p && break; done)

.PHONY: help app test lint docs backends bench clean

help:
	@echo "make app       start the app; installs it first if need be"
	@echo "make test      lint, types and all tests"
	@echo "make lint      lint and types alone"
	@echo "make docs      build the documentation into site/"
	@echo "make backends  install JAX and torch, so that the tests compare them with TensorFlow"
	@echo "make bench     time the forward pass and the app"
	@echo "make clean     remove what these have made, .venv included"

app: $(VENV)/.app
	@exec $(BIN)/cait-viz app $(ARGS)

# A process of tests that dies ends the run: with a new one in its place it would wait for ever. In the files' own
# order the last ones are short, so that all processes end together.
test: lint
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests build it too, with no network. The setting silences Material's advertisement of its successor.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

# For the tests that compare Keras' backends; they are skipped where this has not been done.
backends: $(VENV)/.backends

$(VENV)/.backends: requirements-backends.txt $(VENV)/.dev
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-backends.txt
	@touch $@

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) build dist site .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The files .app and .dev say that the environment holds what the requirements ask, so that pip is not
# asked again. --editable: the command `cait-viz`, running the files of this folder.
$(VENV)/.app: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-dev.txt
	@touch $@

$(VENV)/bin/pip:
	@$(or $(PYTHON),false) -c '$(SUITS)' || { \
		echo "cait-viz needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian: apt install" \
		"python3-venv); name another with: make app PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
