# Everything happens in .venv. Its stamps tell what was installed, so that pip runs again only when
# pyproject.toml or constraints.txt changed.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install -qq -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check chaos clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: .venv/.installed ## prune the embedded model at 50% sparsity, print what it cost
	.venv/bin/ghost run demo --sparsity 0.5 --store ghost-runs

test: .venv/.installed-dev ## run the tests
	.venv/bin/python -m pytest

check: .venv/.installed-dev ## lint, format, types, import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/lint-imports

chaos: .venv/.installed-dev ## kill runs, workers and servers 100 times, compare the bytes that runs end in
	.venv/bin/python -m tests.chaos_main --kills 100

clean: ## remove .venv, caches and builds; runs in ghost-runs stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "$(PYTHON) is not Python 3.11 or 3.12, which ghost needs; give one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.installed-dev: EXTRAS := [dev]
.venv/.installed .venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "Installing ghost and its pinned dependencies$(EXTRAS:%= with %) into .venv:" \
		"1-3 minutes, about 2 GB with the CPU build of torch." >&2
	@$(PIP) -e '.$(EXTRAS)'
	@touch .venv/.installed $@
