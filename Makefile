# One command each: `make run` shows the product, `make test` tests it, `make check` reads the code.
# Everything is installed into .venv by itself; needs Python >= 3.11, git and make.

PYTHON ?= python3
STATE ?= .trimtab
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Set in some images: without byte code every process that starts imports Prefect five times slower.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-long coverage check check-infra check-deps fmt constraints clean

run: $(READY)
	@$(BIN)/trimtab demo --state $(STATE) $(if $(KEEP),--keep) $(if $(FRESH),--fresh) $(if $(THROUGH),--through $(THROUGH))

test: $(READY)
	@$(BIN)/python -m pytest tests -m "not long"

test-long: $(READY)
	@$(BIN)/python -m pytest tests

coverage: $(READY)
	@$(BIN)/python -m pytest tests -m "not long" --cov --cov-report=term-missing:skip-covered

check: $(READY) check-infra check-deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each file by its own tool, where that is installed.
check-infra: $(VENV)/.infra-ready
	@$(BIN)/python -m pytest tests/infra/iac -q -rs
	@echo "not checked: that images build and compose starts (pytest tests/infra/containers does), that the units start" \
		"(pytest tests/infra/machine -m long does), a cluster's own checks"

# Pinned packages: withdrawn, known to break or to be vulnerable, under a licence that does not fit. It says what it could
# not ask.
check-deps: $(VENV)/.infra-ready
	@$(BIN)/python -m trimtab_infra.dependencies constraints.txt

$(VENV)/.infra-ready: $(READY)
	@$(PYTHON) infra/set_up.py $(VENV) infra || \
		echo "some tools of the extra infra cannot be installed here; what they check is skipped below" >&2
	@touch $@

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With uv where it can be had, else with pip; both as pip is configured, behind a proxy or a mirror too (infra/set_up.py).
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; about half a minute) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Trimtab needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Say make PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(PYTHON) infra/set_up.py $(VENV) dev
	@touch $(READY)

constraints: $(READY)
	@{ echo "# The versions that the tests ran with. Made by: make constraints"; \
	   $(BIN)/uv pip freeze --python $(BIN)/python | grep -v -e '^-e' -e '^trimtab' -e '^pip==' -e '^setuptools=='; } > constraints.txt

clean:
	@if [ -x $(BIN)/trimtab ]; then $(BIN)/trimtab down --state $(STATE) --wipe; fi
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
