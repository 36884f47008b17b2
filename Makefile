# One verb per intent, the same here as in CI. `make setup` brings everything a verb needs except the servers' programs,
# which come with `make test`. Stamps make a second run instantaneous; there is one build profile and one target folder,
# so that the wheel, the tests and the linter compile the dependencies once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SEED   ?= 1
N      ?=
ROUNDS ?= 10
SECONDS ?= 60

# maturin hands pyo3 its configuration by these two variables. Without them every other cargo command would rebuild pyo3,
# and maturin would rebuild it again. (The stamp is what makes the file exist.)
PYO3  = PYO3_BUILD_EXTENSION_MODULE=1 \
        PYO3_CONFIG_FILE=$(abspath $(shell ls -t target/maturin/pyo3-config-*.txt | head -1))
CARGO = $(PYO3) cargo

RUST  := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
STUB  := python/adstream/_core.pyi
ALLOW := tools/stubtest.allow

.DEFAULT_GOAL := help
.PHONY: help setup servers demo demo-ads test check bench sim chaos chaos-platform load-platform differential differential-cep mutants lock clean
.DELETE_ON_ERROR:

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: $(VENV)/.built ## make the environment from the lock and build the extension

$(VENV)/.locked: requirements-dev.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "adstream needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/.built: $(VENV)/.locked pyproject.toml $(RUST)
	. $(BIN)/activate && maturin develop --release --locked --uv
	touch $@

servers: $(VENV)/.locked ## install the real Kafka, Postgres and Redis, where missing
	$(BIN)/python -m tests.servers

demo: setup ## run the ad pipeline on generated traffic, then the whole ads platform where Postgres and Redis are installed
	$(BIN)/adstream demo
	$(BIN)/python -m tests.servers.demo --where-installed

demo-ads: setup servers ## run the whole ads platform, live in the terminal; installs Postgres and Redis where missing
	$(BIN)/python -m tests.servers.demo

test: setup servers ## run every test, Rust and Python, against real servers
	$(CARGO) test --release --workspace --locked
	$(BIN)/python -m pytest

check: setup ## lint, format, types, layers, stub: everything but running
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cargo fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings
	$(BIN)/python tools/layers.py --canary
	$(BIN)/python tools/layers.py
ifneq ($(wildcard $(STUB)),)
	$(BIN)/python -m mypy.stubtest adstream._core $(if $(wildcard $(ALLOW)),--allowlist $(ALLOW))
endif

bench: setup servers ## measure, next to a bare client in the same run
	PYTHONPATH=. $(BIN)/python benches/run.py

sim: setup ## simulate a cluster with faults: SEED=1 [N=seeds to run] [JOB=sim.records]
	$(BIN)/python -m adstream.testing.simulation --seed $(SEED) $(if $(N),--count $(N)) $(if $(JOB),--job $(JOB))

chaos: setup servers ## kill workers and servers under load: ROUNDS=10
	PYTHONPATH=. $(BIN)/python tests/chaos/run.py --rounds $(ROUNDS)

chaos-platform: setup servers ## the whole ads platform under fire: SECONDS=60 SEED=1
	$(BIN)/python -m tests.chaos.ads_platform --seconds $(SECONDS) --seed $(SEED)

load-platform: setup servers ## how far the ads platform lags at a rate that is held, and in a burst: SECONDS=60 SEED=1
	$(BIN)/python -m tests.chaos.ads_load --seconds $(SECONDS) --seed $(SEED)

differential: setup ## random topologies, next to the real Kafka Streams: N=340 SEED=1
	$(BIN)/python -m tests.differential.kstreams.run --seed $(SEED) --count $(or $(N),340)

differential-cep: setup ## random patterns, next to the real Flink CEP: N=300 SEED=1
	$(BIN)/python -m tests.differential.cep.run --seed $(SEED) --count $(or $(N),300)

mutants: setup ## break the source in a copy, in many ways: each must turn the suite red
	$(PYO3) $(BIN)/python tools/mutants.py

lock: $(VENV)/.locked ## write requirements-dev.lock anew from pyproject.toml, with the newest versions
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --upgrade --quiet \
	    --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' -o requirements-dev.lock

clean: ## remove what can be built again (downloaded servers stay)
	rm -rf $(VENV) target dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f python/adstream/_core*.so
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
