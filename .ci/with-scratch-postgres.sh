#!/usr/bin/env bash
# Runs a command with DATABASE_URL naming a throwaway server with the whole schema in it, then removes the server.
#
# For the tools that have to run while the crate does not compile: queries are checked against `.sqlx/`, so a
# changed query breaks the build until `cargo sqlx prepare` has run, and that needs a migrated database first.
# Hence no program of this crate takes part: sqlx's command line migrates.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$("$here/find-postgres.sh")

# Short, because the socket lies in it; not under the home directory, which the user postgres may not enter.
dir=$(mktemp -d /tmp/drift-retention-scratch.XXXXXX)
as_owner=()
if ((EUID == 0)); then # the server refuses to run as root
    chown postgres: "$dir"
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_owner=(su -s /bin/sh -c '"$0" "$@"' -- postgres)
fi
owned() { (cd "$dir" && ${as_owner[@]+"${as_owner[@]}"} "$@"); }

stop() {
    owned "$bin/pg_ctl" --pgdata "$dir/data" --mode immediate --silent stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap stop EXIT

# A socket in a directory of mode 0700 and no TCP port: nobody else gets in, and nothing can collide.
owned "$bin/initdb" --pgdata "$dir/data" --username postgres --auth trust --encoding UTF8 --no-locale \
    --no-sync >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
owned "$bin/pg_ctl" --pgdata "$dir/data" --log "$dir/data/log" --wait --silent start \
    --options "-c listen_addresses='' -c unix_socket_directories='$dir' -c fsync=off" >&2 ||
    { cat "$dir/data/log" >&2; exit 1; }
export DATABASE_URL="postgres://postgres@localhost/postgres?host=${dir//\//%2F}"

# The queue's schema first, ours stands on it. Both keep their books in one table, hence --ignore-missing.
apalis=$(cargo metadata --format-version 1 --locked |
    grep -oE '"manifest_path":"[^"]*apalis-postgres-[^"/]*/Cargo.toml"' | cut -d '"' -f 4)
migrate() { cargo sqlx migrate run --no-dotenv --ignore-missing --source "$1"; }
{
    "$bin/psql" --no-psqlrc --quiet "$DATABASE_URL" --command 'CREATE SCHEMA IF NOT EXISTS retention' &&
        migrate "$(dirname "$apalis")/migrations" && migrate "$here/../migrations" &&
        migrate "$here/../migrations/main_app"
} >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }

"$@"
