# SPDX-License-Identifier: Apache-2.0
# Every job of CI is one target of this file. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV := .venv/bin
PYTHON := $(VENV)/python
PYTEST := $(PYTHON) -m pytest
PACKAGES := bpf cni controller dataplane perf

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is missing (Debian packages, virtual environment) and build the BPF objects
	@.ci/setup.sh
	@$(MAKE) --no-print-directory bpf launcher

.PHONY: launcher
launcher: ## compile the CNI executable to cni/launcher/obj
	@$(MAKE) --no-print-directory -C cni/launcher

.PHONY: bpf
bpf: ## compile the BPF programs to bpf/obj
	@$(MAKE) --no-print-directory -C bpf

.PHONY: lint
lint: ## ruff: rules and format
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

.PHONY: format
format: ## ruff: mend what can be mended
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

.PHONY: type
type: ## mypy --strict
	$(PYTHON) -m mypy $(PACKAGES) tests

.PHONY: arch
arch: ## layering (import-linter)
	$(VENV)/lint-imports

.PHONY: unit
unit: ## pure tests: unit, property, story, contract (needs nothing)
	$(PYTEST) -m "unit or property or story or contract"

.PHONY: abi
abi: bpf ## layouts of the BPF objects against the Python codecs
	$(PYTEST) -m abi

.PHONY: bpf-test
bpf-test: bpf ## packets through the programs (root)
	$(PYTEST) -m bpf

.PHONY: oracle-test
oracle-test: bpf ## random packets through the programs and a model of the semantics (root)
	$(PYTEST) -m oracle

.PHONY: ovs-test
ovs-test: ## a private OVS (root)
	$(PYTEST) -m ovs

.PHONY: ovn-test
ovn-test: ## a private OVN (root)
	$(PYTEST) -m ovn

.PHONY: netns-test
netns-test: bpf ## network namespaces and real traffic (root)
	$(PYTEST) -m netns

.PHONY: system-test
system-test: bpf ## whole nodes: OVS-DPDK, OVN, guests (root, hugepages)
	$(PYTEST) -m system

.PHONY: check
check: lint type arch unit abi ## what to run before a commit

.PHONY: test
test: setup lint type arch ## everything: every level of test, and nothing of ours left behind (root)
	@if [ "$$(id -u)" != 0 ]; then echo "make test: namespaces, BPF and DPDK need root; run it as root" >&2; exit 1; fi
	$(PYTEST) --whole

.PHONY: bench
bench: setup ## every scenario and benchmark, then verdicts; BENCH="control xdp" for some (root, hugepages)
	@if [ "$$(id -u)" != 0 ]; then echo "make bench: needs root" >&2; exit 1; fi
	$(if $(BENCH),,@run=bench/runs/$$(date -u +%Y%m%dT%H%M%SZ); $(VENV)/millrace perf run --quick --into "$$run" || [ $$? -eq 1 ] || exit 1; \
		$(VENV)/millrace perf report "$$run" --page docs/benchmarks.md)
	$(PYTHON) -m perf.bench --results bench/results $(if $(BENCH),--only $(BENCH))

.PHONY: soak
soak: setup ## the long loops, then verdicts; MINUTES=15 is the usual length (root, hugepages)
	@if [ "$$(id -u)" != 0 ]; then echo "make soak: needs root" >&2; exit 1; fi
	MILLRACE_SOAK_MINUTES=$(or $(MINUTES),15) $(PYTEST) -m soak --timeout 14400 -o faulthandler_timeout=0

.PHONY: lock
lock: ## resolve the dependencies anew into requirements.lock (network)
	.ci/lock.sh

.PHONY: clean
clean: ## remove what the build made, the virtual environment included
	rm -rf bpf/obj cni/launcher/obj build .venv ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lab of the demonstration brings its own targets: demo, undo.
-include tests/labs/demo.mk
