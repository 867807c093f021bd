# make demo   from a fresh clone to a drone photo with a position (about 14 minutes on 2 cores, once installed)
# make test   all tests          make check  ruff, mypy, architecture          make bench  latency of the sample bundle
# make coverage, make test-kernels, make test-oldest, make test-newest   the tests again, see each below
# make kernels   compile the GPU's kernels (nvcc 13)     make gpu-test, make gpu-bench   on a machine with an NVIDIA GPU

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test coverage test-kernels test-oldest test-newest check bench clean kernels gpu-test gpu-bench gpu-regimes

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,map,video,register,cities,train,export,sign,rtx,bench,dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo/demo.py --out runs/demo

# A process per core, each with one thread for its products. Bytecode is written, whatever the shell says: each process
# of a test would compile the packages again.
TEST := -m pytest -n auto --dist worksteal
test coverage: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)
	$(BIN)/python $(TEST)

# What the tests of make test execute, as a table; it takes about half as long again.
coverage: $(READY)
	$(BIN)/python $(TEST) --cov --cov-report=term:skip-covered

# The tests whose numbers pass through a BLAS or an engine, under every kernel that this machine offers.
test-kernels: $(READY)
	$(BIN)/python tests/under_kernels.py

# The runtime's tests with the lowest versions that pyproject.toml allows, on Python 3.10, which uv downloads where none
# is found; and with the newest that the package index has, on the newest Python found. Each in an environment of its own.
RUNTIME := '.[cpu,map,video,register,sign,dev]' 'onnx>=1.17'
RUNTIME_TESTS := -m pytest tests/dphr_infer -n auto --dist worksteal
# The first of these versions that runs: on PATH, where a pyenv shim may not, or among pyenv's.
PYENVS := $${PYENV_ROOT:-$$HOME/.pyenv}/versions
running = $(shell for p in $(foreach v,$(1),python$(v) $(PYENVS)/$(v).*/bin/python); do \
    $$p -c "" 2>/dev/null && command -v $$p && break; done)
OLDEST_PYTHON ?= $(or $(call running,3.10),3.10 --managed-python)
NEWEST_PYTHON ?= $(or $(call running,3.14 3.13 3.12 3.11),$(PYTHON))
test-oldest test-newest:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv
	build/uv/bin/uv venv --quiet --clear --python $(if $(filter test-oldest,$@),$(OLDEST_PYTHON),$(NEWEST_PYTHON)) build/$@
	build/uv/bin/uv pip install --quiet --python build/$@/bin/python \
	    --resolution $(if $(filter test-oldest,$@),lowest-direct,highest) -e $(RUNTIME)
	build/$@/bin/python --version
	build/$@/bin/python $(RUNTIME_TESTS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(READY)
	$(BIN)/python examples/demo/demo.py --out runs/demo --only bench

# A site in build/docs that loads nothing from a network.
.PHONY: docs
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "build/docs/index.html"

$(VENV)/.docs-ready: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf runs build *.egg-info

# Commit what it writes: dphr_infer/cuda/{topk,preprocess}/*.fatbin and *.json, tests/stand_ins/kernel_usage.json.
kernels: $(READY)
	$(BIN)/python -m dphr_infer.cuda.build
	$(BIN)/python tests/stand_ins/kernel_sources.py

# PyCUDA is built against the machine's CUDA toolkit. With PyCUDA elsewhere: make gpu-test GPU_PYTHON=python3
GPU_PYTHON ?= $(BIN)/python
GPU_READY := $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.gpu-ready)
SANITIZER := $(shell command -v compute-sanitizer)
SANITIZED := -m pytest tests/gpu -p no:cacheprovider -k "sanitized"

$(VENV)/.gpu-ready: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda]'
	touch $@

# Writes bench/reports/gpu-tests.json where a GPU ran something.
gpu-test: $(GPU_READY)
	$(GPU_PYTHON) -m pytest tests/gpu -rs
ifneq ($(SANITIZER),)
	$(SANITIZER) --tool memcheck --error-exitcode 9 $(GPU_PYTHON) $(SANITIZED)
	$(SANITIZER) --tool racecheck --error-exitcode 9 $(GPU_PYTHON) $(SANITIZED)
else
	@echo "compute-sanitizer is not on PATH: memcheck and racecheck were not run"
endif

gpu-bench: $(GPU_READY)
	$(GPU_PYTHON) -m bench gpu matching --json bench/reports/gpu-matching.jsonl
	$(GPU_PYTHON) -m bench gpu pipeline samples/bundle --json bench/reports/gpu-pipeline.jsonl

# Commit what it writes: dphr_infer/cuda/topk/topk_regimes.json.
gpu-regimes: $(GPU_READY)
	$(GPU_PYTHON) -m bench gpu regimes
