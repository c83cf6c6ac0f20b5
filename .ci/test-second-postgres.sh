#!/usr/bin/env bash
# The data, migration and queue tests once more, on a second major version of PostgreSQL: which tests those are stands
# in .config/nextest.toml, profile `second-postgres`. Exit status 77 says that this machine cannot have a second one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/target/tools/bin:$PATH

PG_BIN_DIR=$(.ci/install-postgres-second.sh)
export PG_BIN_DIR
.ci/install-tools.sh cargo-nextest
cargo build --quiet --locked --example with_postgres
"$PG_BIN_DIR/postgres" --version
"${CARGO_TARGET_DIR:-target}/debug/examples/with_postgres" cargo nextest run --locked --profile second-postgres "$@"
