# Everything a checkout needs. Each target first makes .venv and installs into it, once, and again only
# when pyproject.toml or constraints.txt has changed.
#
#   make test PYTHON=python3.12      another interpreter than python3
#   make test TORCH_INDEX=...        another build of torch (default: for the CPU)
#   make test ARGS="tests/envs -x"   more arguments for pytest
#   make test JOBS=4                 more processes that run tests (0: none beside pytest, for a debugger)
#   make test-serving GROUPS="envoy routers"   some groups of the tests against real serving systems

PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS ?=
JOBS ?= 2

BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/pip --quiet --no-input --disable-pip-version-check
# Each process takes half of the tests, in order, and then from what the other has left: both load and compile
# little that the other does too.
PYTEST := -m pytest -n $(JOBS) --dist worksteal --durations=20 --durations-min=5
PACKAGES := agents conf costmodels envs experiments

# Tests against real serving systems, one environment a group (tests/serving/environment.py). They find the
# package in SITE, installed as anybody would but without its dependencies, and all of .venv by SERVEGYM_PYTHON.
GROUPS ?= $(patsubst tests/serving/%/requirements.txt,%,$(wildcard tests/serving/*/requirements.txt))
SITE := build/serving/site
ENVIRONMENT := TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python tests/serving/environment.py

.PHONY: help install demo test test-slow test-serving test-serving-slow test-witness lint format docs bench live \
    coverage clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       train a router on a production trace, compare it with published ones, export it"
	@echo "make test       the tests, without the slow ones"
	@echo "make test-slow  the slow tests"
	@echo "make test-serving  our plugins in the real serving systems (installs them: 8 GB, no GPU)"
	@echo "make test-serving-slow  those of them that take minutes"
	@echo "make test-witness  our schedulers against vLLM's own (installs it: 2.3 GB, no GPU)"
	@echo "make live       our routers and those of serving systems before emulated workers, a table"
	@echo "make lint       style, types and the layer rule"
	@echo "make format     rewrite the sources in the project's style"
	@echo "make docs       the documentation site, build/site/index.html"
	@echo "make bench      measure the simulator, the environments and learning"
	@echo "make coverage   share of lines that the tests run; fails under 85 %"
	@echo "make install    only make .venv and install into it"
	@echo "make clean      remove what the other targets wrote, but .venv and runs/"

install: $(INSTALLED)

# torch first and alone: of all packages it is the only one taken from TORCH_INDEX, and an index that
# cannot be reached costs seconds. setuptools then builds without a second, unpinned environment.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "servegym needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv (a few minutes the first time)"
	@$(PIP) install --no-deps --constraint constraints.txt --retries 1 --timeout 30 \
	    --extra-index-url $(TORCH_INDEX) torch setuptools
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev,serving]'
	@touch $@

# The main job, as the README shows it.
demo: $(INSTALLED)
	$(BIN)/servegym train scenario=azure_conv_8xh100 agent=ppo_gnn run_dir=runs/demo
	$(BIN)/servegym evaluate run_dir=runs/demo
	$(BIN)/servegym export run_dir=runs/demo

test: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m slow $(ARGS)

# All groups are run, whatever fails. pytest ends with 5 where it found no test: all of the group's are slow.
define test_serving
@rm -rf $(SITE) build/lib build/bdist.*
@$(PIP) install --no-deps --no-build-isolation --target $(SITE) .
@passed=0; failed=0; skipped=0; for group in $(GROUPS); do \
    echo "Tests in the environment of $$group"; \
    python=$$($(ENVIRONMENT) $$group) && PYTHONPATH=$(abspath $(SITE)) \
    SERVEGYM_PYTHON=$(abspath $(BIN)/python) OMP_NUM_THREADS=1 \
    "$$python" -m pytest -c tests/serving/pytest.ini --durations=5 --durations-min=5 -m $(1) $(ARGS) \
    tests/serving/$$group; \
    case $$? in \
        0) passed=$$((passed + 1)) ;; \
        5) skipped=$$((skipped + 1)) ;; \
        *) failed=$$((failed + 1)); names="$$names $$group" ;; \
    esac; \
done; \
test $$failed = 0 || echo "Failed:$$names"; \
echo "groups: $$passed passed, $$failed failed, $$skipped skipped"; test $$failed = 0
endef

test-serving: $(INSTALLED)
	$(call test_serving,"not slow")

test-serving-slow: $(INSTALLED)
	$(call test_serving,"slow")

test-witness: $(INSTALLED)
	python=$$($(ENVIRONMENT) vllm) && \
	SERVEGYM_VLLM_PYTHON="$$python" $(BIN)/python -m pytest tests/witness $(ARGS)

# The routers that serving systems ship and ours, one after the other on one trace; three quarters of an hour.
LIVE := picker:zoo:router,ray:zoo:router,envoy:least_request,ray:pow2,$\
    sglang-router:power_of_two,sglang-router:cache_aware,smg:power_of_two,smg:cache_aware,smg:least_load,$\
    vllm-router:power_of_two,vllm-router:cache_aware

live: $(INSTALLED)
	$(BIN)/servegym live scenario=azure_conv_8xh100 'baselines=[envoy:round_robin,ray:round_robin]' \
	    'routers=[$(LIVE)]' requests=2500 time_scale=8 stream_interval=40 report_period_s=0.25 out=runs/live \
	    python.envoy=$$($(ENVIRONMENT) envoy) \
	    python.ray_serve=$$($(ENVIRONMENT) ray_serve) \
	    python.routers=$$($(ENVIRONMENT) routers) $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/typing && mkdir -p build/typing/servegym
	@cd build/typing/servegym && ln -s $(addprefix ../../../,$(PACKAGES)) .
	$(BIN)/mypy
	PYTHONPATH=build/typing $(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# mkdocs-material would otherwise advertise its successor at every build.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED)
	$(BIN)/servegym bench simulator
	$(BIN)/servegym bench env
	$(BIN)/servegym bench stream
	$(BIN)/servegym bench policies
	$(BIN)/servegym bench batch
	$(BIN)/servegym bench elastic
	$(BIN)/servegym bench training
	$(BIN)/servegym bench peers

# Compiled code is invisible to coverage, so all tests are run in plain Python that are not too slow for that.
coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run $(PYTEST) -m "not slow and compiled" $(ARGS)
	NUMBA_DISABLE_JIT=1 $(BIN)/coverage run $(PYTEST) -m "not slow and not compiled" $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

clean:
	rm -rf build dist servegym.egg-info .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache \
	    .pytest_cache tests/serving/.pytest_cache .ruff_cache
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
