# shellcheck shell=bash
# Functions for the install-*.sh scripts: they install the platform's packages and report failures. A script that
# sources this file sets `problem` (what is missing) and `remedy` (what to do by hand) before it calls a function.

say() { echo "$(basename "$0" .sh): $*" >&2; }

give_up() { # why nothing can be installed
    say "${problem:?}, and $1"
    say "${remedy:?}"
    exit 1
}

# A script for `sh -c` that installs packages with apt-get. Debian and Ubuntu start installed services unless
# policy-rc.d forbids it. An existing policy-rc.d is not changed.
apt_script() { # packages…
    cat <<SCRIPT
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "\$policy" ]; then
    trap "rm -f \$policy" EXIT
    printf "#!/bin/sh\nexit 101\n" > "\$policy"
    chmod +x "\$policy"
fi
apt-get update -qq
apt-get install -qq -y --no-install-recommends $*
SCRIPT
}

# Prints the command and runs it as root, with sudo if needed. Homebrew refuses root.
install_packages() { # what it is in words, command…
    local what=$1 log
    shift
    if ((EUID != 0)) && [[ "$1" != brew ]]; then
        if ! command -v sudo >/dev/null; then
            say "$problem. Installing it needs root and there is no sudo: run this as root, then again what you ran:"
            printf '%q ' "$@" >&2
            echo >&2
            exit 1
        fi
        what+=" (through sudo)"
        set -- sudo "$@"
    fi
    say "$problem: installing with $what"
    log=$(mktemp)
    # The output is shown only if the command fails. sudo prints its password prompt directly to the terminal.
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        give_up "the installation failed (see above)"
    fi
    rm -f "$log"
}
