# All that a contributor needs. Each target makes the virtual environment it runs in; a stamp file in it says
# what has been installed, and pyproject.toml being newer installs again.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TARGET ?= codec
SECONDS ?= 60

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo example test chaos matrix versions fuzz check docs pictures bench clean

help:
	@echo "make demo     three orders, two workers, and one of them is killed"
	@echo "make example  run the example shop on this machine: two sites, a worker, mails (needs a broker)"
	@echo "make test     run the tests (ARGS=... goes to pytest)"
	@echo "make chaos    real workers under ten minutes of trouble with each broker and database (ARGS=... goes to it)"
	@echo "make matrix   kill every operation at each of its statements, and write docs/reliability.md"
	@echo "make versions try the supported versions of Python and of what it works with, and write docs/compatibility.md"
	@echo "make check    ruff, mypy and the import contracts"
	@echo "make docs     build the documentation into docs/_build/html"
	@echo "make pictures take the pictures of the documentation anew (needs Chromium)"
	@echo "make fuzz     give a decoder anything (TARGET=codec SECONDS=60; docs/reliability.md lists them)"
	@echo "make bench    run the benchmarks (ARGS=... goes to them)"
	@echo "make clean    remove all that these made"

demo: $(VENV)/.base
	@$(BIN)/python -m example_project.demo $(ARGS)

example: $(VENV)/.dev
	@exec $(BIN)/python -m example_project.webshop.local $(ARGS)

# Half of the tests wait for workers and brokers: three processes share two cores. A test file stays in one of them.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos $(ARGS)

matrix: $(VENV)/.dev
	@$(BIN)/python -m tests.kill.matrix

versions: $(VENV)/.dev
	@$(BIN)/python -m tests.versions $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --quiet --check || { echo "Not formatted: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.docs
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

pictures: $(VENV)/.dev
	@$(BIN)/python -m docs.screenshots $(ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(ARGS)

fuzz: $(VENV)/.dev
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) -e '.[fuzz]'
	@$(BIN)/python -m tests.fuzz $(TARGET) $(SECONDS)

clean:
	@rm -rf $(VENV) .example build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .fuzz .bench
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.base: pyproject.toml | $(BIN)/python
	@echo "Installing celery-durable into $(VENV) ..."
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing celery-durable[dev] into $(VENV) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.base

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@echo "Installing celery-durable[docs] into $(VENV) ..."
	@$(PIP) -e '.[docs]'
	@touch $@ $(VENV)/.base
