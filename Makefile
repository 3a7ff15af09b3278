# Every target sets up what it needs: a virtual environment in .venv, made again when pyproject.toml changes.
PYTHON ?= python3
ARGS ?=
N ?= 10000
PYTHONS ?= python3.11 python3.12 python3.13

VENV := .venv
# Named after the place of the checkout: an editable install that was copied along would point to the original.
READY := $(VENV)/ready-$(shell pwd | cksum | cut -d ' ' -f 1)
# -P keeps the checkout off sys.path: there ./cascade lacks the packages that live in other folders.
RUN := $(VENV)/bin/python -P

.PHONY: help run test differential bench bench-versions peers coverage lint format types docs clean

help:
	@echo 'make run | test | differential N=... | bench | bench-versions | peers | coverage | lint | format | types | docs | clean   (ARGS="..." is passed on)'

run: $(READY)
	$(VENV)/bin/python examples/stdlib_rank.py $(ARGS)

test: $(READY)
	$(RUN) -m pytest -n auto $(ARGS)

differential: $(READY)
	$(RUN) tests/differential $(N) $(ARGS)

bench: $(READY)
	$(VENV)/bin/python bench/run.py $(ARGS)

# The aims on other interpreters, those of PYTHONS that there are.
bench-versions:
	@for python in $(PYTHONS); do \
	  $$python -c '' 2>/dev/null || { echo "$$python: not there"; continue; }; \
	  tag=$$($$python -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'); \
	  test -x build/bench-$$tag/bin/python || { $$python -m venv build/bench-$$tag && \
	  build/bench-$$tag/bin/python -m pip install --quiet --disable-pip-version-check --editable .; } || exit 1; \
	  echo "CPython $$tag"; \
	  build/bench-$$tag/bin/python bench/run.py --vm aims $(ARGS) || exit 1; \
	done

peers: $(READY)
	$(VENV)/bin/python bench/peers/compare.py $(ARGS)

coverage: $(READY)
	$(RUN) -m coverage run -m pytest $(ARGS)
	$(RUN) -m coverage report --show-missing --skip-covered

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(READY)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

types: $(READY)
	$(VENV)/bin/python tools/typecheck.py

docs: $(READY)
	$(RUN) tools/reference.py

clean:
	rm -rf $(VENV) bench/peers/.venvs build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@
