# make help lists the targets. The first run of each makes .venv and installs what the target needs; later runs re-use it.

VENV ?= .venv
# Options for the command behind a target: make train ARGS="--epochs 5", make test ARGS="-k network".
ARGS ?=
# Test processes at once; auto is one a core.
JOBS ?= auto
# Python keeps what it has compiled of its modules, whatever the environment says (containers often say no): the tests
# start hundreds of processes, and each would compile all of gpubp, and each test process all tests.
unexport PYTHONDONTWRITEBYTECODE

python := $(VENV)/bin/python
typed := .cache/typed
# The extra that brings what the tests need, and a file of constraints for pip: `oldest` sets both.
extra := test
constraints :=
# A stamp is the last thing an installation writes, so one that was cut off is started again.
core := $(VENV)/.installed-core
test := $(VENV)/.installed-test
bench := $(VENV)/.installed-bench
gpu := $(VENV)/.installed-gpu
virtual := $(VENV)/.installed-virtual

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train test quick long suites mutants fuzz pythons newest oldest mlir peers first-steps exhaustive lint types format bench profiles pictures readme-tables gpu-report clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

train: $(core)  ## train a network on the bundled handwritten digits
	@$(VENV)/bin/gpubp train $(ARGS)

# One BLAS thread a test process: the processes fill the cores already.
test: lint  ## check style and types, then run every test
	OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

quick: $(test)  ## run the tests that are not marked slow
	OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist worksteal -m "not slow and not exhaustive" $(ARGS)

long: $(test)  ## run the tests that are long by nature
	OMP_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist worksteal -m exhaustive $(ARGS)

# About an hour on two cores. The rest: make mutants ARGS=--whole
mutants: $(test)  ## break the kernels in every line: a case of gpubp check must fail each time
	$(python) tests/mutants $(ARGS)

# Cases of each loader; a failure names the seed that repeats it.
FUZZ ?= 1500

fuzz: $(test)  ## feed damaged files to every loader, and odd words to the command line, for some minutes
	OMP_NUM_THREADS=1 GPUBP_FUZZ=$(FUZZ) $(python) -m pytest -n $(JOBS) --dist worksteal tests/fuzz $(ARGS)

# A failure does not stop the rest: the last line names each Python with which the tests failed.
pythons:  ## run the quick tests with each Python on this machine
	@$(find_python); failed=; \
	minors=$$("$$found" tests/environments.py pythons) || exit 1; \
	for minor in $$minors; do $(MAKE) python-$$minor || failed="$$failed python-$$minor"; done; \
	[ -z "$$failed" ] || { echo "The quick tests failed in:$$failed" >&2; exit 1; }

