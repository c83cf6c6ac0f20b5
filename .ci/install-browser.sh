#!/usr/bin/env bash
# Makes sure that Chromium and its driver are installed, for the tests of the console and for `make screenshots`.
# CHROMEDRIVER and CHROMIUM override those on the PATH; then nothing is installed.
set -euo pipefail

has_browser() { # where its driver looks for one
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
        ! type -P "$name" >/dev/null || return 0
    done
    [[ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" || -d /Applications/Chromium.app ]]
}

missing() { # what is not there, in words; nothing when all is
    local driver=${CHROMEDRIVER:-chromedriver}
    if ! type -P "$driver" >/dev/null; then
        echo "no $driver"
    elif [[ -n "${CHROMIUM:-}" ]]; then
        type -P "$CHROMIUM" >/dev/null || echo "no $CHROMIUM"
    elif ! has_browser; then
        echo "no Chromium"
    fi
}

problem=$(missing)
[[ -n "$problem" ]] || exit 0

remedy="install Chromium (or Chrome) and the chromedriver of the same version, or say with CHROMEDRIVER and CHROMIUM where they are"
# shellcheck source=.ci/packages.sh
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

[[ -z "${CHROMEDRIVER:-}${CHROMIUM:-}" ]] || give_up "CHROMEDRIVER or CHROMIUM says to use no other"

# Ubuntu's packages of these names are empty and fetch a snap, which does not run in a container.
is_ubuntu() { grep -qs '^ID=ubuntu' /etc/os-release; }

if command -v apt-get >/dev/null && ! is_ubuntu; then
    install_packages "apt-get: packages chromium and chromium-driver" sh -c "$(apt_script chromium chromium-driver)"
elif command -v dnf >/dev/null; then
    install_packages "dnf: packages chromium and chromedriver" dnf install -y -q chromium chromedriver
elif command -v apk >/dev/null; then
    install_packages "apk: packages chromium and chromium-chromedriver" \
        apk add --quiet --no-progress chromium chromium-chromedriver
elif command -v pacman >/dev/null; then
    install_packages "pacman: package chromium, which brings its driver" \
        pacman -S --needed --noconfirm --noprogressbar chromium
elif command -v brew >/dev/null; then
    install_packages "Homebrew: casks chromium and chromedriver" brew install --quiet --cask chromium chromedriver
else
    give_up "no package manager is here that has both (apt-get of Debian, dnf, apk, pacman, brew)"
fi

problem=$(missing)
[[ -z "$problem" ]] || give_up "the platform's packages did not bring it"
say "installed: $(chromedriver --version | cut -d ' ' -f 1-2)"
