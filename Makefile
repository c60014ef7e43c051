# Each target sets up what it needs in .venv, from the hash-pinned requirements*.txt.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV_READY := .venv/.ready-dev

.PHONY: help docs screenshots demo demo-batch test test-all test-unit test-storage storage-table test-faults fuzz test-lowest test-pythons lint bench bench-smoke lock clean

help: ## Explain the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(READY) ## Set up and show all of it on this machine: API sandbox, Prefect, images on disk
	@$(BIN)/nanobanana demo

demo-batch: $(READY) ## Likewise, from a file of prompts
	@$(BIN)/nanobanana demo --batch

test: $(DEV_READY) ## Set up and run the tests, without the slow ones
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow"

test-all: $(DEV_READY) tests/support/node_modules ## Set up and run all tests, with kills, workers and heartbeats
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-report=term:skip-covered

test-unit: $(DEV_READY) ## Set up and run the tests that start no server
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "unit and not slow"

test-storage: $(DEV_READY) tests/support/node_modules ## Set up and run the conformance suite on every kind of storage
	$(BIN)/python -m pytest tests/storage

storage-table: $(DEV_READY) tests/support/node_modules ## Likewise, and write docs/storage-conformance.md from the results
	$(BIN)/python -m pytest tests/storage/test_conformance.py --storage-table docs/storage-conformance.md

test-faults: $(DEV_READY) ## Live through the bad days, and write docs/faults.md from what they cost
	$(BIN)/python -m pytest tests/faults --by-the-clock --faults-table docs/faults.md

fuzz: $(DEV_READY) ## Search for hours for inputs that break something (CI searches for seconds); FUZZ_EXAMPLES=8000 is shorter
	$(BIN)/python -m pytest tests/fuzz tests/api tests/batches tests/images tests/landing -m hypothesis --hypothesis-profile fuzz

tests/support/node_modules: tests/support/package.json
	@npm install --prefix tests/support --no-package-lock --no-audit --no-fund --silent \
	  || echo "azurite could not be installed by npm; its tests are skipped"

test-lowest: $(DEV_READY) ## Run the tests with the oldest versions that are promised
	$(BIN)/nox --session lowest

test-pythons: $(DEV_READY) ## Run the tests on every Python from 3.11 to 3.14 that is here
	$(BIN)/nox --session tests

lint: $(DEV_READY) ## Set up and check style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_READY) ## Set up and measure; prints ratios (some minutes)
	$(BIN)/python -m benchmarks

bench-smoke: $(DEV_READY) ## Set up and see that every benchmark runs
	$(BIN)/python -m benchmarks --smoke

docs: $(DEV_READY) ## Set up and build the documentation site into site/; warnings are errors
	$(BIN)/mkdocs build --strict

screenshots: $(DEV_READY) ## Take the pictures of the docs anew, in a real browser (Chromium)
	$(BIN)/python docs/screenshots.py

lock: $(DEV_READY) ## Renew both lock files from pyproject.toml
	$(LOCK) --output-file requirements.txt pyproject.toml
	$(LOCK) --constraint requirements.txt --all-extras --group dev --group docs \
	  --output-file requirements-dev.txt pyproject.toml

clean: ## Remove what the other targets made
	rm -rf .venv nanobanana-demo

# Where bytecode is not kept, each process of a demo or a test compiles all of Prefect anew.
unexport PYTHONDONTWRITEBYTECODE

# A test that hangs ends the run, with its stacks, after pyproject.toml's faulthandler_timeout.
IN_PARALLEL = --numprocesses auto --dist loadfile \
	--override-ini faulthandler_exit_on_timeout=true --max-worker-restart 0

LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url \
	--no-header --no-annotate --python-version 3.11

INSTALL = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps

$(READY): requirements.txt pyproject.toml
	@echo "Setting up .venv; this takes about a minute …"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --upgrade pip  # that of Python 3.11 takes twice as long
	@$(INSTALL) --require-hashes --requirement requirements.txt
	@$(INSTALL) --editable .
	@touch $@

$(DEV_READY): requirements-dev.txt $(READY)
	@echo "Adding what the tests need; this takes about a minute …"
	@$(INSTALL) --require-hashes --requirement requirements-dev.txt
	@touch $@
