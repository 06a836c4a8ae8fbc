# Everything runs in .venv, which the first target that needs it creates. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := controlplane agents cli training_jobs

.DEFAULT_GOAL := help
.PHONY: soak soak-training soak-recoveries postgres bench-journal soak-fuzz help install demo check format lint types layers proto proto-check test soak-e2e soak-races soak-property bench-core bench-cli bench-ettr bench-checkpoint bench-fleet soak-fleet bench-recovery bench-corruption constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

postgres: ## the server that the tests of the journal start themselves; installed when it is missing
	@command -v initdb > /dev/null || ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || { \
	  echo "installing PostgreSQL (apt-get) ..."; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql > /dev/null; } || { \
	    echo "no PostgreSQL server and apt-get cannot install it: install the package postgresql, then try again"; exit 1; }; }

$(STAMP): pyproject.toml constraints.txt
	@echo "creating $(VENV) and installing (a few minutes, about 2 GB) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $$(test -t 2 || echo --quiet) --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib > /dev/null || true # on all cores, where pip uses one
	@touch $@

install: postgres $(STAMP) ## create .venv and install

demo: $(STAMP) ## a site on this machine: train, lose a rank, lose a node, end with the same weights
	@$(BIN)/phalanx demo

check: format lint types layers proto-check ## what CI runs first

format: $(STAMP)
	@$(BIN)/ruff format --check --quiet . && echo "format ok"

lint: $(STAMP)
	@$(BIN)/ruff check --quiet . && echo "lint ok"

types: $(STAMP)
	@$(BIN)/mypy --no-error-summary && echo "types ok"

layers: $(STAMP)
	@$(BIN)/lint-imports --no-cache > .layers.log 2>&1 || (cat .layers.log; rm -f .layers.log; exit 1)
	@rm -f .layers.log && echo "layers ok"

proto: $(STAMP) ## generate phalanx.v1 from proto/
	@PATH=$(BIN):$$PATH $(BIN)/python proto/generate.py 2> /dev/null

proto-check: $(STAMP)
	@PATH=$(BIN):$$PATH $(BIN)/python proto/generate.py --check && echo "proto ok"

test: $(STAMP) ## the whole suite in WORKERS=2 processes, with durations
	@$(BIN)/python -m pytest --numprocesses=$${WORKERS:-2} --durations=15 -m "not soak"

soak: $(STAMP) ## random sites and faults under every checker, on all cores (SOAK_TIME=30m, SOAK_SEEDS=1-1000000)
	@$(BIN)/phalanx sim sweep --seeds $${SOAK_SEEDS:-1-1000000} --time $${SOAK_TIME:-30m}

soak-races: $(STAMP) ## the suite with threads, processes and streams started slowly, in both orders (20 minutes)
	@for order in after before; do echo "$$order"; PHALANX_RACING=$$order $(BIN)/python -m pytest --numprocesses=$${WORKERS:-2} -m "not soak" \
		--ignore tests/e2e --ignore tests/property || exit 1; done

soak-e2e: $(STAMP) ## the long matrix of kills on a real site
	@$(BIN)/python -m pytest tests/e2e -m soak --durations=0 -s

soak-training: $(STAMP) ## one training under everything that breaks, an hour (SECONDS=3600 SEED=7): it ends with the undisturbed weights
	@$(BIN)/python -m tests.benchmarks.training --seconds $(or $(SECONDS),3600) --seed $(or $(SEED),7)

soak-recoveries: $(STAMP) ## two hundred recoveries of one job (COUNT=200): what its survivor and the site have grown by
	@$(BIN)/python -m tests.benchmarks.training --recoveries $(or $(COUNT),200) --seed $(or $(SEED),7)

soak-property: $(STAMP) ## the machine under random events, many examples
	@PHALANX_PROPERTY_EXAMPLES=2000 $(BIN)/python -m pytest tests/property --timeout=7200

soak-fuzz: $(STAMP) ## hostile bytes and messages at every door, for minutes (PHALANX_FUZZ_SECONDS, _EXAMPLES, _SEED)
	@PHALANX_FUZZ_SEED=$${PHALANX_FUZZ_SEED:-0} PHALANX_FUZZ_SECONDS=$${PHALANX_FUZZ_SECONDS:-120} PHALANX_FUZZ_EXAMPLES=$${PHALANX_FUZZ_EXAMPLES:-5000} \
		$(BIN)/python -m pytest tests/fuzz --timeout=7200 -s

bench-core: $(STAMP) ## CPU time of a recovery at 6,250 nodes x 8 in the product's own core
	@$(BIN)/python -m tests.benchmarks.core

bench-ettr: $(STAMP) ## effective training time at 50,000 accelerators, simulated (a quarter of an hour; QUICK=1: one minute; DOCS=1: into the docs)
	@$(BIN)/python -m tests.benchmarks.ettr $(if $(QUICK),--quick) $(if $(DOCS),--docs)

bench-cli: $(STAMP) ## help, imports, and the listing of 6,250 nodes of a real controller
	@$(BIN)/python -m tests.benchmarks.cli

bench-recovery: $(STAMP) ## kills to the first new step: Phalanx, torchrun elastic, Ray Train, torchft; phases at 2 to 16 ranks (about 12 minutes)
	@$(BIN)/python -m tests.benchmarks.recovery

bench-checkpoint: $(STAMP) ## cost and restore time of every tier that holds a rank's state (4 minutes)
	@$(BIN)/python -m tests.benchmarks.checkpoint

bench-corruption: $(STAMP) ## single flipped bits in a trainer: how soon found, who is named, what looking costs (about 3 minutes)
	@$(BIN)/python -m tests.benchmarks.corruption

bench-fleet: $(STAMP) ## 6,250 agents on one controller: load, detection, false convictions (40 minutes; ONLY=streams, disturbances, relays, recoveries, restart or peers: one part)
	@$(BIN)/python -m tests.benchmarks.fleet $(if $(ONLY),--only $(ONLY))

soak-fleet: $(STAMP) ## the controller's memory with 6,250 agents over half an hour (SECONDS=1800)
	@$(BIN)/python -m tests.benchmarks.fleet --only soak --soak-seconds $(or $(SECONDS),1800)

bench-journal: $(STAMP) ## durable records per second on SQLite and PostgreSQL
	@$(BIN)/python -m tests.benchmarks.journal

constraints: $(STAMP) ## write constraints.txt from what is installed
	@$(BIN)/python -m pip freeze --disable-pip-version-check | grep -v -e '^-e' -e '@' | sed 's/^torch==\([0-9.]*\).*/torch==\1/' > constraints.new
	@(sed -n 1p constraints.txt; cat constraints.new) > constraints.tmp && mv constraints.tmp constraints.txt && rm constraints.new

clean: ## remove caches and everything that runs wrote (.venv stays)
	@rm -rf .phalanx .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
