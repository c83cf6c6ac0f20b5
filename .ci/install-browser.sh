#!/usr/bin/env bash
# Makes sure that Chromium and its driver are installed, for the tests of the console and for `make screenshots`.
# CHROMEDRIVER and CHROMIUM name others than those on the PATH; then nothing is installed in their place.
set -euo pipefail

say() { echo "install-browser: $*" >&2; }

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

give_up() {
    say "$problem, and $1"
    say "install Chromium (or Chrome) and the chromedriver of the same version, or say with CHROMEDRIVER and CHROMIUM where they are"
    exit 1
}

[[ -z "${CHROMEDRIVER:-}${CHROMIUM:-}" ]] || give_up "CHROMEDRIVER or CHROMIUM says to use no other"

# Ubuntu's packages of these names are empty and fetch a snap, which does not run in a container.
is_ubuntu() { grep -qs '^ID=ubuntu' /etc/os-release; }

sudo=1
if command -v apt-get >/dev/null && ! is_ubuntu; then
    what="apt-get: packages chromium and chromium-driver"
    install=(sh -c "export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver")
elif command -v dnf >/dev/null; then
    what="dnf: packages chromium and chromedriver"
    install=(dnf install -y -q chromium chromedriver)
elif command -v apk >/dev/null; then
    what="apk: packages chromium and chromium-chromedriver"
    install=(apk add --quiet --no-progress chromium chromium-chromedriver)
elif command -v pacman >/dev/null; then
    what="pacman: package chromium, which brings its driver"
    install=(pacman -S --needed --noconfirm --noprogressbar chromium)
elif command -v brew >/dev/null; then
    what="Homebrew: casks chromium and chromedriver"
    install=(brew install --quiet --cask chromium chromedriver)
    sudo=0 # Homebrew refuses root
else
    give_up "no package manager is here that has both (apt-get of Debian, dnf, apk, pacman, brew)"
fi

if ((sudo)) && ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
        say "$problem. Installing it needs root and there is no sudo: run this as root, then again what you ran:"
        printf '%q ' "${install[@]}" >&2
        echo >&2
        exit 1
    fi
    what+=" (through sudo)"
    install=(sudo "${install[@]}")
fi

say "$problem: installing with $what"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The output is shown only when it fails; a password prompt of sudo goes to the terminal by itself.
if ! "${install[@]}" >"$log" 2>&1; then
    cat "$log" >&2
    give_up "the installation failed (see above)"
fi

problem=$(missing)
[[ -z "$problem" ]] || give_up "the platform's packages did not bring it"
say "installed: $(chromedriver --version | cut -d ' ' -f 1-2)"
