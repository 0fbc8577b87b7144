# `make demo` and `make test` need Python 3.11+, make and a network for pip; each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find queryopt train export runtime bench -name '*.py' -o -name 'py.typed' -o -name '*.html' -o -name '*.css')
DEMO := demo

.PHONY: setup demo test lint types unit format clean clean-demo
.DELETE_ON_ERROR:

setup: $(VENV)/.package

$(VENV)/.dependencies: pyproject.toml
	@echo "== setup: $(VENV) and what pyproject.toml asks for (PyTorch is large: a minute or more)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "queryopt needs Python 3.11 or newer; say which with: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet '.[cpu,train,parquet,dev]'
	@touch $@

# A real install, not an editable one: what is tested is what users get.
$(VENV)/.package: $(VENV)/.dependencies $(SOURCES) pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	@touch $@

test: lint types unit

lint: setup
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@echo "== types"
	@cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p queryopt

unit: setup
	@echo "== tests"
	@$(BIN)/pytest

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean-demo:
	rm -rf $(DEMO)

clean: clean-demo
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
