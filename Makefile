# `make demo` and `make test` need Python 3.11+, a C++ compiler, make and a network for pip; each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find queryopt train export runtime bench -name '*.py' -o -name 'py.typed' -o -name '*.css' -o -name '*.js' -o -name '*.svg' -o -name '*.jinja' -o -name '*.toml' -o -name '*.cu') \
	CMakeLists.txt $(wildcard runtime/search/native/*)
DEMO := demo

.PHONY: setup demo test test-portable fuzz lint types unit format clean clean-demo
.DELETE_ON_ERROR:

setup: $(VENV)/.package

$(VENV)/.dependencies: pyproject.toml
	@echo "== setup: $(VENV) and what pyproject.toml asks for (PyTorch is large: a minute or more)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "queryopt needs Python 3.11 or newer; say which with: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet '.[cpu,train,weights,heic,parquet,report,serve,show,watch,dev]'
	@touch $@

# A real install, not an editable one: what is tested is what users get. The build's folder is kept: after a change to
# Python files nothing is compiled.
$(VENV)/.package: $(VENV)/.dependencies $(SOURCES)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall \
		--config-settings='build-dir=build/{wheel_tag}' .
	@touch $@

test: lint types unit

lint: setup
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

# From inside .venv: here, queryopt/ without its rooms would hide the installed package.
types: setup
	@echo "== types"
	@ln -sfn ../tests $(VENV)/tests
	@cd $(VENV) && bin/mypy --config-file ../pyproject.toml -p queryopt -p tests

# The browser that the pages of qo-serve are tested in. Where it is missing and can't be had, those tests are left out,
# and the last lines say so.
$(VENV)/.browser: $(VENV)/.dependencies
	@if ! $(BIN)/python -c 'import shutil, sys; sys.exit(not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))' \
		&& test "$$(id -u)" = 0 && command -v apt-get > /dev/null; then \
		echo "== setup: Chromium, for the tests of qo-serve's pages"; \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get install -y -qq --no-install-recommends chromium > /dev/null 2>&1 || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1 || \
		echo "   not to be had here: its tests are left out"; \
	fi
	@touch $@

unit: setup $(VENV)/.browser
	@echo "== tests"
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The tests again as other processors would run them, hours in all: see tests/portable.py.
test-portable: setup $(VENV)/.browser
	@$(BIN)/python -P tests/portable.py $(if $(SETTINGS),--settings "$(SETTINGS)") $(TESTS)

# Many more steps of the tests that make up what they do, with another seed each time; minutes.
fuzz: setup
	@QUERYOPT_FUZZ_STEPS=10000 $(BIN)/pytest tests/runtime/index/test_state.py

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The whole way in miniature. Each step's product is a file, so that a second `make demo` does no done work again.
# Three models of the same pictures: queries on a frozen trunk (they show where bits look), a linear layer on what the
# trunk sees (it is fitted at once), and one without labels.
BIRDS := synthetic:birds?folder=$(DEMO)/data
MODELS := run linear unlabelled untrained

demo: $(DEMO)/hits.html $(MODELS:%=$(DEMO)/%/model.onnx) $(DEMO)/run/report.html $(DEMO)/linear/report.html
	@echo "== evaluate: pictures of demo/data/test search those of demo/data/train, codes of the model on both sides"
	@$(BIN)/qo-eval --model $(DEMO)/run/model.onnx --gallery $(DEMO)/data/train --queries $(DEMO)/data/test \
		--compare $(DEMO)/untrained/model.onnx --require-ratio 2 -q
	@$(BIN)/qo-eval --model $(DEMO)/run/model.onnx --gallery $(DEMO)/data/train --queries $(DEMO)/data/test \
		--compare $(DEMO)/linear/model.onnx --compare $(DEMO)/unlabelled/model.onnx
	@echo "== done"
	@echo "  search results  $(DEMO)/hits.html"
	@echo "  reports         $(DEMO)/run/report.html (where each bit looks), $(DEMO)/linear/report.html"
	@echo "  training curves $(DEMO)/run/curves.png"
	@echo "  models          $(MODELS:%=$(DEMO)/%/model.onnx)"
	@echo "  index           $(DEMO)/photos.db   (try: $(BIN)/qo-search A_PICTURE $(DEMO)/photos.db)"
	@echo "  a page on it    $(BIN)/qo-serve $(DEMO)/photos.db"

# A run has a checkpoint from its first iteration on: that it came to its end is said by a file of its own.
$(DEMO)/run/trained: | setup
	@echo "== train: queries, one a bit, on a trunk that knows pictures; 32 classes of birds that differ in visual attributes"
	@$(BIN)/qo-train '$(BIRDS)' --preset demo --out $(DEMO)/run --resume
	@touch $@

# The same network with its first random queries: what the evaluation compares with.
$(DEMO)/untrained/trained: $(DEMO)/run/trained
	@echo "== the same network untrained, to compare with"
	@$(BIN)/qo-train '$(BIRDS)' --preset demo --iterations 0 --out $(DEMO)/untrained --resume -q
	@touch $@

$(DEMO)/linear/trained: $(DEMO)/run/trained
	@echo "== fit: one linear layer on the same trunk, at 224 px, towards codes that classes that look alike share bits of"
	@$(BIN)/qo-train '$(BIRDS)' --preset pictures --bits 12 --codes visual --out $(DEMO)/linear --resume
	@touch $@

$(DEMO)/unlabelled/trained: $(DEMO)/linear/trained
	@echo "== fit without labels: the same pictures, 64 bits"
	@$(BIN)/qo-train unlabelled:$(DEMO)/data/train --method linear --preset pictures --bits 64 --out $(DEMO)/unlabelled --resume
	@touch $@

$(DEMO)/run/model.onnx: EXPLAIN := --explain
$(DEMO)/%/model.onnx: $(DEMO)/%/trained
	@echo "== export: $* as ONNX, behind the parity gate"
	@$(BIN)/qo-export $(DEMO)/$* $(EXPLAIN)

$(DEMO)/%/report.html: $(DEMO)/%/model.onnx
	@echo "== report: what the model in $* finds, and what its bits do"
	@$(BIN)/qo-report $(DEMO)/$* --out $@

$(DEMO)/photos.db: $(DEMO)/run/model.onnx
	@echo "== hash: the test pictures into an index"
	@$(BIN)/qo-infer $(DEMO)/data/test --model $(DEMO)/run/model.onnx --index $@

$(DEMO)/hits.html: $(DEMO)/photos.db
	@echo "== search: three of them as queries"
	@$(BIN)/qo-search $$(ls -d $(DEMO)/data/test/*/* | awk 'NR % 107 == 1' | head -3) --index $(DEMO)/photos.db -k 10 --html $@

clean-demo:
	rm -rf $(DEMO)

clean: clean-demo
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
