# `make help` lists the targets. Everything is installed into .venv, nothing outside this folder.
#
# PYTHON is the Python that .venv is made with, as in `make PYTHON=python3.12 install`. A .venv that is there
# keeps its own; `make distclean` first to change it. JOBS is how many processes test, each with some 2 GB:
# three keep two cores busy, since many a test waits for what it started.

PYTHON ?= python3
PYTEST_ARGS ?=
JOBS ?= 3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq
DEMO := runs/demo

# An idle process takes over tests of a busy one. One that dies fails the test that it ran, and is not replaced:
# what killed it, such as a damaged heap, would kill the next.
TEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --max-worker-restart 0 $(PYTEST_ARGS)

# Figures are drawn into files: no display is needed.
export MPLBACKEND := Agg
# Python keeps what it compiles, also where this is switched off, as in many a container: a hundred processes of the
# tests would each compile all anew.
export PYTHONDONTWRITEBYTECODE :=
# The documentation's theme would print an announcement at every build.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help install test coverage lint docs gpu-check demo wheel clean distclean
# Targets given together run one after the other, also with -j: their outputs would mix, and all need .venv.
.NOTPARALLEL:
.SUFFIXES:

NAME_ONE := name one of 3.10 to 3.13, as in  make PYTHON=python3.12 install
# Whether a Python is one that can be used.
supported = "$(1)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

# Shows a command as it would be typed, and runs it.
define show
@echo '$$ $(strip $(1))'
@$(strip $(1))
endef

help: ## list the targets
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv and install the project with its tools there (about 6 GB, some minutes)
	@echo 'Installed in $(VENV): try $(BIN)/nas-plugins --help'

$(STAMP): pyproject.toml constraints.txt
	@{ $(call supported,$(BIN)/python) && $(BIN)/python -m pip --version; } >/dev/null 2>&1 || { \
	  command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo 'No Python at "$(PYTHON)": $(NAME_ONE)' >&2; exit 1; }; \
	  $(call supported,$(PYTHON)) || { \
	    echo '"$(PYTHON)" is' "$$("$(PYTHON)" --version 2>&1)," 'which is not 3.10 to 3.13: $(NAME_ONE)' >&2; exit 1; }; \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '"$(PYTHON)" lacks venv: install it (python3-venv on Debian and Ubuntu), or $(NAME_ONE)' >&2; exit 1; }; \
	  "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "Installing into $(VENV) with $$($(BIN)/python --version): about 6 GB, some minutes ..."
	@$(PIP) install --upgrade pip
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

test: $(STAMP) ## run the tests (PYTEST_ARGS="-m 'not slow'" leaves out the slow ones)
	@$(TEST)

coverage: $(STAMP) ## run the tests and show which lines they leave out
	@$(TEST) --cov --cov-report=term-missing:skip-covered

lint: $(STAMP) ## run ruff and mypy
	$(call show, $(BIN)/ruff check .)
	$(call show, $(BIN)/mypy)

gpu-check: $(STAMP) ## check a GPU in 8 minutes (IMAGES=FOLDER for the images of CIFAR-10 by class, DRY=1 for a CPU)
	$(call show, $(BIN)/python -W ignore benchmarks/gpu_check.py runs/gpu_check $(if $(IMAGES),--images $(IMAGES)) \
	  $(if $(DRY),--dry))

docs: $(STAMP) ## build the documentation into site
	$(call show, $(BIN)/mkdocs build --strict --quiet)

demo: $(STAMP) ## search, retrain, evaluate and report on a small data set, into runs/demo
	@rm -rf $(DEMO)
	$(call show, $(BIN)/nas-plugins demo --output $(DEMO))

wheel: $(STAMP) ## build the wheel into dist
	@rm -rf build dist
	$(call show, $(BIN)/python -m build --wheel --no-isolation)
	@rm -rf build

clean: ## remove what was built and cached; .venv and runs stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis lightning_logs
	@find . -path ./$(VENV) -prune -o -path ./.git -prune -o \
	  -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## as clean, and remove .venv too
	rm -rf $(VENV) *.egg-info
