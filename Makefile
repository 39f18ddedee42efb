# `make run` serves the shop, `make test` proves it. Both set up what the machine lacks (.ci/setup) and need nothing else.
#
# One profile, `release`, for build, clippy, tests and benches: RocksDB's C++ takes 10 to 20 minutes on two cores and is
# compiled once per profile. For the same reason every command selects the whole workspace (see Cargo.toml). The build
# cache lies outside the clone and is named by the toolchain, so that a new clone starts warm; what differs beyond that
# (flags, features, sources), cargo tells apart itself.

SHELL := /usr/bin/env bash
TOOLCHAIN := $(shell sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millstream/$(TOOLCHAIN)-$(shell uname -m)
CARGO_FLAGS := --release --workspace --locked

.PHONY: help setup build run up down kafka test lint bench bench-cdc bench-million bench-app bench-peers crash crashcdc mysql8 crashrun kafka-crash deny clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## installs what is missing: a C++ compiler, libclang, the Rust toolchain, MariaDB, Redis, Java and Maven for the tests
	@.ci/setup

build: setup ## builds the release binaries
	cargo build $(CARGO_FLAGS)

run: build ## serves the shop with a demo catalogue and made-up traffic; ARGS="--listen 127.0.0.1:9000" adds flags
	@exec "$(CARGO_TARGET_DIR)/release/shop" dev --demo $(ARGS)

up: build ## the whole stack on loopback, to try it out: Kafka, MariaDB, Redis, two workers, API, relay, sink and an endpoint; see topologies/operations/stack.sh
	@topologies/operations/stack.sh up "$(CARGO_TARGET_DIR)/release/shop"

down: ## ends what `make up` started; its data stays
	@topologies/operations/stack.sh down

kafka: setup ## Apache Kafka on 127.0.0.1:9092 until a signal ends it; KAFKA_PORT and others: see tests/kafka/kafka.sh
	@exec tests/kafka/kafka.sh run

lint: setup
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

test: lint ## formatting, clippy, every test and documentation example
	cargo test $(CARGO_FLAGS) --no-fail-fast

bench: setup ## the side-by-side measurements of the README
	cargo bench --workspace --locked --benches

bench-cdc: build ## change data capture beside Debezium, on one broker and one MariaDB: latency at 500 rows/s, backlogs of 50,000 rows; needs python3-venv
	benches/peers/debezium/bench.sh "$(CARGO_TARGET_DIR)/release/shop"

bench-million: build ## a million orders by the outbox: state per order, and ready again after kill -9
	benches/million-orders.sh "$(CARGO_TARGET_DIR)/release/shop"

bench-app: setup ## the application that is measured beside Kafka Streams; the last line is its command line: benches/peers/kafka-streams
	cargo build $(CARGO_FLAGS) --bin bench-app --bin bench-floor
	@echo "$(CARGO_TARGET_DIR)/release/bench-app"

bench-peers: bench-app ## Kafka Streams and Millstream in turn, the table into benches/RESULTS.md; needs a JDK 17; N=200000 ROUNDS=1 for a short run
	cargo bench --workspace --locked --bench engine --no-run
	benches/peers/kafka-streams/bench.sh "$(CARGO_TARGET_DIR)/release"

crash: setup ## the crash tests at full length, which `make test` has in short form
	CRASH_ROUNDS=200 cargo test $(CARGO_FLAGS) --no-fail-fast --test main -- --nocapture crash

crashcdc: setup ## 50,000 rows of an outbox written by several clients, while relay, database and broker are killed 40 times
	CDC_ROWS=50000 CDC_KILLS=40 cargo test $(CARGO_FLAGS) --test outside -- --nocapture --test-threads 1 every_committed_row

mysql8: setup ## change data capture, and requests through the outbox, on MySQL 8, which comes from Maven Central; needs maven, libaio1, libnuma1, unzip
	benches/peers/debezium/with-mysql8.sh cargo test $(CARGO_FLAGS) --test outside -- --ignored --nocapture of_mysql through_mysql

crashrun: build ## ten minutes of load on the shop, killed with -9 every 20 seconds, then every invariant checked
	tests/crash-run.sh "$(CARGO_TARGET_DIR)/release/shop"

kafka-crash: setup ## an application and the shop on Kafka, killed, frozen and cut off for minutes, and 1 GB of state after a kill
	KAFKA_TESTS=long cargo test $(CARGO_FLAGS) --no-fail-fast --test main -- --nocapture --test-threads 1 cluster:: log::kafka::failures::
	KAFKA_TESTS=long cargo test $(CARGO_FLAGS) --no-fail-fast --test outside -- --nocapture kafka::every_promise

deny: ## advisories, licences and sources of all dependencies; needs cargo-deny and the network
	cargo deny check

clean: ## removes the build cache
	rm -rf "$(CARGO_TARGET_DIR)"
