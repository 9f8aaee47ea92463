#!/bin/sh
# secrets.sh: random secrets for compose.yaml, into secrets/ beside this file. What is there already is kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

for name in database_password master metrics; do
    [ -s "secrets/$name" ] || random >"secrets/$name"
done
[ -s secrets/database_url ] ||
    printf 'postgresql://tollbridge:%s@postgres:5432/tollbridge' "$(cat secrets/database_password)" >secrets/database_url
if [ ! -s secrets/providers ]; then
    printf 'put-the-key-here' >secrets/providers
    echo "Put your provider's key into deploy/compose/secrets/providers." >&2
fi
# A container's users are not known here, so its files can be read by all: the folder is what keeps others out. Whoever made
# them can write to them: a provider's key is still to come.
chmod 0644 secrets/*
