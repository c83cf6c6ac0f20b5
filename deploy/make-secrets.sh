#!/usr/bin/env bash
# Creates the secrets for compose.yaml, each as a file in secrets/ in the same directory. Existing files stay, because
# the database keeps its first passwords. To renew a password, delete its file and also change it in the database.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

mkdir -p secrets
chmod 0700 secrets
# Containers read the files as their own users. The directory's permissions keep other users of this machine out.
umask 0022

make() { # name, command…: what it prints
    [[ ! -e "secrets/$1" ]] || return 0
    "${@:2}" >"secrets/.new"
    mv secrets/.new "secrets/$1"
}
url() { # user, file of its password
    printf 'postgres://%s:%s@postgres:5432/workflowops\n' "$1" "$(cat "secrets/$2")"
}

make postgres_password openssl rand -hex 24
make worker_password openssl rand -hex 24
make hs256_secret openssl rand -hex 32
make grafana_password openssl rand -hex 24
make grafana_db_password openssl rand -hex 24
make owner_database_url url workflowops postgres_password
make database_url url drift_retention worker_password
