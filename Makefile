# The daily commands. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Pinned tools that were not on the PATH are linked here by .ci/install-tools.sh.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# A server of its own for one command: DATABASE_URL names it, and it is gone afterwards. Built, then started
# without cargo: what `cargo run` puts into the environment makes a cargo inside it run build scripts, and compile
# what stands on them, once more.
WITH_POSTGRES := $(or $(CARGO_TARGET_DIR),target)/debug/examples/with_postgres

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: postgres ## Sample organizations, one real purge, then it serves, on a Postgres of its own
	cargo run --locked --release -- demo

.PHONY: test
test: postgres pgbouncer browser ## All tests, on a throwaway Postgres and in a headless browser
	cargo build --quiet --locked --example with_postgres
	@if command -v cargo-nextest >/dev/null; then \
		tests="cargo nextest run --locked $(if $(CI),--profile ci)"; \
	else \
		tests="cargo test --locked --tests"; \
	fi; \
	set -x; $(WITH_POSTGRES) sh -exc "$$tests; cargo test --locked --quiet --doc"

.PHONY: test-second-postgres
test-second-postgres: postgres ## The data, migration and queue tests on another major version of Postgres
	@.ci/test-second-postgres.sh

# Where the target `faketime` can install what makes clocks jump, the lab must not go on without it.
NEED_CLOCKS = $(if $(shell command -v faketime apt-get dnf pacman),--need-clocks)

# The lab and, beside it, the product that it starts.
LAB := $(or $(CARGO_TARGET_DIR),target)/debug/lab

# The feature changes no dependency, so that only this crate is compiled once more. CHAOS passes options on:
# make chaos CHAOS="--seed 7 --rounds 1".
.PHONY: chaos
chaos: postgres faketime ## The crash lab for an hour: the product while everything around it fails
	cargo build --quiet --locked --features chaos --bins
	$(LAB) --duration 1h $(NEED_CLOCKS) $(CHAOS)

.PHONY: chaos-short
chaos-short: postgres faketime ## Death at every boundary, the proof that the lab's oracle can fail, and the lab for five minutes
	cargo build --quiet --locked --example with_postgres
	@if command -v cargo-nextest >/dev/null; then \
		tests="cargo nextest run --locked $(if $(CI),--profile ci) --features chaos -E 'binary(lab) | test(/::fault_points::/)'"; \
	else \
		tests="cargo test --locked --features chaos --bin lab; cargo test --locked --features chaos --test suite fault_points::"; \
	fi; \
	set -x; $(WITH_POSTGRES) sh -exc "$$tests"
	cargo build --quiet --locked --features chaos --bins
	$(LAB) --duration 5m $(NEED_CLOCKS) $(CHAOS)

.PHONY: fuzz-api
fuzz-api: postgres ## Fuzz the API from its own description: no 5xx, nothing undocumented
	cargo build --quiet --locked --bins --example with_postgres
	$(WITH_POSTGRES) .ci/fuzz-api.sh

.PHONY: bench-api
bench-api: postgres ## Latency of the API's read routes while a purge runs
	cargo bench --locked --bench api_reads

.PHONY: bench-console
bench-console: postgres ## Server time of every page of the console at 100 000 runs
	cargo bench --locked --bench console_pages

.PHONY: bench
bench: postgres ## The purge measured: writes docs/benchmarks.md and its plots (40 to 80 minutes; ARGS='--profile idle')
	cargo bench --locked --bench retention -- $(ARGS)

.PHONY: screenshots
screenshots: postgres browser ## Refresh docs/screenshots/: every page on the sample data, light and dark
	cargo build --quiet --locked --example with_postgres
	$(WITH_POSTGRES) cargo test --locked --test suite -- --ignored --exact console::screenshots::every_page_light_and_dark

.PHONY: check-dashboards
check-dashboards: postgres $(if $(PREVIEW),browser) ## Dashboards and alerts: rules, schema, and live
	cargo build --quiet --locked --bins --example with_postgres
	$(WITH_POSTGRES) .ci/check-dashboards.sh $(if $(PREVIEW),--preview)

.PHONY: check
check: fmt clippy sqlx-check deny typos machete doc ## All that CI checks besides the tests

.PHONY: fmt
fmt: ## Is everything formatted?
	cargo fmt --check

.PHONY: clippy
clippy: ## Lints, warnings are errors
	cargo clippy --locked --quiet --all-targets -- -D warnings
	cargo clippy --locked --quiet --all-targets --features chaos -- -D warnings

# After clippy, which has compiled the dependencies: see `prepare`.
.PHONY: sqlx-check
sqlx-check: clippy tools postgres ## Does .sqlx/ match the queries and the schema?
	.ci/with-scratch-postgres.sh cargo sqlx prepare --check --no-dotenv -- --locked --quiet --all-targets

.PHONY: deny
deny: tools ## Licences, forbidden duplicates and sources of the dependencies
	cargo deny --log-level error check bans licenses sources

.PHONY: typos
typos: tools ## Spelling
	typos

.PHONY: machete
machete: tools ## Dependencies that nothing uses
	cargo machete

.PHONY: doc
doc: ## Do the docs build, private items and links included?
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --document-private-items

# The dependencies are compiled first and offline: apalis-postgres has checked queries too, and compiled by
# `cargo sqlx prepare` it would leave its own in our .sqlx/. That check fails at our own crate as long as .sqlx/
# is out of date, which is why we are here: the next line says what is really wrong.
.PHONY: prepare
prepare: tools postgres ## Refresh .sqlx/ after a change of SQL or schema: commit the result
	@cargo check --locked --quiet --all-targets >/dev/null 2>&1 || true
	.ci/with-scratch-postgres.sh cargo sqlx prepare --no-dotenv -- --locked --quiet --all-targets

.PHONY: check-deploy
check-deploy: ## Image, compose file, manifests and units, each by its own tool
	@.ci/install-tools.sh hadolint check-jsonschema kubernetes-validate
	@.ci/install-prometheus.sh
	.ci/check-deploy.sh

.PHONY: image
image: postgres ## Build the image for real and run it: purge, readiness, stop (Debian, as root; minutes)
	cargo build --quiet --locked --bins --example with_postgres
	.ci/prove-image.sh

.PHONY: audit
audit: tools ## Known vulnerabilities of the dependencies (downloads the RustSec database)
	@.ci/audit.sh

.PHONY: clean
clean: ## Remove what was built
	cargo clean

.PHONY: postgres
postgres: # a server's programs; says what it installs, does nothing when they are there
	@.ci/install-postgres.sh

.PHONY: pgbouncer
pgbouncer: # the pooler; says what it installs, does nothing when it is there
	@.ci/install-pgbouncer.sh

.PHONY: faketime
faketime: # what makes clocks jump; says what it installs, does nothing when it is there
	@.ci/install-faketime.sh

.PHONY: browser
browser: # Chromium and its driver; says what it installs, does nothing when they are there
	@.ci/install-browser.sh

.PHONY: tools
tools:
	@.ci/install-tools.sh sqlx-cli cargo-deny typos cargo-machete
