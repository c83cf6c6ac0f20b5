#!/usr/bin/env bash
# Makes sure that `pgbouncer` is installed, for the tests behind a transaction pooler, which start their own.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
links=$PWD/target/tools/bin
PATH=$links:$PATH

present() {
    # Debian installs it in a directory that is only on root's PATH.
    if ! command -v pgbouncer >/dev/null && [[ -x /usr/sbin/pgbouncer ]]; then
        mkdir -p "$links"
        ln -sfn /usr/sbin/pgbouncer "$links/pgbouncer"
    fi
    command -v pgbouncer >/dev/null
}

present && exit

problem="no pgbouncer"
remedy="put pgbouncer on the PATH"
# shellcheck source=.ci/packages.sh
. .ci/packages.sh

if command -v apt-get >/dev/null; then
    script=$(apt_script pgbouncer)
    script+=$'\n! command -v systemctl >/dev/null || systemctl disable --quiet pgbouncer || true'
    install_packages "apt-get: package pgbouncer; it is not started" sh -c "$script"
elif command -v dnf >/dev/null; then
    install_packages "dnf: package pgbouncer" dnf install -y -q pgbouncer
elif command -v apk >/dev/null; then
    install_packages "apk: package pgbouncer" apk add --quiet --no-progress pgbouncer
elif command -v pacman >/dev/null; then
    install_packages "pacman: package pgbouncer" pacman -S --needed --noconfirm --noprogressbar pgbouncer
elif command -v brew >/dev/null; then
    install_packages "Homebrew: formula pgbouncer; no service is started" brew install --quiet pgbouncer
else
    give_up "neither apt-get, dnf, apk, pacman nor brew is here to install it"
fi
present || give_up "the platform's packages did not bring it"
say "installed: $(pgbouncer --version | head -n 1)"
