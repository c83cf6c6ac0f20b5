#!/usr/bin/env bash
# Makes sure that libfaketime is installed, with which the crash lab makes clocks jump. If the platform has no package
# for it, the lab reports this and does everything else.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"

! command -v faketime >/dev/null || exit 0

problem="no libfaketime"
remedy="install libfaketime, or go on without clocks that jump"
# shellcheck source=.ci/packages.sh
. ./packages.sh

if command -v apt-get >/dev/null; then
    install_packages "apt-get: package faketime" sh -c "$(apt_script faketime)"
elif command -v dnf >/dev/null; then
    install_packages "dnf: package libfaketime" dnf install -y -q libfaketime
elif command -v pacman >/dev/null; then
    install_packages "pacman: package libfaketime" pacman -S --needed --noconfirm --noprogressbar libfaketime
else
    say "$problem, and no package manager is here that has it: no clock will jump"
fi
