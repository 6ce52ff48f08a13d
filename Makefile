# Everything a developer or CI runs. `make demo` and `make test` work on a fresh Debian-like machine with Python 3.11 and root.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PROTOS := $(sort $(wildcard protos/*.proto))

.PHONY: help setup setup-dev demo test lint protos protos-check lock soak posix-suite bench clean

help:            ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup: $(VENV)/.runtime        ## a ready .venv with the keelfs command
setup-dev: $(VENV)/.dev        ## the same, and what the tests need

$(VENV)/.runtime: requirements.lock pyproject.toml .ci/setup
	PYTHON="$(PYTHON)" .ci/setup runtime

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml .ci/setup
	PYTHON="$(PYTHON)" .ci/setup dev

demo: setup      ## start, format, mount, use, remount and compare, on this machine
	$(BIN)/keelfs demo

lint: setup-dev  ## style, types, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(MAKE) protos-check

test: lint       ## everything that must pass, in under 25 minutes on 2 cores
	.ci/test

soak: setup-dev  ## long runs: more rounds, more steps, radosgw
	$(BIN)/python -m pytest -m soak

posix-suite: setup ## pjdfstest, which is not part of this: SUITE=a built checkout, NODES=1 or 3
	tests/posix_suite.sh "$(SUITE)" $(or $(NODES),1)

bench: setup-dev ## ratios against a local directory and JuiceFS, written to bench/results
	$(BIN)/python -m bench

protos: setup-dev ## regenerate the checked-in protobuf code
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

protos-check: setup-dev ## the checked-in protobuf code is what the .proto files give
	.ci/protos-check

lock: setup-dev  ## pin the dependencies anew
	$(BIN)/python -m pip install -q pip-tools
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe --build-deps-for editable -o requirements.lock pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe --build-deps-for editable --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean:           ## remove what setup and tests made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
