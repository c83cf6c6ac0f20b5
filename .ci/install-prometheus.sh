#!/usr/bin/env bash
# Makes sure that `prometheus`, `promtool` and `alertmanager` are installed, for `make check-dashboards` and `make
# check-deploy`. Only the programs are needed: the targets start them, so no service is started here or at the next
# boot.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
links=$PWD/target/tools/bin
PATH=$links:$PATH

problem="Prometheus or Alertmanager is missing"
remedy="put prometheus, promtool and alertmanager on the PATH"
# shellcheck source=.ci/packages.sh
. .ci/packages.sh

present() {
    # Debian's package has a longer name.
    if ! command -v alertmanager >/dev/null && command -v prometheus-alertmanager >/dev/null; then
        mkdir -p "$links"
        ln -sfn "$(command -v prometheus-alertmanager)" "$links/alertmanager"
    fi
    command -v prometheus >/dev/null && command -v promtool >/dev/null && command -v alertmanager >/dev/null
}

present && exit

if command -v apt-get >/dev/null; then
    script=$(apt_script prometheus prometheus-alertmanager)
    script+=$'\n! command -v systemctl >/dev/null || systemctl disable --quiet prometheus prometheus-alertmanager || true'
    install_packages "apt-get: packages prometheus and prometheus-alertmanager; neither is started" sh -c "$script"
elif command -v brew >/dev/null; then
    install_packages "Homebrew: formulas prometheus and alertmanager; no service is started" \
        brew install --quiet prometheus alertmanager
else
    give_up "neither apt-get nor brew is here to install them"
fi

present || give_up "the packages do not bring all three programs"
say "installed: $(prometheus --version 2>&1 | head -n 1), $(alertmanager --version 2>&1 | head -n 1)"
