# `make` lists all targets. Requires Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test check fuzz faults mutants chaos soak bench bench-quick token migrate openapi lock clean

help: ## list all targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 14

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is required, found: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Could not create the venv. On Debian and Ubuntu try: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r requirements.txt -r requirements-dev.txt
	@touch $@

run: $(INSTALLED) ## run the service on 127.0.0.1:8000 (PORT=…), with an embedded PostgreSQL unless DATABASE_URL is set
	@$(BIN)/python -m tools.serve

# Two processes, each with its own PostgreSQL server: the tests mostly wait for I/O.
# One process with TEST_DATABASE_URL, because roles are shared by all databases of a server.
PYTEST := $(BIN)/python -m pytest -n $(if $(TEST_DATABASE_URL),0,2) --dist loadfile

test: $(INSTALLED) ## run all tests (ARGS=… for pytest; TEST_DATABASE_URL=… to use your own PostgreSQL)
	@$(PYTEST) $(ARGS)

check: $(INSTALLED) ## check format, lint and types, and run all tests, as CI does
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) $(ARGS)

fuzz: $(INSTALLED) ## fuzz a live server against specs/openapi.json (BUDGET=60 seconds, SEED=…, ONLY=… for some probes)
	@$(BIN)/python -m tests.fuzz.live

faults: $(INSTALLED) ## run mutation tests: plant each known fault and report which check or test catches it (ONLY=…)
	@$(BIN)/python -m tests.faults

mutants: $(INSTALLED) ## mutate the code and report which mutants fuzz and tests catch (SAMPLE=…|all, SEED=…, ONLY=…, FRESH=1)
	@$(BIN)/python -m tests.mutants

chaos: $(INSTALLED) ## inject faults under load and verify that acknowledged writes are stored (ONLY=…, SEED=…)
	@$(BIN)/python -m tests.chaos

soak: $(INSTALLED) ## follow changes for 10 minutes while 16 clients write and workers die (SECONDS=…)
	@$(BIN)/python -m tests.soak

bench: $(INSTALLED) ## run all benchmarks and write bench/RESULTS.md (about an hour)
	@$(BIN)/python -m bench

bench-quick: $(INSTALLED) ## run the throughput benchmark only (under 2 minutes)
	@$(BIN)/python -m bench quick

token: $(INSTALLED) ## print a token for SUB=some-user
	@$(BIN)/python -m tools.tokens "$$SUB"

migrate: $(INSTALLED) ## migrate the database at DATABASE_URL to the latest revision
	@$(BIN)/alembic upgrade head

purge: $(INSTALLED) ## delete for good what has been in the trash for TRASH_RETENTION_DAYS, and expired keys
	@$(BIN)/python -m purge

openapi: $(INSTALLED) ## generate specs/openapi.json from the application
	@$(BIN)/python -m tools.openapi

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url
lock: $(INSTALLED) ## compile requirements*.txt from requirements*.in (ARGS=--upgrade)
	@$(BIN)/$(LOCK) $(ARGS) requirements.in -o requirements.txt
	@$(BIN)/$(LOCK) $(ARGS) requirements-otel.in -o requirements-otel.txt
	@$(BIN)/$(LOCK) $(ARGS) requirements-dev.in -o requirements-dev.txt

clean: ## remove the venv, caches and reports; keep .env and .data
	rm -rf $(VENV) build tests/*/node_modules tests/*/*/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
