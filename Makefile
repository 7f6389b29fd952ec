# Two commands do everything: `make run` trains the default run, `make test` runs the whole test suite.
# Set-up is a file (.venv/.run-ready, .venv/.test-ready), so a second call skips it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST_WORKERS ?= 2
# torch and its peers otherwise start as many threads per worker as there are cores.
export OMP_NUM_THREADS ?= 1

.PHONY: run test fuzz faults check format lint types docs clean
run: $(VENV)/.run-ready
	OMP_NUM_THREADS= $(BIN)/python -m gradledger train

test: $(VENV)/.test-ready
	$(BIN)/python -m pytest --numprocesses $(PYTEST_WORKERS)

# Bad input for every reader: 10,000 cases, and a table of what became of them.
fuzz: $(VENV)/.test-ready
	cd tests && PYTHONPATH=../src ../$(BIN)/python -m fuzz --cases 10000 --keep

check: lint types docs test

# Does every kind of fault to training runs, and prints what came of it; takes about ten minutes.
faults: $(VENV)/.test-ready
	cd tests && PYTHONPATH=../src ../$(BIN)/python -m faults.campaign --output ../benchmarks/results/faults.json

format: $(VENV)/.test-ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.test-ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test-ready
	$(BIN)/mypy

# Generated pages must match the code they come from.
docs: $(VENV)/.test-ready
	$(BIN)/python docs/generate.py --check

# torch goes first and alone: named with its pinned version, no accelerator packages come with it.
$(VENV)/.run-ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --editable .
	touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	$(PIP) --editable '.[test,peers]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis runs
