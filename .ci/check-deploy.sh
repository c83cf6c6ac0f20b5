#!/usr/bin/env bash
# Checks the files in deploy/ with the tools for their formats. If a tool is missing, it reports the files that are not
# checked. `make check-deploy` installs the pinned tools; `make image` is the longer check.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "check-deploy: $*"; }
fail() { say "FAILED: $*" >&2; exit 1; }
there() { # program, what is not checked without it
    command -v "$1" >/dev/null || { say "NOT CHECKED, $1 is not here: $2"; return 1; }
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

hadolint deploy/Dockerfile
# The image uses the toolchain that Cargo.toml requires, and copies no ignored file.
rust=$(sed -nE 's/^rust-version = "(.*)"/\1/p' Cargo.toml)
grep -q "/rust:$rust-" deploy/Dockerfile || fail "deploy/Dockerfile does not build with rust-version $rust"
while read -r path; do
    [[ -e "$path" ]] || fail ".dockerignore names $path, which is not there"
done < <(sed -n 's/^!//p' .dockerignore)
# A tag can be moved, so images are named by digest. Images that are built here have none.
unpinned=$(sed -nE 's/^FROM +([^ ]+).*/\1/p; s/^ +image: +([^ ]+).*/\1/p' deploy/Dockerfile deploy/compose.yaml |
    grep -vE '@sha256:[0-9a-f]{64}$' | grep -v '^${DRIFT_RETENTION_IMAGE:-drift-retention:local}$') || true
[[ -z "$unpinned" ]] || fail "not named by digest: $unpinned"
say "Dockerfile: ok"

check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
# Mounted files exist: for a missing file, the engine would create an empty directory.
while read -r path; do
    case $path in
    ../dashboards/*) [[ -d dashboards ]] || { say "NOT CHECKED, dashboards/ is not here: $path"; continue; } ;;
    esac
    [[ -e "deploy/$path" ]] || fail "deploy/compose.yaml mounts $path, which is not there"
done < <(grep -oE '(\.|\.\.)/[A-Za-z0-9_./-]+:?-?' deploy/compose.yaml | sed 's/:-*$//' |
    grep -vE '^(\.\./dashboards/provisioning|\./secrets/.*)$' | sort -u)
# Every secret is a file that make-secrets.sh creates, and no environment contains a secret's value.
mkdir "$scratch/deploy"
cp deploy/make-secrets.sh "$scratch/deploy"
"$scratch/deploy/make-secrets.sh"
diff <(sed -nE 's|^  [a-z0-9_]+: \{file: \./secrets/([a-z0-9_]+)\}$|\1|p' deploy/compose.yaml | sort) \
    <(cd "$scratch/deploy/secrets" && printf '%s\n' * | sort) ||
    fail "the secrets of deploy/compose.yaml and of deploy/make-secrets.sh disagree (<: taken, >: made)"
! grep -nE '(PASSWORD|SECRET|DATABASE_URL): ' deploy/compose.yaml || fail "a secret stands in an environment (see above)"
say "compose.yaml: ok"

base=deploy/kubernetes
diff <(grep -oE '^ +- [a-z-]+\.(yaml|toml)$' "$base/kustomization.yaml" | sed 's/^ *- //' | sort) \
    <(cd "$base" && printf '%s\n' * | grep -v '^kustomization.yaml$' | sort) ||
    fail "$base/kustomization.yaml and its directory disagree (<: named, >: there)"
manifests=("$base"/*.yaml deploy/kubernetes-autoscaling/worker-hpa.yaml)
if there kubectl "what kustomize makes of $base"; then
    kubectl kustomize "$base" >"$scratch/base.yaml"
    manifests+=("$scratch/base.yaml")
fi
kubernetes-validate --strict "${manifests[@]}" >"$scratch/validated" 2>&1 || { cat "$scratch/validated"; fail "the manifests"; }
# The tool only warns about unknown kinds: those of the Prometheus operator, and kustomize's own file.
if grep -vE '^INFO |kind (ServiceMonitor|Kustomization) ' "$scratch/validated"; then
    fail "the manifests (see above)"
fi
say "kubernetes: $(grep -c '^INFO ' "$scratch/validated") resources ok"

if there systemd-analyze "deploy/systemd"; then
    # The tool requires an installed program. The units are otherwise unchanged.
    for unit in deploy/systemd/*.service; do
        sed 's|/usr/local/bin/drift-retention|/bin/true|' "$unit" >"$scratch/${unit##*/}"
    done
    # For an unknown key the tool only prints a warning.
    complaints=$(systemd-analyze verify "$scratch"/*.service 2>&1) || fail "$complaints"
    [[ -z "$complaints" ]] || fail "$complaints"
    for unit in "$scratch"/*.service; do
        systemd-analyze security --no-pager --offline=true --threshold=15 "$unit" >"$scratch/security" ||
            { cat "$scratch/security"; fail "${unit##*/} is more exposed than 1.5"; }
        say "systemd: $(tail -n 1 "$scratch/security" | tr -dc '[:alnum:][:blank:].:_-')"
    done
fi

if there promtool "deploy/prometheus.yaml"; then
    promtool check config --syntax-only deploy/prometheus.yaml >"$scratch/promtool" 2>&1 ||
        { cat "$scratch/promtool"; fail "deploy/prometheus.yaml"; }
    say "prometheus.yaml: ok"
fi
