#!/usr/bin/env bash
# Checks the dependencies for known vulnerabilities. It downloads the RustSec database, or uses an earlier copy if there
# is no network. If there is neither, it prints NOT CHECKED and exits with status 77.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PWD/target/tools/bin:$PATH

command -v cargo-deny >/dev/null || { echo "audit: cargo-deny is missing: .ci/install-tools.sh cargo-deny" >&2; exit 1; }
if cargo deny --log-level error fetch db; then
    exec cargo deny check advisories
fi

if compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*/crates" >/dev/null; then
    echo "audit: the RustSec database cannot be downloaded; the copy from before is taken, which may be old" >&2
    exec cargo deny --offline check advisories
fi
echo "audit: NOT CHECKED. The RustSec database cannot be downloaded (https://github.com/RustSec/advisory-db) and there" >&2
echo "audit: is no copy from before. Run this again where that address is reachable." >&2
exit 77
