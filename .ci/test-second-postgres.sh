#!/usr/bin/env bash
# Runs the data, migration and queue tests on a second major version of PostgreSQL. The profile `second-postgres` in
# .config/nextest.toml selects the tests. Exit status 77 means that this machine cannot have a second version.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/target/tools/bin:$PATH

PG_BIN_DIR=$(.ci/install-postgres-second.sh)
export PG_BIN_DIR
.ci/install-tools.sh cargo-nextest
cargo build --quiet --locked --example with_postgres
"$PG_BIN_DIR/postgres" --version
"${CARGO_TARGET_DIR:-target}/debug/examples/with_postgres" cargo nextest run --locked --profile second-postgres "$@"
