# Start with `make demo` or `make test`. Every target installs what it needs into .venv and nothing elsewhere.
PYTHON ?= python3
BIN := .venv/bin
export UV_LINK_MODE ?= copy
export UV_SYSTEM_CERTS ?= true
ifneq ($(shell test -w "$$HOME" && echo writable),writable)
# no package cache if the home folder is not writable
export UV_NO_CACHE := true
export PIP_NO_CACHE_DIR := true
endif

.DEFAULT_GOAL := install
.PHONY: help install demo up docs test soak pythons mutate check format real lock clean

help:                    ## this list
	@sed -n 's/^\([a-z][a-z]*\):[^#]*## \(.*\)$$/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
	  printf '%-16s %s\n' "$$name" "$$text"; done

install: .venv/installed ## everything that demo and tests need, into .venv

.venv/installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Oncoloop needs Python 3.11, 3.12 or 3.13; name one with: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . --config-settings editable_mode=compat
	touch $@

demo: install            ## the full loop on synthetic studies, in var/demo
	$(BIN)/oncoloop demo

up: install              ## start the demo's workspace again, with a one-time link for each person
	$(BIN)/oncoloop up -C var/demo --links

docs: install            ## the documentation site, into build/docs; needs no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

test: install            ## all tests; heavy checks on a seeded sample
	$(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

soak: install            ## all tests with heavy checks in full, then demo and tests on every supported Python
	ONCOLOOP_SOAK=1 $(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder
	bench/loop/python_versions.sh

pythons:                 ## demo and tests on each installed Python of 3.11, 3.12 and 3.13
	bench/loop/python_versions.sh

mutate: install          ## mutation tests of gates, ledger, de-identification, split and accounts; prints the surviving mutants
	$(BIN)/python bench/mutation/run_mutation_tests.py

check: install           ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install          ## style, mended where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

real: install            ## the loop on real scans (ONCOLOOP_REAL_DATA); writes docs/results.md
	$(BIN)/python bench/loop/real_scans.py

lock:                    ## resolve all versions again, also of the release, with hashes and without index addresses
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra dev --extra jax pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header serving/release.txt -o serving/release.lock

clean:                   ## remove .venv, build and var, and with it the demo's workspace
	rm -rf .venv var build *.egg-info
