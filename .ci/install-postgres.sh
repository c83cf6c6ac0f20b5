#!/usr/bin/env bash
# Makes sure that a PostgreSQL server (15 or newer, with contrib) is installed, for `make demo` and `make test`.
# Only the programs are needed: each target starts its own server, so this script sets up and starts none.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

if dir=$(./find-postgres.sh 2>/dev/null); then
    exit 0
fi
problem=$(./find-postgres.sh 2>&1) || true
remedy="install PostgreSQL 15 or newer with its contrib extensions, or point PG_BIN_DIR at the directory of initdb"
# shellcheck source=.ci/packages.sh
. ./packages.sh

[[ -z "${PG_BIN_DIR:-}" ]] || give_up "PG_BIN_DIR=$PG_BIN_DIR says to use no other"

# Debian and Ubuntu set up a cluster with every server package unless told not to. The package that owns the setting
# comes first, so that dpkg has no question about a file of ours; a choice the administrator has made already stays.
# shellcheck disable=SC2016 # expanded by the inner shell
without_cluster='
conf=/etc/postgresql-common/createcluster.conf
grep -Eqs "^[[:space:]]*create_main_cluster" "$conf" || echo "create_main_cluster = false" >> "$conf"
apt-get install -qq -y --no-install-recommends postgresql'

if command -v apt-get >/dev/null; then
    install_packages "apt-get: packages postgresql-common and postgresql; no cluster is created or started" \
        sh -c "$(apt_script postgresql-common)$without_cluster"
elif command -v dnf >/dev/null; then
    install_packages "dnf: packages postgresql-server and postgresql-contrib; no database is set up or started" \
        dnf install -y -q postgresql-server postgresql-contrib
elif command -v apk >/dev/null; then
    install_packages "apk: packages postgresql and postgresql-contrib; no database is set up or started" \
        apk add --quiet --no-progress postgresql postgresql-contrib
elif command -v pacman >/dev/null; then
    install_packages "pacman: package postgresql; no database is set up or started" \
        pacman -S --needed --noconfirm --noprogressbar postgresql
elif command -v brew >/dev/null; then
    install_packages "Homebrew: formula postgresql@17; no service is started" brew install --quiet postgresql@17
else
    give_up "neither apt-get, dnf, apk, pacman nor brew is here to install one"
fi

if ! dir=$(./find-postgres.sh 2>/dev/null); then
    problem=$(./find-postgres.sh 2>&1) || true
    give_up "the platform's packages offer nothing better; see https://www.postgresql.org/download/"
fi
say "installed: $("$dir/postgres" --version) in $dir"
