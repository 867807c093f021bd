# make demo   from a fresh clone to a drone photo with a position (about 12 minutes on 2 cores, once installed)
# make test   all tests          make check  ruff, mypy, architecture          make bench  latency of the sample bundle

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,map,cities,train,export,bench,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python -m bench.demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(READY)
	$(BIN)/python -m bench.demo --out runs/demo --only bench

clean:
	rm -rf runs build *.egg-info
