PYTHON ?= python3
PORT ?= 8000
MODEL ?=

BIN := .venv/bin
NATIVE := $(wildcard model/engine/native/* model/engine/native/generic/*)

.PHONY: serve test format clean

serve: .venv/serving
	$(BIN)/tritserve serve --port $(PORT) $(if $(MODEL),--model $(MODEL))

test: .venv/testing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

format: .venv/testing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/serving: .venv/bin/python pyproject.toml $(NATIVE)
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/testing: .venv/bin/python pyproject.toml $(NATIVE)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ .venv/serving
