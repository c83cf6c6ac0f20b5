#!/usr/bin/env bash
# Builds deploy/Dockerfile and runs the image as a platform does: as its own user, on a throwaway Postgres, through
# migrate, serve, a purge, readiness, and a stop in time. Needs root on Debian or Ubuntu; `make image` starts the
# server.
#
# It needs no container engine and no registry: it uses buildah with --isolation chroot, and base images made from the
# distribution's own packages under the names in the Dockerfile. So it does not test the public images of those names.
# KEEP=1 keeps the images for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "prove-image: $*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

((EUID == 0)) || fail "has to be root: it makes base images and changes into them"
if ! command -v buildah >/dev/null || ! command -v mmdebstrap >/dev/null; then
    say "installing buildah and mmdebstrap with apt-get"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah mmdebstrap >/dev/null
fi

# Use separate storage, so that the machine's images are neither seen nor changed.
work=${DRIFT_RETENTION_IMAGES:-/var/tmp/drift-retention-images}
mkdir -p "$work/tmp"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs TMPDIR=$work/tmp # cache mounts lie in there
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' "$work" "$work" >"$work/storage.conf"
export CONTAINERS_STORAGE_CONF=$work/storage.conf

# A stand-in does not have the digest of the image that it replaces.
sed -E 's/^(FROM [^ ]+)@sha256:[0-9a-f]{64}/\1/' deploy/Dockerfile >"$work/Dockerfile"
builder=$(awk '$1 == "FROM" && $3 == "AS" { print $2 }' "$work/Dockerfile")
runtime=$(awk '$1 == "FROM" && NF == 2 { print $2 }' "$work/Dockerfile")
image=localhost/drift-retention:proof

have() { buildah images --quiet "$1" >/dev/null 2>&1; }

# shellcheck disable=SC2016 # expanded by mmdebstrap's shell
debian() { # archive, mmdebstrap's arguments…: as small as the slim images, without documentation and package lists
    mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin' "${@:2}" bookworm "$1"
}

import() { # archive, name, further arguments of `buildah config`…
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$1" / >/dev/null
    buildah config --cmd bash "${@:3}" "$container"
    buildah commit --quiet --rm "$container" "$2" >/dev/null
}

if ! have "$runtime"; then
    say "making $runtime"
    debian "$work/runtime.tar"
    import "$work/runtime.tar" "$runtime"
    rm "$work/runtime.tar"
fi
if ! have "$builder"; then
    say "making $builder, with this machine's toolchain: $(rustc --version)"
    [[ "$builder" == *":$(rustc --version | grep -oE '[0-9]+\.[0-9]+' | head -n 1)-"* ]] ||
        fail "the Dockerfile builds with $builder, here is $(rustc --version)"
    sysroot=$(rustc --print sysroot)
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    # Add this machine's certificates, so that the build also works behind a proxy with its own CA.
    debian "$work/builder.tar" --include=ca-certificates,gcc,g++,libc6-dev,make \
        --customize-hook='mkdir -p "$1/usr/local/rust/lib" "$1/usr/local/cargo"' \
        --customize-hook="cp -a '$sysroot/bin' \"\$1/usr/local/rust/\"" \
        --customize-hook="cp -a '$sysroot'/lib/*.so* '$sysroot/lib/rustlib' \"\$1/usr/local/rust/lib/\"" \
        --customize-hook="cp -L /etc/ssl/certs/ca-certificates.crt \"\$1/etc/ssl/certs/ca-certificates.crt\""
    import "$work/builder.tar" "$builder" --env CARGO_HOME=/usr/local/cargo \
        --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    rm "$work/builder.tar"
fi

say "building deploy/Dockerfile"
from=$SECONDS
# A faster build of the same program. FULL=1 builds the release profile.
trial=(--build-arg CARGO_PROFILE_RELEASE_LTO=off --build-arg CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
    --build-arg CARGO_PROFILE_RELEASE_OPT_LEVEL="${OPT_LEVEL:-0}")
[[ -z "${FULL:-}" ]] || trial=()
buildah build --quiet --format docker --pull-never --file "$work/Dockerfile" --tag "$image" \
    --build-arg REVISION="$(git rev-parse HEAD)" "${trial[@]}" . >/dev/null
say "built in $((SECONDS - from)) s"
buildah images --format '{{.Name}}:{{.Tag}}  {{.Size}}' | sed 's/^/prove-image: /'

# Everything below runs on a throwaway server.
with_postgres=${CARGO_TARGET_DIR:-target}/debug/examples/with_postgres
"$with_postgres" .ci/run-image.sh "$image"
[[ -n "${KEEP:-}" ]] || { buildah rmi --all --force >/dev/null && rm -rf "$work"; }
