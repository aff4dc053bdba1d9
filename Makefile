# Paths are relative and tools run as modules, so that a checkout path with spaces works.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
S3_READY := .venv/s3/.ready
MLFLOW_READY := .venv/mlflow/.ready
MOTO_READY := .venv/moto/.ready
AUDIT_READY := .venv/audit/.ready
CHROMIUM := /usr/bin/chromium
STRACE := /usr/bin/strace

.PHONY: help setup demo test bench chaos lint audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## create .venv with the pinned versions

demo: $(READY)  ## one whole run with the default config
	$(PY) -m kd_ray.cli run

test: lint $(S3_READY) $(MLFLOW_READY) $(CHROMIUM)  ## lint, then every test
	$(PY) -m pytest -m ""

bench: $(READY)  ## measure kd_ray against the plain loop
	$(PY) -m benchmarks

chaos: $(READY) $(S3_READY) $(MOTO_READY) $(STRACE)  ## kill, fill, damage and fuzz runs: hours; CHAOS="driver=5 order" for less
	$(PY) -m tests.chaos $(CHAOS)

lint: $(READY)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

audit: $(AUDIT_READY)  ## compare the pinned versions with the published advisories; needs the network
	@sed '/^#/d' constraints.txt > .venv/audit/pinned.txt
	@.venv/audit/bin/pip-audit --strict --disable-pip --no-deps -r .venv/audit/pinned.txt || { \
	  echo "make audit: a known vulnerability, or the registry did not answer for a package: see above." \
	    "Where it did not answer, nothing was audited." >&2; exit 1; }

clean:  ## remove .venv, caches and build outputs; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv without a working pip was left half-made: start it again.
$(READY): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "kd_ray needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" --version 2>/dev/null || echo missing);" \
	      "name another: make $(or $(firstword $(MAKECMDGOALS)),setup) PYTHON=python3.12" >&2; exit 1; }; \
	  "$(PYTHON)" -m venv --clear .venv; }
	@echo "Installing into .venv; this happens once."
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

$(S3_READY): tests/s3-server.txt | $(READY)
	@$(PY) -m venv --clear .venv/s3
	@.venv/s3/bin/python -m pip install -q --disable-pip-version-check -r tests/s3-server.txt
	@touch $@

$(MLFLOW_READY): tests/mlflow-server.txt | $(READY)
	@$(PY) -m venv --clear .venv/mlflow
	@.venv/mlflow/bin/python -m pip install -q --disable-pip-version-check -r tests/mlflow-server.txt
	@touch $@

$(MOTO_READY): tests/s3-second-server.txt | $(READY)
	@$(PY) -m venv --clear .venv/moto
	@.venv/moto/bin/python -m pip install -q --disable-pip-version-check -r tests/s3-second-server.txt
	@touch $@

$(STRACE):
	-@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq strace >/dev/null; }

# In an environment of its own, so that the auditor is not part of what is audited.
$(AUDIT_READY): | $(READY)
	@$(PY) -m venv --clear .venv/audit
	@.venv/audit/bin/python -m pip install -q --disable-pip-version-check "pip-audit==2.10.1" || { \
	  echo "make audit: pip-audit cannot be installed; it needs the network. Nothing was audited." >&2; exit 1; }
	@touch $@

# The report's tests open it in a real browser. Where it cannot be installed they say what is missing.
$(CHROMIUM):
	-@[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { \
	  echo "Installing chromium for the report's tests; this happens once."; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; }
