# One way to do each thing from the outside; CI runs the same targets. Everything happens in $(VENV).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
JOBS ?= 2
RACE ?= --data digits
RUN ?= all
TESTS ?=
MUTANTS ?=
HOSPITAL ?=
CLAIMS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --constraint $(CONSTRAINTS)
SOURCES := $(wildcard src tests benchmarks experiments faults hospital mutants recipes examples docs *.md)
# what is called with --json FILE measures speed on this machine
BENCHMARKS = $(notdir $(basename $(shell grep -l -e '^    python -m benchmarks\..* --json' benchmarks/*.py)))
# two processes of tests share the cores, so each computes with one thread; bits as the command promises them
TESTING := OMP_NUM_THREADS=1 MKL_CBWR=$${MKL_CBWR-AVX2} $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help race test check format bench faults hospital mutants experiments experiments-run claims docs findings clean

help: ## Say what can be made.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

race: $(VENV)/.run ## Race the optimizers on handwritten digits; other data: make race RACE="--data mine.csv ..."
	$(BIN)/thalweg race $(RACE)

test: $(VENV)/.dev ## Run the tests, the examples in docs and docstrings included; some of them: make test TESTS=...
	$(TESTING) --numprocesses $(JOBS) $(TESTS)

check: $(VENV)/.dev ## Check format, lint, types and the import order.
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(TESTING) -q tests/test_architecture.py

format: $(VENV)/.dev ## Put the code into its one format.
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(VENV)/.bench ## Run every benchmark; the results go to benchmarks/results/, and into docs/verdict.md.
	@mkdir -p benchmarks/results
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --json benchmarks/results/$$name.json; done
	$(BIN)/python -m benchmarks.verdict_calibration --write

faults: $(VENV)/.dev ## Kill, damage and fill up trainings; the table goes to docs/faults.md. Takes half an hour; one scenario: python -m faults --only NAME .
	$(BIN)/python -m faults --json faults/results.json --write docs/faults.md

hospital: $(VENV)/.dev ## Diagnose trainings whose causes are known, and try the remedies; the table goes to docs/hospital.md. Takes hours; what is there isn't run again; some: make hospital HOSPITAL="--only softmax".
	OMP_NUM_THREADS=1 MKL_CBWR=$${MKL_CBWR-AVX2} $(BIN)/python -m hospital --jobs $(JOBS) --seeds 12 $(HOSPITAL) --write docs/hospital.md

mutants: $(VENV)/.dev ## Change each formula a little and see that a test fails; some: make mutants MUTANTS="rules Adam"
	OMP_NUM_THREADS=1 MKL_CBWR=$${MKL_CBWR-AVX2} $(BIN)/python -m mutants --jobs $(JOBS) $(if $(MUTANTS),--only $(MUTANTS))

experiments: $(VENV)/.dev ## Write the pages of docs/experiments from the results in experiments/results.
	$(BIN)/python -m experiments --write

experiments-run: $(VENV)/.dev ## Train what isn't there yet, in an hour of one core, and write the pages; some: make experiments-run RUN="greedy --seeds 20"
	OMP_NUM_THREADS=1 MKL_CBWR=$${MKL_CBWR-AVX2} $(BIN)/python -m experiments $(RUN) --write

claims: $(VENV)/.dev ## Measure all claims of the lectures, in twenty minutes of two cores, and write docs/claims; go on after a stop: make claims CLAIMS="--resume"
	$(BIN)/thalweg claims run $(if $(findstring --resume,$(CLAIMS)),,all) --out runs/claims $(CLAIMS)
	$(BIN)/python docs/gallery.py runs/claims

docs: $(VENV)/.dev ## Write the generated parts of the docs anew, and run all examples.
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/rooms.py
	$(BIN)/python docs/paths.py
	$(BIN)/python docs/augmentation.py
	$(BIN)/python docs/gallery.py
	$(TESTING) -q tests/test_docs.py tests/test_examples.py

findings: $(VENV)/.dev ## Draw what each finding of a diagnosis looks like, in a few minutes; some: make findings FINDINGS="saddle cliff".
	OMP_NUM_THREADS=1 MKL_CBWR=$${MKL_CBWR-AVX2} $(BIN)/python docs/finding_pictures.py $(FINDINGS)
	$(BIN)/python docs/generate.py

clean: ## Remove the virtual environment and what the tools left behind.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist src/*.egg-info

# A stamp is newer than what it was made from, so that a second call installs nothing.

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "make: there is no python3; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: $(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "make: $(PYTHON) can't make virtual environments; install its venv module (Debian: python3-venv)" >&2; \
		exit 1; }
	@touch $@

# torch by itself and first: whatever asks for torch afterwards finds the pinned one in its place
$(VENV)/.run: $(VENV)/.made pyproject.toml $(CONSTRAINTS)
	$(INSTALL) torch
	$(INSTALL) --editable .
	@$(INSTALL) --editable '.[fast]' || \
		echo "make: numba can't be installed here; everything works without it, more slowly"
	@$(INSTALL) --editable '.[augment]' || \
		echo "make: kornia can't be installed here; everything but augmentation works without it"
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	@$(INSTALL) --editable '.[bench]' || \
		echo "make: jax can't be installed here; the comparison with it is left out"
	@touch $@
