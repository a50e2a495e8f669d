# Each verb sets up what it needs first.
.DEFAULT_GOAL := help
.PHONY: help setup lock lint test test-long demo chaos soak evaluate bench bench-kcl bench-producer bench-reload bench-audit bench-api bench-latency capacity bench-memory clean
SHELL := /bin/bash

BIN := .venv/bin
WORKERS ?= 4
RUNS ?= 2000
SEED ?= 0
MINUTES ?= 30
RATE ?= 300
PEERS ?= kclpy,bytewax
ROUNDS ?= 3
EVENTS ?= 200000
SETS ?= tafeng diginetica online-retail
STAMP := .venv/.setup
PYPROJECTS := pyproject.toml producers/pyproject.toml models/pyproject.toml consumers/pyproject.toml

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv with exactly requirements.lock (PYTHON=python3.12 chooses another Python)

$(STAMP): requirements.lock $(PYPROJECTS) tools/setup.sh
	@mkdir -p build
	@tools/setup.sh
	@touch $@

lock: ## Resolve all dependencies anew and write requirements.lock
	@tools/lock.sh

lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP) ## Run all tests but the long ones (ARGS=... goes to pytest)
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not long" --figures=build/test.json $(ARGS)

# One at a time: each of them starts servers, workers and JVMs, and starves another one beside it on two cores.
test-long: $(STAMP) ## Run the tests that take minutes
	@$(BIN)/pytest -m long --figures=build/test-long.json $(ARGS)

demo: $(STAMP) ## Run the demonstration on the local AWS stack (ARGS=--help tells its options)
	@$(BIN)/streamproc demo --json build/demo.json $(ARGS)

chaos: $(STAMP) ## Play RUNS seeded schedules of faults from SEED on, and the mutations that must be caught
	@mkdir -p build
	@$(BIN)/python -m streamproc.testing.simulation --runs $(RUNS) --seed $(SEED) --json build/chaos.json

soak: $(STAMP) ## Run producer and recommender for MINUTES at RATE events a second, with a fault every few seconds by SEED
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) --rate $(RATE) --seed $(SEED) $(ARGS)

evaluate: $(STAMP) ## Train on the public sets (SETS=...) and judge on what they hold out; STREAMPROC_DATA_DIR is their folder
	@$(BIN)/streamproc evaluate $(SETS:%=--set %) --out build $(ARGS)

bench: $(STAMP) ## Measure the job beside other frameworks: PEERS=kclpy,bytewax,pyflink,spark ROUNDS=3 EVENTS=200000
	@$(BIN)/python -m benchmarks.throughput --peers "$(PEERS)" --rounds $(ROUNDS) --events $(EVENTS) $(ARGS)

bench-memory: $(STAMP) ## Measure the worker's memory over 10 million events of a million users
	@$(BIN)/python -m benchmarks.throughput.memory $(ARGS)

bench-kcl: $(STAMP) ## Measure the child of KCL's daemon beside amazon-kclpy's own loop
	@$(BIN)/python benchmarks/kcl.py $(ARGS)

bench-producer: $(STAMP) ## Measure what sending an event costs, beside aws-kinesis-agg and aiokpl
	@$(BIN)/python benchmarks/producer.py $(ARGS)

bench-reload: $(STAMP) ## Measure what a reload of the model adds to batches
	@$(BIN)/python benchmarks/reload.py $(ARGS)

bench-audit: $(STAMP) ## Measure streamproc audit on 2 GB with planted faults
	@$(BIN)/python -m benchmarks.audit $(ARGS)

bench-api: $(STAMP) ## Measure what a list over HTTP takes, from a process of its own (build/bench-api.json)
	@$(BIN)/python -m benchmarks.api $(ARGS)

bench-latency: $(STAMP) ## Measure how soon events are in recommendations, at 100, 1,000 and 5,000 a second, 60 s each
	@$(BIN)/python -m benchmarks.latency $(ARGS)

capacity: $(STAMP) ## Write benchmarks/capacity.md from measured constants and the price table (ARGS=--measure)
	@$(BIN)/python -m benchmarks.capacity $(ARGS)

clean: ## Remove what was built; .venv and .uv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +
