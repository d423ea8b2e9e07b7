# The developer's whole interface. Every target sets up what it needs by itself.
# make demo | test | fuzz | lint | format | types | notebooks | docs | search | ladder | leave-out | scorecard | backtest |
#   policy-pack | notice | bench | known-truth | scaling | lock

# The first Python that is there; name another with make PYTHON=...
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(p)),$(p))))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test fuzz format lint types notebooks docs search ladder leave-out scorecard backtest policy-pack notice known-truth bench scaling lock clean

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
	$(BIN)/python benchmarks/mechanisms.py --page docs/mechanisms.md

# Speed as ratios against peers: each goal one file of benchmarks/, JSON lines in build/bench, all of them on one page.
# STORE=DIR names a store of real data (default: a simulated one); `make bench-garch_refits` measures one goal alone.
STORE ?= build/benchmark-store
BENCHMARKS := garch_refits garch_process garch_likelihood jump_model hidden_markov plain_walkforward two_workers \
	live_memory feature_matrix trades_to_bars policy_speed
WITH_STORE := $(filter-out live_memory trades_to_bars policy_speed,$(BENCHMARKS))

$(STORE)/manifest.json: | setup
	$(BIN)/forecaster data import --from simulated seed:7 --store $(STORE)

# A goal whose gate fails does not keep the others from being measured; the page says so, and fails. The exit code beside
# the figures tells a benchmark that was cut short from a finished one.
bench-%: setup $(STORE)/manifest.json
	mkdir -p build/bench
	rm -f build/bench/$*.exit
	-$(BIN)/python benchmarks/$*.py $(if $(filter $*,$(WITH_STORE)),--store $(STORE)) > build/bench/$*.jsonl; \
		code=$$?; echo $$code > build/bench/$*.exit; exit $$code

bench: $(BENCHMARKS:%=bench-%)
	$(BIN)/python benchmarks/page.py build/bench docs/benchmarks.md

# The goals of the project on a store of real data (STORE=DIR), each resumable, each telling its hours. The search chooses on
# what was known on TUNED_BEFORE, and writes a configuration; name it, CONFIG=build/scorecard/search/chosen.toml, to judge it.
# The scorecard takes in what the others found on the same data and configuration, and writes the model card.
SCORECARD := build/scorecard
CONFIG ?=
TUNED_BEFORE ?= 2023-07-01
STRANGERS ?= APTUSDT,GRTUSDT,LINKUSDT,SOLUSDT,XRPUSDT
TRIALS ?= 40

search: setup
	$(BIN)/forecaster tune $(CONFIG) --store $(STORE) --before $(TUNED_BEFORE) --trials $(TRIALS) --out $(SCORECARD)/search

ladder: setup
	$(BIN)/forecaster ladder --store $(STORE) --out $(SCORECARD)/ladder

leave-out: setup
	$(BIN)/forecaster leave-out $(CONFIG) --store $(STORE) --symbols $(STRANGERS) --out $(SCORECARD)/leave-out

scorecard: setup
	$(BIN)/forecaster scorecard $(CONFIG) --store $(STORE) --out $(SCORECARD) --card docs/model_card.md

# The policies against each other on the forecasts that the scorecard scored: margins, venue, goals and their report.
FORECASTS ?= $(SCORECARD)/evaluation/forecasts.parquet
backtest: setup
	$(BIN)/forecaster backtest --store $(STORE) --forecasts $(FORECASTS) --out build/backtest

# The policy's constants, one at a time, on forecasts of the development window: FORECASTS=FILE.
policy-pack: setup
	$(BIN)/python benchmarks/policy_pack.py --store $(STORE) --forecasts $(FORECASTS) --page docs/policy_pack.md

# How soon a rise should reach open positions, in several settings of the venue, on the same forecasts.
notice: setup
	$(BIN)/python benchmarks/notice.py --store $(STORE) --forecasts $(FORECASTS) --page docs/notice.md

# The product on simulated markets whose best forecast is known; some five minutes, fails where a demand does not hold.
known-truth: setup
	$(BIN)/python benchmarks/known_truth.py --page docs/known_truth.md

# How the cost grows with symbols, years and members: hours, kept cell by cell.
scaling: setup
	$(BIN)/python benchmarks/scaling.py --work build/scaling
	$(BIN)/python benchmarks/scaling.py --work build/scaling --page docs/scaling.md

# Needs uv. Works for every platform and Python version at once, and names no download host.
lock:
	uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes --no-annotate --no-header \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) demo-output build dist
	find features models training forecaster -name "*.nb[ci]" -delete
