# The verbs. `make demo` and `make test` need Python 3.11 to 3.13, a C compiler and cargo, and nothing installed by hand.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED = 1
PORT = 8000
.DEFAULT_GOAL := help

# The user's settings of pip and uv say where packages come from (index, mirror, proxy, certificates: kept) and where they
# go: that is .venv, whatever they are. What is said here goes before a pip.conf; an empty variable would not.
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_REQUIRE_HASHES := 0
export PIP_NO_DEPS := 0
export PIP_DRY_RUN := 0
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_CONSTRAINT
PIP_INSTALL := pip --python= install --no-user --target= --root=/ --prefix="$(CURDIR)/$(VENV)/uv" --quiet
UV_HEARD := UV_CONFIG_FILE UV_NO_CONFIG UV_INDEX% UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_NATIVE_TLS \
  UV_SYSTEM_CERTS UV_INSECURE_HOST UV_KEYRING_PROVIDER UV_CREDENTIALS_DIR UV_CACHE_DIR UV_NO_CACHE UV_LINK_MODE \
  UV_HTTP_% UV_OFFLINE UV_CONCURRENT_% UV_SSL_%
unexport $(filter-out $(UV_HEARD),$(filter UV_%,$(.VARIABLES)))
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
	$(VENV)/uv/bin/python -m $(PIP_INSTALL) --disable-pip-version-check uv

$(VENV)/locked: requirements.lock | $(VENV)/uv/bin/uv
	test -x $(BIN)/python || $(VENV)/uv/bin/uv venv --quiet --allow-existing --no-python-downloads --python $(VENV)/uv/bin/python $(VENV)
	env -u PYTHONDONTWRITEBYTECODE $(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	@$(BIN)/python -c 'import importlib.util as u; raise SystemExit(not u.find_spec("torch"))' \
	  || { echo "The packages went elsewhere than into $(VENV): look for target or prefix in your uv.toml."; exit 1; }
	touch $@

BPE := $(wildcard bpe/src/*.rs bpe/src/*/*.rs bpe/Cargo.* bpe/pyproject.toml bpe/python/nanobpe/*)

$(VENV)/installed: $(VENV)/locked pyproject.toml $(BPE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --reinstall-package nanobpe ./bpe
	$(VENV)/uv/bin/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps --editable .
	touch $@

demo: install  ## the recipe `tiny` through Prefect on the CPU, from text to a registered model that chats (SEED=1)
	$(BIN)/nanochat run tiny seed=$(SEED) --demo

chat: install  ## talk to the newest model on a page in the browser (PORT=8000)
	$(BIN)/nanochat serve --port $(PORT) --open

test: install  ## pytest and cargo test
	cd bpe && cargo test --quiet
	$(BIN)/python -m pytest -n 3

check: install  ## lint, format, types and the README's generated parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd bpe && cargo fmt --check && cargo clippy --quiet --all-targets -- -D warnings && cargo clippy --quiet --all-targets --features python -- -D warnings
	$(BIN)/python -m nanochat readme --check

s3-server:  ## versitygw, a real S3 server for the tests, through Go (optional; moto's is used otherwise)
	go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

lock: $(VENV)/uv/bin/uv  ## requirements.lock from requirements.in
	$(VENV)/uv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 requirements.in -o requirements.lock

clean:  ## removes the environment and what runs left behind
	rm -rf $(VENV) .nanochat bpe/target build *.egg-info

.PHONY: help install demo chat test check s3-server lock clean
