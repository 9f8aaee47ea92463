#!/bin/sh
# secrets.sh: writes random secrets for compose.yaml into secrets/ beside this file. Existing ones are kept.
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
# The containers' users are not known here, so everybody may read the files: the folder keeps others out. Their owner can still
# write to them, because a provider's key has yet to be added.
chmod 0644 secrets/*
