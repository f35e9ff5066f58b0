# Everything a checkout needs. `make demo` and `make test` set themselves up: a virtual environment of their
# own in .venv, filled from requirements.lock, nothing global. Needs make and a Python 3.11 to 3.13.
#
#   make test ARGS="-k parsing"          some of the tests
#   make lock ARGS=--upgrade             newer versions of everything
#   make setup PYTHON=/path/to/python3   another interpreter (with `make clean` first, where .venv exists)

VENV := .venv
UV_VERSION := 0.13.8

# Stamps: this uv is in .venv; the lock has been installed. Both are written last, so a set-up that was killed
# starts over. SETUP bears the time at which its set-up began, so that a lock changed meanwhile is seen.
BOOTSTRAP := $(VENV)/.uv-$(UV_VERSION)
SETUP := $(VENV)/.setup
UV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(VENV)/bin/uv

# Tests run two at a time on two cores: one thread each, and the network is not asked. A worker keeps to its half of
# the files until it has none left, so that what a file's tests share is made once. Bytecode is written whatever the
# environment says: a hundred processes need not compile this package each.
TWO_WORKERS := -n 2 --dist worksteal
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
	PYTHONDONTWRITEBYTECODE=

.PHONY: help setup demo check test lint certificate evidence lock wheel clean

help:
	@echo "make demo    the whole experiment on a drawn world, in minutes, without GPU or network"
	@echo "make check   lint, types and the fast tests, about two minutes on two cores"
	@echo "make test    all tests (ARGS=... goes to pytest)"
	@echo "make lint    ruff and mypy"
	@echo "make certificate  is the drawn world a place to compare methods? about a quarter of an hour"
	@echo "make evidence     everything too long for the tests, hours; then the tables of the documents"
	@echo "make setup   .venv with the locked packages; the targets above do it by themselves"
	@echo "make lock    requirements.lock anew from pyproject.toml"
	@echo "make wheel   dist/*.whl"
	@echo "make clean   removes .venv, dist and caches; runs stay"

setup: $(SETUP)

demo: $(SETUP)
	$(VENV)/bin/throughline demo

test: $(SETUP)
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest $(TWO_WORKERS) $(ARGS)

check: lint
	$(TEST_ENVIRONMENT) $(VENV)/bin/python -m pytest $(TWO_WORKERS) -m "not slow" $(ARGS)

lint: $(SETUP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

certificate: $(SETUP)
	$(VENV)/bin/python bench/certificate.py

# In this order: what is long goes on where it was stopped; what is timed wants an idle machine, so nothing runs
# beside it (no -j: each line waits for the one before).
evidence: certificate
	$(VENV)/bin/python bench/evidence.py demo-full
	$(VENV)/bin/python bench/evidence.py digits
	$(VENV)/bin/python bench/evidence.py chains
	$(VENV)/bin/python bench/evidence.py sensitivity
	$(VENV)/bin/python bench/evidence.py open-styles
	$(VENV)/bin/python bench/evidence.py open-styles-head
	$(VENV)/bin/python bench/evidence.py demo-kills
	$(VENV)/bin/python bench/evidence.py demo-time
	$(VENV)/bin/python bench/evidence.py cost-of-demo
	$(VENV)/bin/python bench/evidence.py help-time
	$(VENV)/bin/python bench/evidence.py demo-profile
	$(VENV)/bin/python bench/evidence.py bench-step
	$(VENV)/bin/python bench/evidence.py bench-step-ablated
	$(VENV)/bin/python bench/evidence.py bench-memory
	$(VENV)/bin/python bench/evidence.py bench-score
	$(VENV)/bin/python bench/evidence.py bench-sample
	$(VENV)/bin/python bench/evidence.py bench-evaluate
	$(VENV)/bin/python bench/evidence.py bench-ood
	$(VENV)/bin/python bench/evidence.py bench-drift
	$(VENV)/bin/python bench/evidence.py bench-preference
	$(VENV)/bin/python bench/evidence.py bench-classifiers
	$(VENV)/bin/python bench/evidence.py bench-scale
	$(VENV)/bin/python bench/evidence.py bench-input
	$(VENV)/bin/python bench/evidence.py bench-teacher
	$(VENV)/bin/python bench/evidence.py budgets
	$(VENV)/bin/python bench/evidence.py explanations
	$(VENV)/bin/python bench/evidence.py dependence
	$(VENV)/bin/python bench/evidence.py damage
	$(VENV)/bin/python bench/evidence.py in-context
	$(VENV)/bin/python bench/evidence.py baselines
	$(VENV)/bin/python bench/evidence.py baselines-real
	$(VENV)/bin/python bench/evidence.py smol
	$(VENV)/bin/python bench/evidence.py drift-planted
	$(VENV)/bin/python bench/evidence.py drift-study
	$(VENV)/bin/python bench/evidence.py screenshot
	$(VENV)/bin/python bench/evidence.py docs

# The lock holds for Linux, macOS and Windows and for every supported Python, with one version of a package
# for all of them where one exists (--fork-strategy fewest). It names no index: yours is asked. Versions that
# still fit pyproject.toml stay.
lock: $(BOOTSTRAP)
	$(UV) pip compile pyproject.toml --extra dev --extra bench --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock $(ARGS)

wheel: $(SETUP)
	$(UV) build --wheel --no-build-isolation --out-dir dist

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(SETUP): requirements.lock pyproject.toml | $(BOOTSTRAP)
	@rm -f $@; touch $@.started
	$(UV) pip sync --compile-bytecode requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@mv $@.started $@

# Python to begin with: the one named, else the first fitting one in the PATH that can make environments.
FITTING := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# After a set-up that was killed a package may lie there in half: then .venv is made anew.
ifneq ($(wildcard $(SETUP).started),)
.PHONY: $(BOOTSTRAP)
endif

$(BOOTSTRAP):
	@rm -f $(SETUP); chosen=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3 python); do \
		if "$$python" -c "$(FITTING)" >/dev/null 2>&1; then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
		echo "no Python 3.11, 3.12 or 3.13 with its venv module found [$(or $(PYTHON),PATH)]: install one" \
			"(Debian: python3 python3-venv) or name one, make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "$$chosen -m venv $(VENV)"; "$$chosen" -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
