# Each target makes its own environment in $(VENV) when there is none.
#   make demo TORCH='torch==2.13.0+cu128'     another PyTorch build
#   make test PYTEST='-k loader'              a part of the tests
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PYTEST ?=
CAMPAIGN ?= 10000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_STAMP := $(VENV)/.has-$(notdir $(firstword $(TORCH)))
# An editable installation builds them in place, and again when one of them has changed.
KERNELS := $(wildcard shards/native/*.[ch])

.PHONY: demo test check bench campaign

demo: $(STAMP)-make
	$(BIN)/sed-distill demo --out demo-out

test: $(STAMP)-test
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST)

check: $(STAMP)-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)-test
	$(BIN)/python -m benchmarks

campaign: $(STAMP)-test
	$(BIN)/python -m pytest --campaign $(CAMPAIGN) -m campaign $(PYTEST)

# PyTorch by name and first: a bare requirement would take the newest build with gigabytes of CUDA packages. The stamp is
# written last, so that an installation that broke off is taken up again, and names the build, so that another replaces it.
$(TORCH_STAMP):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	rm -f $(VENV)/.has-*
	touch $@

$(STAMP)-make: pyproject.toml $(KERNELS) | $(TORCH_STAMP)
	$(BIN)/pip install --quiet --editable '.[make,fast]'
	touch $@

$(STAMP)-test: pyproject.toml $(KERNELS) | $(TORCH_STAMP)
	$(BIN)/pip install --quiet --editable '.[make,fast,hdf5,s3,test]'
	$(BIN)/pip install --quiet 'setuptools>=77.0.3,<81' wheel cython 'pandas<3' scipy
# Needs a C compiler; without one the comparisons with it are skipped, saying so.
	-$(BIN)/pip install --quiet --no-build-isolation sed_scores_eval==0.0.4
	touch $@

$(STAMP)-check: pyproject.toml $(KERNELS) | $(TORCH_STAMP)
	$(BIN)/pip install --quiet --editable '.[make,fast,hdf5,s3,test,check]'
	touch $@
