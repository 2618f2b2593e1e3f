# demo    set up, then bridge the local avatar service to a recording: make demo ARGS="--seconds 12 --record out.mp4"
# test    set up, bring the programs the tests need, run everything
# bench   set up, run all benchmarks and rewrite benchmarks/RESULTS.md
# lint    ruff and mypy
# format  ruff, rewriting

.PHONY: demo test bench lint format setup
.DELETE_ON_ERROR:
SHELL := /bin/bash

BIN := .venv/bin
READY := .venv/ready

demo: $(READY)
	@$(BIN)/avatar-bridge demo $(ARGS)

# Four at a time on two cores, for most wait for real time to pass; who is done takes from the others' share. What has bounds on time, or runs several sessions in real time, comes after them, two at a time; what measures milliseconds or loads the machine comes last, alone. All runs count, and all closing lines are shown.
# Some hundred processes import the same modules: compiled once, they start in half the time.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY) lint
	@tests/install_peers.sh
	@tests/install_npm_peers.sh
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/peers/requirements.lock \
	  || echo "FFmpeg 9, kubernetes-validate and Schemathesis could not be installed: tests that need them are skipped." >&2
	@status=0; \
	$(BIN)/python -m pytest -n 4 --dist worksteal -m "not (paired or serial)" || status=1; \
	$(BIN)/python -m pytest -n 2 --dist worksteal -m paired || status=1; \
	$(BIN)/python -m pytest -m serial || status=1; \
	exit $$status

bench: $(READY)
	@$(BIN)/python -m benchmarks

lint: $(READY)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: $(READY)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

setup: $(READY)

# Exact versions with hashes; runs again only when the lock or the project's own metadata has changed.
$(READY): requirements.lock pyproject.toml
	@python=$$(for name in python3.11 python3.12 python3.13 python3.14 python3; do \
	  command -v $$name >/dev/null && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    && echo $$name && break; done); \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is missing. Install it: apt-get install python3 python3-venv" >&2; exit 2; fi; \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "Python's venv module is missing. Install it: apt-get install python$$version-venv" >&2; exit 2; fi; \
	echo "Setting up .venv with Python $$version" >&2; \
	$$python -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
