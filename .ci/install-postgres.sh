#!/usr/bin/env bash
# Makes sure that a PostgreSQL server (15 or newer, with contrib) is installed, for `make demo` and `make test`.
# Only the programs are needed: each of those starts a server of its own, so none is set up or started here.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

if dir=$(./find-postgres.sh 2>/dev/null); then
    exit 0
fi
problem=$(./find-postgres.sh 2>&1) || true

say() { echo "install-postgres: $*" >&2; }

give_up() {
    say "$problem, and $1"
    say "install PostgreSQL 15 or newer with its contrib extensions, or point PG_BIN_DIR at the directory of initdb"
    exit 1
}

[[ -z "${PG_BIN_DIR:-}" ]] || give_up "PG_BIN_DIR=$PG_BIN_DIR says to use no other"

# Debian and Ubuntu set up and start a cluster with every server package unless told not to. The package that
# owns the setting comes first, so that dpkg has no question about a file of ours; a choice the administrator
# has made already stays.
# shellcheck disable=SC2016 # expanded by the inner shell
apt_script='set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends postgresql-common
conf=/etc/postgresql-common/createcluster.conf
grep -Eqs "^[[:space:]]*create_main_cluster" "$conf" || echo "create_main_cluster = false" >> "$conf"
apt-get install -qq -y --no-install-recommends postgresql'

sudo=1
if command -v apt-get >/dev/null; then
    what="apt-get: packages postgresql-common and postgresql; no cluster is created or started"
    install=(sh -c "$apt_script")
elif command -v dnf >/dev/null; then
    what="dnf: packages postgresql-server and postgresql-contrib; no database is set up or started"
    install=(dnf install -y -q postgresql-server postgresql-contrib)
elif command -v apk >/dev/null; then
    what="apk: packages postgresql and postgresql-contrib; no database is set up or started"
    install=(apk add --quiet --no-progress postgresql postgresql-contrib)
elif command -v pacman >/dev/null; then
    what="pacman: package postgresql; no database is set up or started"
    install=(pacman -S --needed --noconfirm --noprogressbar postgresql)
elif command -v brew >/dev/null; then
    what="Homebrew: formula postgresql@17; no service is started"
    install=(brew install --quiet postgresql@17)
    sudo=0 # Homebrew refuses root
else
    give_up "neither apt-get, dnf, apk, pacman nor brew is here to install one"
fi

if ((sudo)) && ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
        say "$problem. Installing one needs root and there is no sudo: run this as root, then again what you ran:"
        if [[ "${install[0]}" == sh ]]; then
            printf "sh -c '%s'\n" "$apt_script" >&2
        else
            echo "${install[*]}" >&2
        fi
        exit 1
    fi
    what+=" (through sudo)"
    install=(sudo "${install[@]}")
fi

say "$problem: installing one with $what"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The output is shown only when it fails; a password prompt of sudo goes to the terminal by itself.
if ! "${install[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    give_up "the installation failed (see above)"
fi

if ! dir=$(./find-postgres.sh 2>"$log"); then
    problem=$(<"$log")
    give_up "the platform's packages offer nothing better; see https://www.postgresql.org/download/"
fi
say "installed: $("$dir/postgres" --version) in $dir"
