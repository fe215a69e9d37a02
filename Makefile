# The commands of this repository: each sets up what it needs, and does it once. `make` alone lists them.
#
#   PYTHON=python3.12      which Python makes .venv; default: python3.11, or the first newer one
#   SPILLWAY_ENGINE=cpu    vLLM for this machine: cpu, gpu (NVIDIA), or none (the mesh without an engine of its own)
#   MODEL=...              for demo and up: a Hugging Face id or a local folder instead of the bundled model
#   TESTS=tests/unit       for test: only these
#   ARGUMENTS=--quick      for bench-peers: in some minutes; --only NAME: one of the systems
#   WORKERS=2              for test: processes; each takes whole files of tests, and starts its own engines

# vLLM for CPUs exists for Linux alone; elsewhere the mesh runs with any local runtime that has an OpenAI-style API.
SPILLWAY_ENGINE ?= $(if $(filter Linux,$(shell uname -s)),cpu,none)
TESTS ?= tests
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/ready-$(SPILLWAY_ENGINE)
NODE := node_modules/.bin
NODE_READY := node_modules/.ready

.DEFAULT_GOAL := help
.PHONY: help demo up test lint types proto bench bench-peers chaos
MAKEFLAGS += --no-print-directory
# Without bytecode every process compiles what it imports: of an engine's start, in both of its processes, a quarter.
unexport PYTHONDONTWRITEBYTECODE

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: $(READY) ## the whole mesh in a minute: watch prompts travel, then it ends
	@$(BIN)/spillway demo

up: $(READY) ## start the mesh on this machine and leave it running until Ctrl-C
	@$(BIN)/spillway up

# Files in their order: those that start engines come first, and many small ones fill up the end.
test: $(READY) ## every test, or those that TESTS names
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

lint: $(READY) $(NODE_READY) ## format, style, import walls, protos, generated code, image files, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(NODE)/buf lint
	.ci/breaking
	$(BIN)/python protos/generate.py --check
	for file in deploy/images/*.Dockerfile; do $(NODE)/dockerfile-utils lint "$$file" || exit 1; done
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose*.yaml
	$(BIN)/python -m pytest -q tests/unit/house

types: $(READY) ## mypy, strict, over everything
	$(BIN)/mypy

proto: $(READY) ## generate spillway/v1 from protos/
	@$(BIN)/python protos/generate.py

bench: $(READY) ## measure the cost of a hop and the engine's throughput
	@$(BIN)/python -m bench

bench-peers: $(READY) ## the same load through Spillway, nginx, Envoy, vllm-router, smg and LiteLLM; writes docs/peers.md
	@$(BIN)/python -m bench.peers $(ARGUMENTS)

chaos: $(READY) ## kill, stall and cut the mesh's parts while it works
	@$(BIN)/python -m pytest -m chaos

# Set-up. A stamp is older than what it was made from exactly when there is something to do.

$(READY): requirements/install $(wildcard requirements/*.txt) pyproject.toml
	@requirements/install $(SPILLWAY_ENGINE)
	@touch $@

$(NODE_READY): package-lock.json
	@command -v npm >/dev/null || { echo "set-up: make lint needs npm (for buf); nothing else does" >&2; exit 1; }
	@npm ci --silent --no-fund --no-audit
	@touch $@
