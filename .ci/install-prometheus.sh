#!/usr/bin/env bash
# Makes sure that `prometheus`, `promtool` and `alertmanager` are there, for `make check-dashboards`. Only the programs
# are needed: that starts what it needs by itself, so no service is started here, nor at the next boot.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
links=$PWD/target/tools/bin
PATH=$links:$PATH

say() { echo "install-prometheus: $*" >&2; }

give_up() {
    say "Prometheus or Alertmanager is missing, and $1"
    say "put prometheus, promtool and alertmanager on the PATH"
    exit 1
}

present() {
    # Debian calls it by a longer name.
    if ! command -v alertmanager >/dev/null && command -v prometheus-alertmanager >/dev/null; then
        mkdir -p "$links"
        ln -sfn "$(command -v prometheus-alertmanager)" "$links/alertmanager"
    fi
    command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v alertmanager >/dev/null
}

present && exit

# Debian and Ubuntu start what they install unless policy-rc.d says not to; one that is there already is left alone.
# shellcheck disable=SC2016 # expanded by the inner shell
apt_script='set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap "rm -f $policy" EXIT
    printf "#!/bin/sh\nexit 101\n" > "$policy"
    chmod +x "$policy"
fi
apt-get update -qq
apt-get install -qq -y --no-install-recommends prometheus prometheus-alertmanager
if command -v systemctl >/dev/null; then
    systemctl disable --quiet prometheus prometheus-alertmanager || true
fi'

if command -v apt-get >/dev/null; then
    what="apt-get: packages prometheus and prometheus-alertmanager; neither is started"
    install=(sh -c "$apt_script")
    if ((EUID != 0)); then
        command -v sudo >/dev/null || give_up "installing them needs root, and there is no sudo"
        what+=" (through sudo)"
        install=(sudo "${install[@]}")
    fi
elif command -v brew >/dev/null; then
    what="Homebrew: formulas prometheus and alertmanager; no service is started"
    install=(brew install --quiet prometheus alertmanager)
else
    give_up "neither apt-get nor brew is here to install them"
fi

say "installing Prometheus and Alertmanager with $what"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "${install[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    give_up "the installation failed (see above)"
fi
present || give_up "the packages do not bring all three programs"
say "installed: $(prometheus --version 2>&1 | head -n 1), $(alertmanager --version 2>&1 | head -n 1)"
