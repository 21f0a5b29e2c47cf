# Two commands do all their own set-up: `make demo` and `make test`.
# They need Python 3.11 to 3.13 and make, nothing else: PYTHON=python3.12 make test chooses one.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,13))' \
  2>/dev/null && echo $$p && break; done)
VENV ?= .venv
MINUTES ?= 15
PROCESSES ?= -n auto --maxprocesses 4 --dist loadfile
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

.PHONY: demo test test-slow lint format lock clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo [MINUTES=15]  train a cascade on two cores and listen: runs/demo/report.html'
	@echo 'make test               the test suite;  make test-slow: the longer checks'
	@echo 'make lint | format      ruff;            make lock: resolve requirements.lock anew'

demo: $(VENV)/.demo
	$(VENV)/bin/python -m launch.demo --minutes=$(MINUTES) $(if $(OUT),--out=$(OUT))

test: $(VENV)/.all
	$(VENV)/bin/python -m pytest -m 'not slow' $(PROCESSES) $(ARGS)

test-slow: $(VENV)/.all
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.all
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

format: $(VENV)/.all
	$(VENV)/bin/ruff check --fix . ; $(VENV)/bin/ruff format .

# All extras for Python 3.11 to 3.13 in one file; needs uv, which goes into the environment.
lock: $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 --extra all --extra tpu --upgrade --quiet \
	  --no-header --no-annotate --no-emit-index-url setup.py -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo 'error: no Python 3.11 to 3.13 on PATH: install one, or say make PYTHON=/path/to/python3.11'; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'error: $(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv), or use another with make PYTHON=...'; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python requirements.lock setup.py
	@echo 'installing (some 1 GB, once) ...'
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.all: $(VENV)/bin/python requirements.lock setup.py
	@echo 'installing (some 3.4 GB with TensorFlow and Beam, once) ...'
	$(PIP) -e '.[all]'
	@touch $@ $(VENV)/.demo
