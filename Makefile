# `make demo` and `make test` do all the set-up themselves: an environment in .venv, made once.
PYTHON ?= python3
VENV ?= .venv
# Exact versions, for Python 3.11 or newer; `make CONSTRAINTS=` installs the newest that fit.
CONSTRAINTS ?= -c constraints.txt
WORKERS ?= auto
FRAMES ?= 200

BIN := $(VENV)/bin
# One thread per process: proteins of this size gain nothing from more, and the tests run in parallel.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test quick lint gpu-bundle gpu-rehearsal clean

demo: $(VENV)/.analysis
	$(BIN)/openmm-starmd run "$$($(BIN)/python -c 'import openmm.app, os; print(os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb"))')" \
		--frames $(FRAMES) --seed 1 --output demo --resume

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -n $(WORKERS)

# The everyday command: the fast tests, in one process.
quick: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# What a lent GPU machine needs, in .gpu (ignored): wheels, structures, MD. SHARED is the folder that holds data/.
SHARED ?= ../shared
gpu-bundle: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu.bundle --shared $(SHARED)

# The GPU script, end to end on the CPU with tiny sizes.
gpu-rehearsal: $(VENV)/.test
	BUNDLE=none WORK=.gpu-rehearsal PYTHON=$(BIN)/python bash benchmarks/gpu/run.sh --rehearse --output .gpu-rehearsal/results

clean:
	rm -rf $(VENV) demo

# torch goes first and alone, so that whatever build of it pip is set up to find is the one that stays.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -m virtualenv $(VENV); } || \
		{ echo "No way to make a virtual environment: install python3-venv (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet torch==2.13.0
	touch $@

$(VENV)/.analysis: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[analysis]'
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[test]'
	touch $@
