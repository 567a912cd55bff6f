# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: train test test-all lessons lint docs peers browser notebooks mpi bench clean

train: .venv/core  ## train the full ResNet-50 on the built-in hand signs
	$(BIN)/minires train $(ARGS)

# a test runs on one core, two tests side by side; the kernels' own threads are tested by name
PYTEST := MINIRES_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: .venv/test  ## pass the tests, all but the slow proofs
	$(PYTEST) -m "not slow" $(ARGS)

test-all: .venv/test  ## pass every test
	$(PYTEST) $(ARGS)

lessons: .venv/core  ## measure every lesson in full and check its claims
	$(BIN)/minires lesson all $(ARGS)

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/repo-review .

docs: .venv/docs  ## the pages of the API and the guides, to open in a browser
	$(BIN)/python -m minires.guides build/docs

peers: .venv/peers  ## PyTorch and Keras, for the parity tests and the benchmarks

browser: .venv/browser  ## what the pages' tests need, beside Debian's chromium

notebooks: .venv/notebooks  ## what executes the lessons' notebooks

mpi: .venv/mpi  ## what the tests of several processes need

bench: .venv/peers  ## two minutes: the machine's limits, a step and an inference against PyTorch and Keras
	$(BIN)/minires bench $(ARGS)

.venv/python:
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'minires needs Python 3.11 or newer: make PYTHON=python3.12'"
	$(PYTHON) -m venv .venv
	touch $@

.venv/core: .venv/python pyproject.toml setup.py $(wildcard minires/fast/cpu/*.[ch])
	$(PIP) --no-compile --editable .  # Python compiles the small part that is imported
	touch $@

.venv/test: .venv/core
	$(PIP) --editable '.[test]'
	$(BIN)/python -m compileall -q -j 0 .venv/lib || true  # tests start many processes
	touch $@

# torch by its version first: it has a CPU build, and plain `torch` may bring gigabytes of CUDA
.venv/peers: .venv/test
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[test,peers]'
	touch $@

.venv/docs: .venv/core
	$(PIP) --editable '.[docs]'
	touch $@

.venv/browser: .venv/test
	$(PIP) --editable '.[test,browser]'
	touch $@

.venv/notebooks: .venv/test
	$(PIP) --editable '.[test,notebooks]'
	touch $@

.venv/mpi: .venv/test
	$(PIP) --editable '.[test,mpi]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
