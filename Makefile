# Needs GNU make and Python 3.11 or newer; everything else is fetched into .venv from the hashed locks.
# Another interpreter: make run PYTHON=/path/to/python3.13

PYTHON ?=
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DELETE_ON_ERROR:
.PHONY: help run test faults faults-quick fuzz bench bench-compare tools deploy-check cluster-check image-check sbom check format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

run: .venv/.run ## everything in one process, with a simulated Webex and no Kafka; Ctrl-C ends it
# The shell outlives Ctrl-C (trap) and passes on the program's own status; 130 is what Ctrl-C was meant to do.
	@trap : INT; $(BIN)/webex-events dev || { status=$$?; [ $$status -eq 130 ] || exit $$status; }

test: .venv/.dev ## all tests; those on real Kafka wherever Java and Maven are to be had
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

faults: .venv/.dev ## everything that can go wrong, on three real brokers (over an hour); writes the table in docs/reliability.md
	@$(BIN)/python -m tests.faults $(PYTEST_FLAGS)

faults-quick: .venv/.dev ## those of them that take some minutes together
	@$(BIN)/python -m tests.faults --quick $(PYTEST_FLAGS)

fuzz: .venv/.fuzz ## a million made-up requests, from the signature to the event (half an hour); another count: FUZZ=100000
	@$(BIN)/python -m tests.fuzz --executions $(or $(FUZZ),1000000)
	@$(BIN)/python -m tests.fuzz.document --requests 10000

bench: .venv/.dev ## how fast the front door is, against uvicorn alone (20 minutes; wants a quiet machine with two cores)
	@$(BIN)/python -m tests.benchmarks $(BENCH_FLAGS)

bench-compare: .venv/.dev ## the same without the small benchmarks; fails where a ratio is worse than in tests/benchmarks/baseline.json
	@$(BIN)/python -m tests.benchmarks --compare $(BENCH_FLAGS)

tools: .venv/.deploy ## the programs that check chart, rules and image: helm and its like (needs Go; some minutes, once)
	@$(BIN)/python -m tests.deploy.tools build deploy

deploy-check: tools ## chart, rules, dashboards and compose file by those programs, and the rendered processes on real Kafka
	@$(BIN)/python -m pytest --durations=5 $(PYTEST_FLAGS) tests/deploy

cluster-check: .venv/.deploy ## the chart on a control plane of its own: installed, upgraded, rolled back, removed (10 minutes to build, once)
	@$(BIN)/python -m tests.deploy.tools build cluster
	@$(BIN)/python -m pytest -s --durations=5 $(PYTEST_FLAGS) tests/deploy/cluster

image-check: .venv/.deploy ## the image built and run without Docker, the compose file too (Debian or Ubuntu as root; 5 minutes)
	@$(BIN)/python -m tests.deploy.tools build helm4
	@$(BIN)/python -m tests.deploy.image $(PYTEST_FLAGS)

sbom: .venv/.deploy ## what is in the image, as CycloneDX: dist/sbom.cdx.json
	@$(BIN)/python -m tests.deploy.image.sbom dist/sbom.cdx.json

check: .venv/.dev ## formatting, lint, types, import rules
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python -m tests.test_architecture

format: .venv/.dev ## rewrite the sources as `make check` wants them
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

lock: .venv/.dev ## resolve pyproject.toml anew; all versions forward: make lock UPGRADE=--upgrade
	$(LOCK) $(UPGRADE) --group build --output-file locks/run.txt pyproject.toml
	$(LOCK) $(UPGRADE) --group build --group dev --constraints locks/run.txt --output-file locks/dev.txt pyproject.toml
	$(LOCK) $(UPGRADE) --group fuzz --output-file locks/fuzz.txt
	$(LOCK) $(UPGRADE) --group go --output-file locks/go.txt
# jsonschema would use rfc3987-syntax wherever it is, and make its grammar anew at every start of the program: 1.2 s.
	$(LOCK) $(UPGRADE) --group deploy --constraints locks/dev.txt --output-file locks/deploy.txt \
		--no-emit-package rfc3987-syntax --no-emit-package lark

clean: ## remove what make made (the journal in ./data stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage dist

# --- set-up: a stamp is newer than what it was made from, so a second start costs nothing -----------------------------

# One dot for each package; pip's own errors come through on stderr.
define install
@printf '%s ' "$(1)"
@{ PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --progress-bar off --no-compile --require-hashes -r $(2) || echo FAILED; } | \
	{ while read -r word rest; do \
		case $$word in Collecting) printf . ;; Installing) printf ' unpacking' ;; FAILED) echo; exit 1 ;; esac; \
	done; echo; }
@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
@touch $@
endef

.venv/.run: .venv/.python locks/run.txt pyproject.toml
	$(call install,Installing the dependencies (once),locks/run.txt)

.venv/.dev: .venv/.python locks/dev.txt pyproject.toml
	$(call install,Installing the dependencies and the tools (once),locks/dev.txt)
	@touch .venv/.run

.venv/.fuzz: .venv/.dev locks/fuzz.txt
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r locks/fuzz.txt
	@touch $@

.venv/.deploy: .venv/.dev locks/deploy.txt
	@echo "Installing what checks the chart (once)"
	@$(BIN)/python -m pip install --quiet --no-deps --no-compile --require-hashes -r locks/deploy.txt
	@touch $@

.venv/.python:
	@for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		found=$$python; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "Making .venv with $$("$$python" --version) (once)"; \
		"$$python" -m venv .venv && touch $@; exit; \
	done; \
	if [ "$$found" ]; then \
		echo "$$found cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)."; \
	else \
		echo "Python 3.11 or newer is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3"; \
	fi >&2; exit 1
