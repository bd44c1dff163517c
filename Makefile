# The developer's verbs. `make` alone lists them.
# Everything runs in .venv, which is made once and brought up to date whenever a pinned version changes.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

# Torch would start a thread per core in every process of a test; on small machines they only get in each other's way.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench soak clean

help: ## list these verbs
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the virtual environment, or bring it up to date

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## train a small network and measure it while it trains
	$(BIN)/sounding demo

test: $(STAMP) ## run the tests (no network, no GPU, under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(STAMP) ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(STAMP) ## mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure how fast it is; numbers go to benchmarks/results
	@for script in latency query_speed scan weights weight_spectrum sharpness large_model neural_collapse traversal; do echo "== $$script"; $(BIN)/python benchmarks/$$script.py --keep || exit 1; done

soak: $(STAMP) ## the long fault loops and trainings
	$(BIN)/python -m pytest -m soak --timeout 3600
	$(BIN)/python benchmarks/edge_of_stability.py --keep

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
