# Rollcall's commands for people. Each is one script or one cargo command: `make help` lists them.
# Nothing here touches servers, ports or data that are already on the machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo up down clean-servers build test test-next api-check chaos fuzz mutants bench bench-check growth \
  fmt lint install install-tests deploy-check deny sbom asyncapi deb screenshots

dev := .rollcall/dev
next := $(CURDIR)/.rollcall/next

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

demo: ## install what is missing, run 200,000 events through two workers, show the figures, stop
	@scripts/demo

up: install ## start private RabbitMQ, Postgres and Redis for development, and print how to use them
	@scripts/servers up $(dev)
	@printf '%s\n' '' \
	  'To use them in this shell:       set -a; . $(dev)/env; set +a' \
	  'Then for instance:               cargo run --release -- manage migrate' \
	  '                                 cargo run --release -- manage topology' \
	  '                                 cargo run --release -- worker' \
	  'Their own tools:                 scripts/servers psql $(dev)        (or rabbitmqctl, redis-cli)' \
	  'Kill, pause or restart one:      scripts/servers --help' \
	  'To stop them and keep the data:  make down'

down: ## stop them, keep the data of RabbitMQ and Postgres
	@scripts/servers down $(dev)

clean-servers: ## stop every set under .rollcall and delete its data
	@for set in .rollcall/*/; do \
	  [[ ! -e $$set || $(CURDIR)/$$set -ef $(next) ]] || scripts/servers remove "$$set"; done
	@[[ ! -d .rollcall ]] || find .rollcall -mindepth 1 -maxdepth 1 ! -name next -exec rm -rf {} +

build: ## the release binary: target/release/rollcall (FEATURES=otlp: one that can send spans)
	cargo build --release --locked --target-dir target --features '$(FEATURES)'

test: install-tests lint ## everything: format, clippy, unit, property and integration tests
	@scripts/promtool --version >/dev/null 2>&1 || scripts/promtool --version
	cargo test --locked --features fault-points,otlp

chaos: install ## the long versions of the fault tests: 35 kills, 1,800 cuts, 40 rebuilds, drift in a million
	ROLLCALL_TEST_CHAOS_EVENTS=200000 ROLLCALL_TEST_CHAOS_WORKER_KILLS=20 \
	  ROLLCALL_TEST_CHAOS_SERVER_KILLS=5 ROLLCALL_TEST_CUTS=1800 \
	  cargo test --locked --features fault-points,otlp --test it -- --nocapture chaos:: cuts::
	ROLLCALL_TEST_REBUILDS=20 ROLLCALL_TEST_REBUILD_MEMBERS=200000 \
	  ROLLCALL_TEST_REBUILD_RATE=5000 ROLLCALL_TEST_VERIFY_MEMBERS=1000000 \
	  cargo test --release --locked --features fault-points,otlp --test it -- --nocapture \
	  --test-threads=1 rebuild::rebuilds verify::verify_names emptied:: failover::

test-next: install-tests ## the integration tests against Debian 13's servers, with Redis 8, then with Valkey 8
	@scripts/next-servers $(next)
	@for redis in redis valkey; do \
	  echo "test-next: RabbitMQ, Postgres and $$redis of $(next)"; \
	  SERVERS_ROOT=$(next) SERVERS_REDIS=$$redis \
	    cargo test --locked --features fault-points,otlp --test it -- $(TESTS); \
	done

api-check: install ## ask `rollcall serve` thousands of odd questions made from its OpenAPI document
	@scripts/api-check

fuzz: ## fuzz the decoder and the encoding for FUZZ_SECS (60) each
	@scripts/fuzz $(FUZZ)

mutants: install-tests ## break the code on purpose, and show which test notices (MUTANT=name for one)
	@scripts/mutants $(MUTANT)

bench: install ## measure on private servers, some 25 min, into docs/ and README (BENCH=drained for a part)
	@scripts/bench $(BENCH)

bench-check: ## hold the instructions that our own code costs an event against benches/instructions.txt
	@scripts/bench-check $(BENCH_CHECK)

screenshots: ## take the pictures of the page for the README, of 12 minutes of a real run
	@scripts/screenshots

growth: install ## how the cost grows with the table, into docs/ (GROWTH_ROWS="1000000 5000000")
	@scripts/growth

deploy-check: ## check deploy/ against the schemas of Kubernetes, by systemd and by promtool
	@scripts/deploy-check

deny: ## check licences, sources and advisories of all crates (DENY="bans licenses sources" for some)
	@scripts/deny $(DENY)

sbom: ## write the bill of materials of the binary: target/rollcall.cdx.json
	@scripts/sbom

asyncapi: install-tests ## check schema/asyncapi.yaml against AsyncAPI's own schema
	@scripts/asyncapi

deb: ## a Debian package of the release binary, under target/deb
	@scripts/deb

fmt: ## format the code
	@scripts/need-components rustfmt
	cargo fmt && cargo fmt --manifest-path fuzz/Cargo.toml

lint: ## check the format and run clippy, warnings being errors; without features, no crate of theirs
	@scripts/need-components rustfmt clippy
	cargo fmt --check && cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets --all-features -- -D warnings
	cargo clippy --locked -- -D warnings
	@! cargo tree --locked --edges normal,build --prefix none | grep '^opentelemetry\|^prost' || \
	  { echo 'lint: the default build has crates that are for the feature otlp' >&2; exit 1; }

install: ## install RabbitMQ, Postgres and Redis by apt where they are missing
	@scripts/install

install-tests: ## the same, the browser of the tests, and what the examples need
	@scripts/install tests
	@scripts/examples
