# The commands of the project. `make demo` and `make test` work on a fresh Debian 12 machine with Go and Rust.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One after the other: each uses all cores, and they share the machine's one test bed.
.NOTPARALLEL:

# No home directory in some CI systems; tools are not always in the PATH of a non-interactive shell.
export HOME := $(or $(HOME),$(shell getent passwd $$(id -u) | cut -d: -f6),/root)
# Given on make's command line, they are meant for the script too.
export IMAGE TOOLS_IMAGE POSTGRES_IMAGE STORAGE_CLASS S3_ENDPOINT S3_BUCKET S3_REGION S3_CA_FILE YES KEEP EXISTING REMOVE
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin
TARGET := $(or $(CARGO_TARGET_DIR),target)
TESTBED := $(TARGET)/release/testbed

.PHONY: help prepare demo stories drill test bench fuzz scale up down lint lint-rust lint-go image gen testbed binary

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# CLUSTER=current: the cluster of the current kubeconfig context, which is left as it was. What it needs, it says.
ifeq ($(CLUSTER),current)
demo:
	@hack/on-current demo
else
demo: prepare ## the main job on a throw-away cluster (CLUSTER=current: on yours): back up, lose everything, get it back
	@hack/with-bed demo
endif

# The stories by themselves; `make test` runs them with all else.
ifeq ($(CLUSTER),current)
stories:
	@hack/on-current stories
else
stories: prepare ## the stories on a throw-away cluster (CLUSTER=current: those that need no test bed, on yours)
	@hack/with-bed stories
endif

drill: prepare testbed ## docs/disaster-recovery.md carried out: back up, take the whole cluster down, get it back in a new one
	@$(TESTBED) build
	@cargo build --release --package holdfast --package holdfast-e2e --bins
	@hack/drill

test: prepare ## everything that CI does, with a summary of what ran
	@hack/test

bench: prepare testbed binary ## pairs against stock restic; the main job on the cluster beside K8up and Velero
	@hack/bench

scale: prepare binary ## a million of files, ten million blobs: time and peak memory; 200 claims in one run, 100 namespaces at once
	@hack/scale

fuzz: prepare ## coverage-guided fuzzing of all that reads bytes from a store, two minutes a target
	cargo xtask fuzz --minutes 2

up: prepare testbed ## bring the test bed up (the first time builds Kubernetes: 20 minutes)
	@$(TESTBED) up

down: testbed ## take the test bed down
	@$(TESTBED) down --verify

image: prepare testbed binary ## the image of the working tree; loaded if the test bed is up
	@archive=$$($(TESTBED) image holdfast --binary $(TARGET)/release/holdfast); echo "$$archive"; \
	if $(TESTBED) status > /dev/null; then $(TESTBED) load-image "$$archive"; fi

lint: prepare lint-rust lint-go ## formatting, clippy, docs, the project's own rules, licences

lint-rust:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet
	cargo xtask check
	@if command -v cargo-deny > /dev/null; then cargo deny check; \
	else echo "cargo-deny is not installed: advisories were not checked (licences were, by cargo xtask check)"; fi

lint-go:
	@unformatted=$$(gofmt -l crates/testbed/go); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change: $$unformatted"; exit 1; fi

gen: ## write the generated files: CRDs, chart parts, API reference
	cargo xtask gen

prepare:
	@hack/prepare

testbed:
	@cargo build --release -p holdfast-testbed

binary:
	@cargo build --release -p holdfast
