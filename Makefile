# The developer's whole interface. Every target sets up what it needs by itself.
# make demo | test | fuzz | lint | format | types | notebooks | docs | bench | lock

# The first Python that is there; name another with make PYTHON=...
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test fuzz format lint types notebooks docs bench lock clean

setup: $(STAMP)

# A failed installation leaves no stamp, so the next call starts again.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

demo: setup
	$(BIN)/forecaster demo --out demo-output

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Ten thousand damaged files for every reader of market data, others each time; the seed is printed.
fuzz: setup
	$(BIN)/python -m pytest tests/fuzz --fuzz-files 10000 -n 2

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

# Each notebook runs from its first cell to its last.
notebooks: setup
	$(BIN)/python -m pytest tests/notebooks

# What the code declares, as pages.
docs: setup
	$(BIN)/forecaster features list > docs/features.md

# Speed as ratios against peers; STORE=DIR names the store (default: a simulated one).
STORE ?= build/benchmark-store
bench: setup
	test -f $(STORE)/manifest.json || $(BIN)/forecaster data import --from simulated seed:7 --store $(STORE)
	$(BIN)/python benchmarks/feature_matrix.py --store $(STORE)
	$(BIN)/python benchmarks/trades_to_bars.py

# Needs uv. Works for every platform and Python version at once, and names no download host.
lock:
	uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate --no-header \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) demo-output build dist
