#!/usr/bin/env bash
# Prints the directory with the programs of the newest suitable PostgreSQL server: 15 or newer, with the contrib
# extensions. If there is none, it fails and prints to stderr what is missing.
#
#   .ci/find-postgres.sh [--other-than MAJOR]      of a major version other than this one
set -euo pipefail
shopt -s nullglob

minimum=15
unwanted=
[[ "${1:-}" != --other-than ]] || unwanted=$2

candidates() {
    if [[ -n "${PG_BIN_DIR:-}" ]]; then
        echo "$PG_BIN_DIR" # who names a server means that one
        return
    fi
    printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql*/ \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin
    local on_path
    on_path=$(type -P initdb) && dirname "$on_path"
}

major_version() { # of the server in a directory; nothing when there is none
    [[ -x "$1/initdb" && -x "$1/postgres" ]] || return 0
    "$1/postgres" --version 2>/dev/null | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p'
}

has_contrib() { # bin directory, major version
    local shared
    for shared in "$("$1/pg_config" --sharedir 2>/dev/null || true)" \
        "/usr/share/postgresql/$2" "/usr/share/postgresql$2" /usr/share/postgresql /usr/share/pgsql \
        "$1/../share" "$1/../share/postgresql" "$1/../share/postgresql@$2"; do
        [[ -n "$shared" && -f "$shared/extension/hstore.control" &&
            -f "$shared/extension/pgcrypto.control" ]] && return 0
    done
    return 1
}

best_version=0
best_dir=
problem="no PostgreSQL server found"
while read -r dir; do
    dir=${dir%/}
    version=$(major_version "$dir")
    [[ -n "$version" && "$version" != "$unwanted" ]] || continue
    if ((version < minimum)); then
        problem="PostgreSQL $version in $dir is older than $minimum"
    elif ! has_contrib "$dir" "$version"; then
        problem="PostgreSQL $version in $dir lacks the contrib extensions hstore and pgcrypto"
    elif ((version > best_version)); then
        best_version=$version
        best_dir=$dir
    fi
done < <(candidates)

if [[ -z "$best_dir" ]]; then
    echo "$problem" >&2
    exit 1
fi
echo "$best_dir"
