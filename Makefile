# The verbs. `make demo` and `make test` need Python 3.11 to 3.13, a C compiler and cargo, and nothing installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1
.DEFAULT_GOAL := help

# The user's settings of pip and uv say where packages come from (index, mirror, proxy, certificates: kept) and where they
# go: that is .venv, whatever is set here or in a pip.conf. An empty value takes the place of one in a pip.conf.
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_REQUIRE_HASHES := 0
export PIP_TARGET :=
export PIP_PREFIX :=
export PIP_ROOT :=
export PIP_PYTHON :=
export PIP_CONSTRAINT :=
export PIP_NO_DEPS :=
export PIP_DRY_RUN :=
unexport UV_SYSTEM_PYTHON UV_BREAK_SYSTEM_PACKAGES UV_TARGET UV_PREFIX UV_PYTHON UV_PROJECT_ENVIRONMENT UV_REQUIRE_HASHES
unexport UV_NO_DEPS UV_CONSTRAINT UV_OVERRIDE UV_EXCLUDE_NEWER UV_PRERELEASE UV_RESOLUTION UV_WORKING_DIRECTORY
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONSAFEPATH VIRTUAL_ENV CONDA_PREFIX

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

install: $(VENV)/installed  ## the environment in .venv, from the hashed lock, with the Rust extension

$(VENV)/uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "nanochat needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	@command -v cargo >/dev/null || { echo "nanochat needs cargo to build its tokenizer trainer: install Rust"; exit 1; }
	@echo "Into $(CURDIR)/$(VENV): about 6 GB of packages, most of it PyTorch with its CUDA libraries, fetched once."
	@echo "That takes about 4 minutes on a fast line and half an hour at 30 Mbit/s."
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1048576) }'); [ "$${free:-99}" -ge 8 ] \
	  || echo "Only $$free GB are free here: that may be too little."
	$(PYTHON) -m venv $(VENV)/uv
	$(VENV)/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/locked: requirements.lock | $(VENV)/uv/bin/uv
	test -x $(BIN)/python || $(VENV)/uv/bin/uv venv --quiet --allow-existing --no-python-downloads --python $(VENV)/uv/bin/python $(VENV)
	env -u PYTHONDONTWRITEBYTECODE $(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	touch $@

BPE := $(wildcard bpe/src/*.rs bpe/Cargo.* bpe/pyproject.toml bpe/python/nanobpe/*)

$(VENV)/installed: $(VENV)/locked pyproject.toml $(BPE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --reinstall-package nanobpe ./bpe
	$(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
	touch $@

demo: install  ## the recipe `tiny` through Prefect on the CPU, from text to a registered model that chats (SEED=1)
	$(BIN)/nanochat run tiny seed=$(SEED) --demo

test: install  ## pytest and cargo test
	cd bpe && cargo test --quiet
	$(BIN)/python -m pytest -n 2

check: install  ## lint, format and the README's generated parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd bpe && cargo fmt --check && cargo clippy --quiet --all-targets -- -D warnings && cargo clippy --quiet --all-targets --features python -- -D warnings
	$(BIN)/python -m nanochat readme --check

s3-server:  ## versitygw, a real S3 server for the tests, through Go (optional; moto's is used otherwise)
	go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

lock: $(VENV)/uv/bin/uv  ## requirements.lock from requirements.in
	$(VENV)/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements.in -o requirements.lock

clean:  ## removes the environment and what runs left behind
	rm -rf $(VENV) .nanochat bpe/target build *.egg-info

.PHONY: help install demo test check s3-server lock clean