newest:  ## run the quick tests with the newest Python on this machine
	@$(find_python); minors=$$("$$found" tests/environments.py pythons) && $(MAKE) python-$${minors##* }

# One of them: make python-3.12. With what pip installs today, where `make test` has fixed compilers.
python-%:
	@$(find_python); path=$$("$$found" tests/environments.py python $*) || exit 1; \
	echo "Quick tests with Python $*, in .cache/$@"; \
	$(MAKE) quick VENV=.cache/$@ PYTHON="$$path" extra=tools

oldest:  ## run the quick tests with the oldest Python and dependencies that pyproject.toml allows
	@mkdir -p .cache; $(find_python); \
	path=$$("$$found" tests/environments.py python) || exit 1; \
	"$$found" tests/environments.py constraints > .cache/oldest.txt || exit 1; \
	echo "Quick tests with the oldest dependencies, in .cache/oldest"; \
	$(MAKE) quick VENV=.cache/oldest PYTHON="$$path" extra=tools constraints=.cache/oldest.txt || \
	    { echo "The quick tests failed in: oldest" >&2; exit 1; }

mlir:  ## run the kernels in Python with numba-cuda-mlir, NVIDIA's successor of numba-cuda
	$(MAKE) successor VENV=.cache/mlir extra=mlir,bench

successor: $(test)
	GPUBP_NUMBA=numba-cuda-mlir $(python) -m pytest tests/successor.py $(ARGS)

# With PyTorch too if that environment has it: .cache/peers/bin/pip install torch.
peers:  ## compare training with scikit-learn's, and with PyTorch's where that is installed
	$(MAKE) compared VENV=.cache/peers extra=compared

compared: $(test)
	$(python) -m pytest tests/peers.py $(ARGS)

first-steps: $(test)  ## run the first commands after an installation, as different people meet them
	$(python) -m pytest -n $(JOBS) --dist worksteal tests/first_steps.py $(ARGS)

# Each takes half an hour or more. CuPy's source package is fetched.
suites: $(test)  ## run numba-cuda's and CuPy's own tests on the virtual device
	$(python) tests/suites/run.py numba-cuda --jobs $(JOBS) $(ARGS)
	$(python) tests/suites/run.py cupy --jobs $(JOBS) $(ARGS)

# Of the mutants a fixed sample, and of numba-cuda's own tests two of each module: all of them take an hour.
exhaustive: long fuzz newest oldest peers first-steps  ## run long, fuzz, newest, oldest, peers, first-steps, and samples of mutants and suites
	$(MAKE) mutants ARGS="--sample 40"
	$(python) tests/suites/run.py numba-cuda --jobs $(JOBS) --most 2

lint: $(test) types  ## check style and types
	$(python) -m ruff check
	$(python) -m ruff format --check

# mypy sees gpubp.kernels only where the wheel has put it. The old build goes first: setuptools keeps deleted modules.
types: $(test)
	@rm -rf build $(typed)
	@$(python) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --target $(typed) .
	@rm -rf build gpubp.egg-info
	cd $(typed) && $(abspath $(python)) -m mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

format: $(test)  ## rewrite the code in the project's style
	$(python) -m ruff check --fix
	$(python) -m ruff format

bench: $(bench)  ## run the benchmarks
	$(python) -m pytest benchmarks --benchmark-enable --benchmark-only $(ARGS)

profiles: $(test)  ## store the kernels' profiles anew, and say what changed
	$(python) tests/profiler/compiled_plans.py
	$(python) tests/profiler/stored_profiles.py

pictures: $(test)  ## draw the README's pictures anew; those of pages need Chromium
	$(python) .github/images/training_step.py
	$(python) .github/images/explain_pages.py

readme-tables: $(core)  ## write the README's figures of GPUs anew, from the results in .github/gpu
	@$(python) .github/gpu/readme_tables.py $(ARGS)

# The virtual device is for the real CuPy, which no machine without a GPU has otherwise.
gpu-report: $(if $(findstring virtual,$(ARGS)),$(virtual),$(gpu))  ## check, train, measure and profile on this machine, its GPU if it has one: report.html and report.json
	@$(VENV)/bin/gpubp report $(ARGS)

clean:  ## remove what the other targets made, but not runs/
	rm -rf $(VENV) .cache .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist gpubp.egg-info
	find gpubp kernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(core): pyproject.toml
	$(call install,)
	@touch $@

$(test): pyproject.toml
	$(call install,[$(extra)])
	@touch $(core) $@

$(bench): pyproject.toml
	$(call install,[bench])
	@touch $(core) $@

# What the driver needs is known once the core is there to ask it.
$(gpu): $(core)
	@$(python) -c "from gpubp.backends.detection import extras; print(extras())" > $(VENV)/extras
	$(call install,[$$(cat $(VENV)/extras)])
	@touch $@

$(virtual): $(core)
	@$(python) -c "from gpubp.backends.detection import extras; print(extras(virtual=True))" > $(VENV)/extras
	$(call install,[$$(cat $(VENV)/extras)])
	@touch $@

# A virtual environment whose pip does not run (its making was cut off, or its Python has gone) is made afresh.
define install
	@if ! $(python) -m pip --version >/dev/null 2>&1; then \
	    $(find_python); \
	    echo "Making $(VENV) with $$found"; "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "Installing gpubp$(1) into $(VENV): a minute or more the first time"
	@$(python) -m pip install -q --disable-pip-version-check --no-input $(constraints:%=-c %) -e ".$(1)"
endef

# The first Python that is new enough and can make a virtual environment (Debian's needs python3-venv for that).
# Each candidate is run: a launcher may be there for a version that is not.
define find_python
found=; \
for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
        found=$$candidate; break; \
    fi; \
done; \
if [ -z "$$found" ]; then \
    echo "gpubp needs Python 3.11 or later with the modules venv and ensurepip; none among:" \
         "$(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)." >&2; \
    echo "Install one (on Debian: apt-get install python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
    exit 1; \
fi
endef
