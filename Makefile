# Everything a person needs: make demo, make test. The rest is for those who work on Primum.
#
#   PYTHON=python3.12   the interpreter to build .venv with (3.11 or later)
#   TORCH=cuda          take PyTorch with CUDA (about 5 GB) instead of the CPU build

PYTHON ?= python3
TORCH ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.primum-ready
TORCH_VERSION := 2.13.0
SOURCES := platform operators pipelines policies

# Byte code halves the time of every import; one thread keeps two busy cores from fighting over torch's spinning ones.
unexport PYTHONDONTWRITEBYTECODE
export OMP_NUM_THREADS ?= 1
# Hospitals often sit behind a proxy with a certificate authority of their own: trust what the system trusts.
export UV_SYSTEM_CERTS ?= 1

.PHONY: setup demo test test-all check types lint architecture bench verify sim clean clean-demo help

help:
	@echo "make demo      set up and run the breast-cancer Study from apply to a served model"
	@echo "make test      set up and run the tests"
	@echo "make test-all  the same with the slow suites"
	@echo "make check     lint, types, architecture"
	@echo "make bench     measure; see docs/benchmarks.md"
	@echo "make verify    regenerate everything checked in, check, and fail on a difference"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Primum needs Python 3.11 or later; set PYTHON=python3.x"; rm -rf $(VENV); exit 1; }
	@$(BIN)/pip install --quiet --constraint constraints.txt uv
	@$(MAKE) --no-print-directory torch-$(TORCH)
	@echo "installing Primum and its libraries (about 1 GB)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode --editable ".[all]" --group dev
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable examples/plugins/leaky_sgd
	@touch $@

.PHONY: torch-cpu torch-cuda
torch-cpu:
	@$(BIN)/python -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('$(TORCH_VERSION)'))" 2>/dev/null \
	 || { [ "$$(uname -s)-$$(uname -m)" != Linux-x86_64 ] && $(BIN)/pip install --quiet torch==$(TORCH_VERSION); } \
	 || $(BIN)/pip install --quiet torch==$(TORCH_VERSION)+cpu 2>/dev/null \
	 || $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=cpu torch==$(TORCH_VERSION) \
	 || { echo "PyTorch's CPU build cannot be reached from here. 'make setup TORCH=cuda' takes the CUDA build instead: about 5 GB."; exit 1; }

torch-cuda:
	@echo "PyTorch with CUDA: downloading about 5 GB"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt torch==$(TORCH_VERSION)

demo: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

clean-demo:
	-@$(BIN)/primum down
	rm -rf .primum

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist loadgroup

sim: setup
	$(BIN)/python -m pytest tests/simulation

bench: setup
	$(BIN)/python -m pytest tests/benchmarks --benchmark

check: lint types architecture

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

architecture: setup
	$(BIN)/lint-imports

verify: setup
	$(BIN)/python -m primum_operators.schema --write
	$(MAKE) --no-print-directory check test
	git diff --exit-code

clean: clean-demo
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
