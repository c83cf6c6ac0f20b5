#!/usr/bin/env bash
# Fuzzes the API from its own description. No answer may be a 5xx or one that /openapi.json does not declare. Needs
# DATABASE_URL (an empty database) and a built binary; `make fuzz-api` brings both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=target/tools/schemathesis-$(.ci/from-pypi.sh --version schemathesis)
[[ -x $venv/bin/schemathesis ]] || .ci/from-pypi.sh schemathesis "$venv"

binary=${CARGO_TARGET_DIR:-target}/debug/drift-retention
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export DRIFT_RETENTION_HTTP__LISTEN=127.0.0.1:$port
DRIFT_RETENTION_AUTH__HS256_SECRET=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export DRIFT_RETENTION_AUTH__HS256_SECRET
# The fuzzer requests more purges than one organization may.
export DRIFT_RETENTION_HTTP__PURGES_PER_MINUTE=1000000
org=11111111-1111-4111-8111-111111111111

"$binary" migrate up --main-app >/dev/null
"$(.ci/find-postgres.sh)/psql" --quiet -v ON_ERROR_STOP=1 "$DATABASE_URL" <<SQL
INSERT INTO organizations (id, name, plan) VALUES ('$org', 'Fuzzed Inc.', 'pro');
INSERT INTO environments (org_id, name) SELECT '$org', 'env ' || n FROM generate_series(1, 3) n;
INSERT INTO drift_checks (org_id, env_id, checked_at, status)
SELECT org_id, id, now() - n * interval '1 day', 'drift' FROM environments, generate_series(0, 60) n;
INSERT INTO incidents (org_id, env_id, title, status) SELECT org_id, id, 'Drift', 'detected' FROM environments;
SQL

"$binary" serve 2>target/fuzz-api.log &
service=$!
trap 'kill "$service" 2>/dev/null || true; wait "$service" || true' EXIT
for _ in $(seq 100); do
    python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null && break
    sleep 0.1
done

config=target/fuzz-api.toml
printf '[parameters]\n"path.orgId" = "%s"\n' "$org" >"$config"
token=$("$binary" token --sub fuzzer --role operator)
"$venv/bin/schemathesis" --config-file "$config" run "http://127.0.0.1:$port/openapi.json" \
    -H "Authorization: Bearer $token" --checks all --max-examples "${FUZZ_EXAMPLES:-50}" --seed "${FUZZ_SEED:-1}" --no-color
if grep -q '"level":"ERROR"' target/fuzz-api.log; then
    echo "the service logged errors:" && grep '"level":"ERROR"' target/fuzz-api.log | head
    exit 1
fi
