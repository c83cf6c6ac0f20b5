#!/usr/bin/env bash
# Runs an image as a platform does, and checks the statements of deploy/README.md about it. Part of prove-image.sh: it
# needs DATABASE_URL (an empty database), buildah, and buildah's storage in the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

image=$1
say() { echo "run-image: $*"; }
fail() {
    say "FAILED: $*" >&2
    [[ ! -s "$log" ]] || tail -n 20 "$log" >&2
    exit 1
}

log=$(mktemp)
container=$(buildah from --pull-never "$image")
service=
clean_up() {
    [[ -z "$service" ]] || process | xargs -r kill -KILL
    buildah rm "$container" >/dev/null
    rm -f "$log"
}
trap clean_up EXIT

# The metadata of the image.
of_image() { buildah inspect --type image --format "{{$1}}" "$image"; }
expect() { # what, is, should be
    [[ "$2" == "$3" ]] || fail "$1 is $2, not $3"
    say "$1: $2"
}
expect "user" "$(of_image .Docker.Config.User)" 65532:65532
expect "entrypoint and command" "$(of_image .Docker.Config.Entrypoint) $(of_image .Docker.Config.Cmd)" \
    "[drift-retention] [serve]"
expect "stop signal" "$(of_image .Docker.Config.StopSignal)" SIGTERM
expect "health check" "$(of_image .Docker.Config.Healthcheck.Test)" "[CMD drift-retention health]"
[[ "$(of_image .Docker.Config.Labels)" == *org.opencontainers.image.revision:* ]] || fail "it has no labels"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
secret=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
in_image() { # arguments of drift-retention; the entry point is left out by `buildah run`
    buildah run --isolation chroot --env DATABASE_URL="$DATABASE_URL" \
        --env DRIFT_RETENTION_HTTP__LISTEN="0.0.0.0:$port" --env DRIFT_RETENTION_AUTH__HS256_SECRET="$secret" \
        "$container" -- drift-retention "$@"
}
process() { # the program itself, which runs in the container: known by its port
    local candidate
    for candidate in $(pgrep -f '^/usr/local/bin/drift-retention serve$'); do
        if grep -qzx "DRIFT_RETENTION_HTTP__LISTEN=0.0.0.0:$port" "/proc/$candidate/environ" 2>/dev/null; then
            echo "$candidate"
        fi
    done
}
sql() { "$(.ci/find-postgres.sh)/psql" --no-psqlrc -qAtX -v ON_ERROR_STOP=1 "$DATABASE_URL" --command "$1"; }

expect "id in the container" "$(buildah run --isolation chroot "$container" -- id -u)" 65532
say "size of the program: $(buildah run --isolation chroot "$container" -- stat -c %s /usr/local/bin/drift-retention) bytes"
expect "our programs" "$(buildah run --isolation chroot "$container" -- ls /usr/local/bin)" drift-retention
in_image migrate up --main-app >"$log" 2>&1 || fail "migrate up"
say "migrate up --main-app: done"

org=11111111-1111-4111-8111-111111111111
sql "INSERT INTO organizations (id, name, plan) VALUES ('$org', 'Proof Inc.', 'free');
     INSERT INTO environments (org_id, name) VALUES ('$org', 'production');
     INSERT INTO drift_checks (org_id, env_id, checked_at, status)
     SELECT org_id, id, now() - n * interval '1 hour', 'drift' FROM environments, generate_series(1, 10000) n"
kept=$((7 * 24 - 1)) # one an hour, strictly inside the window of 7 days

in_image health >"$log" 2>&1 && fail "health says ready of a service that is not there"
say "health before the start: $(grep -m 1 '^error:' "$log")"

in_image serve >"$log" 2>&1 &
service=$!
from=$(date +%s%N)
until in_image health >/dev/null 2>&1; do
    (($(date +%s%N) - from < 30 * 10 ** 9)) || fail "not ready after 30 s"
    sleep 0.2
done
say "health: $(in_image health) (exit $?)"
expect "GET /readyz" "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/readyz")" 200

# The real process: its user and its shutdown.
pid=$(process)
[[ -n "$pid" ]] || fail "its process is not to be found"
expect "user of the process" "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" 65532

in_image purge --org "$org" --wait >"$log.purge" 2>&1 || { cat "$log.purge" >&2; fail "the purge"; }
expect "drift checks left of 10000" "$(sql 'SELECT count(*) FROM drift_checks')" "$kept"
expect "rows that the run recorded" \
    "$(sql "SELECT rows_purged FROM retention.purge_run_steps WHERE table_name = 'drift_checks'")" "$((10000 - kept))"
rm -f "$log.purge"

from=$(date +%s%N)
kill -TERM "$pid"
code=0
wait "$service" || code=$?
took=$((($(date +%s%N) - from) / 10 ** 6))
service=
expect "exit after SIGTERM" "$code" 0
((took < 10000)) || fail "it took $took ms to stop"
say "stopped after $took ms"
grep -q '"message":"stopped"' "$log" || fail "it did not stop in order"
# It must leave nothing in its root file system.
root=$(buildah mount "$container")
written=$(find "$root" -xdev -newer "$root/usr/local/bin/drift-retention" -uid 65532 | head)
buildah umount "$container" >/dev/null
expect "files written by it" "${written:-none}" none
