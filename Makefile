# Everything here stays inside the project's folder, `make setup-real` aside.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PROCESSES := manager scheduler gateway worker clusterctl
PYTEST_ARGS ?=
# Such as `--area domain --count 300 --seed 7`; see docs/mutation-testing.md.
MUTANTS_ARGS ?=
# Most tests wait for something: several processes share them, a file at a time.
PYTEST_PROCESSES ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export NPM_CONFIG_CACHE := $(CURDIR)/.cache/npm

.PHONY: help setup setup-real proto check test demo bench soak mutants nightly lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed node_modules/.installed ## install the project and its tools into .venv and node_modules

.venv/.installed: requirements.lock pyproject.toml scripts/install_python.sh
	@scripts/install_python.sh
	@touch $@

node_modules/.installed: package.json scripts/install_node.sh | .venv/.installed
	@scripts/install_node.sh
	@touch $@

setup-real: ## bring the real parts: container engine, QEMU, mosquitto, a MongoDB-protocol server (apt-get, Maven)
	@scripts/install_real_parts.sh

proto: setup ## regenerate cluster/v1 from protos/
	$(PYTHON) scripts/generate_protos.py

check: setup ## style, types, imports, protos
	ruff check .
	ruff format --check .
	mypy cluster $(PROCESSES)
	lint-imports
	node_modules/.bin/buf lint
	scripts/check_breaking.sh
	$(PYTHON) scripts/generate_protos.py --check

test: setup check ## everything: check, then all tests (PYTEST_ARGS narrows them down)
	$(PYTHON) -m pytest $(PYTEST_PROCESSES) $(PYTEST_ARGS)

demo: .venv/.installed ## watch a real cluster come up, run jobs and go away again
	@$(PYTHON) scripts/demo.py

bench: .venv/.installed ## measure; prints a table and writes JSON
	$(PYTHON) tests/bench

mutants: setup ## prove that the tests notice mistakes: grave ones by hand, then a sample of mutmut's (MUTANTS_ARGS)
	$(PYTHON) -m pytest -n 2 -m nightly --timeout=1800 tests/mutants
	$(PYTHON) tests/mutants $(MUTANTS_ARGS)

nightly: setup ## the tests and measurements that take minutes
	$(PYTHON) -m pytest -m nightly --timeout=7200 $(PYTEST_ARGS)
	$(PYTHON) tests/bench --heavy --json .cache/bench-heavy.json
	$(MAKE) mutants

soak: setup ## random outages of every part for ten minutes (SOAK_S, SOAK_SEED), and the other long nightly tests
	$(PYTHON) -m pytest -s -m nightly -k soak --timeout=86400 $(PYTEST_ARGS)

lock: .venv/.installed ## resolve pyproject.toml anew into requirements.lock
	uv pip compile pyproject.toml --all-extras --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --universal --quiet --upgrade -o requirements.lock

clean: ## remove everything that the other targets made
	rm -rf .venv .cache node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
