# `make` lists the targets. Only Python 3.11 or newer and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test check fuzz faults chaos bench bench-quick token migrate openapi lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, not: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "The venv could not be made; on Debian and Ubuntu it may need: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements.txt -r requirements-dev.txt
	@touch $@

run: $(INSTALLED) ## serve on 127.0.0.1:8000 (PORT=…), with an embedded PostgreSQL unless DATABASE_URL is set
	@$(BIN)/python -m tools.serve

# Two at a time, each with a server of its own: most of the suite's time is waiting.
# On a given server one after the other, because roles belong to all its databases.
PYTEST := $(BIN)/python -m pytest -n $(if $(TEST_DATABASE_URL),0,2) --dist loadfile

test: $(INSTALLED) ## run all tests (TEST_DATABASE_URL=… for a PostgreSQL of yours; ARGS=… for pytest)
	@$(PYTEST) $(ARGS)

check: $(INSTALLED) ## what CI runs: format, lint, types, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) $(ARGS)

fuzz: $(INSTALLED) ## fuzz a live server against specs/openapi.json (BUDGET=60 in seconds, SEED=…)
	@$(BIN)/python -m tests.fuzz.live

faults: $(INSTALLED) ## plant each known fault, and tell which check and which test catches it (ONLY=…)
	@$(BIN)/python -m tests.faults

chaos: $(INSTALLED) ## inject one fault after another under load, and compare what was acknowledged with what is stored (ONLY=…, SEED=…)
	@$(BIN)/python -m tests.chaos

bench: $(INSTALLED) ## measure the service beside its baselines, for some 35 minutes, and write bench/RESULTS.md
	@$(BIN)/python -m bench

bench-quick: $(INSTALLED) ## only requests a second, in under two minutes
	@$(BIN)/python -m bench quick

token: $(INSTALLED) ## print a token for SUB=some-user
	@$(BIN)/python -m tools.tokens "$$SUB"

migrate: $(INSTALLED) ## bring the database of DATABASE_URL to the newest revision
	@$(BIN)/alembic upgrade head

openapi: $(INSTALLED) ## write specs/openapi.json from the application
	@$(BIN)/python -m tools.openapi

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
lock: $(INSTALLED) ## compile requirements*.txt from requirements*.in (ARGS=--upgrade)
	@$(BIN)/$(LOCK) $(ARGS) requirements.in -o requirements.txt
	@$(BIN)/$(LOCK) $(ARGS) requirements-otel.in -o requirements-otel.txt
	@$(BIN)/$(LOCK) $(ARGS) requirements-dev.in -o requirements-dev.txt

clean: ## remove the venv, caches and reports, but neither .env nor .data
	rm -rf $(VENV) build tests/*/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
