#!/usr/bin/env bash
# Installs a tool from PyPI into its own directory. .ci/python/TOOL.txt has the versions and hashes of the tool and its
# dependencies.
#
#   .ci/from-pypi.sh TOOL DIRECTORY
#   .ci/from-pypi.sh --version TOOL      the version
#
# To change the version (uv is on PyPI, too):
#
#   echo TOOL==VERSION | uv pip compile - --universal --python-version 3.11 --generate-hashes \
#       --no-header --no-annotate --output-file .ci/python/TOOL.txt
set -euo pipefail
pins=$(dirname "${BASH_SOURCE[0]}")/python

if [[ "$1" == --version ]]; then
    sed -nE "s/^$2==([^ ]+).*/\1/p" "$pins/$2.txt"
    exit
fi
python3 -m venv "$2" >/dev/null
"$2/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$pins/$1.txt"
