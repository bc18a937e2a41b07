#!/bin/sh
# Starts PostgreSQL on a data directory below the mounted volume and makes it first if it is not there.
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and PGDATA as people know them from the official image.
set -eu
: "${PGDATA:=/var/lib/postgresql/data/pgdata}" "${POSTGRES_USER:=postgres}" "${POSTGRES_PASSWORD:=postgres}"
export PGDATA LANG=C.UTF-8

if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA"
	chown -R postgres:postgres "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
	mkdir -p "$PGDATA"
	chmod 700 "$PGDATA"
	password=$(mktemp)
	printf '%s\n' "$POSTGRES_PASSWORD" > "$password"
	initdb --username="$POSTGRES_USER" --pwfile="$password" --auth-local=trust --auth-host=scram-sha-256 \
		--encoding=UTF8 > /dev/null
	rm "$password"
	echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
	if [ -n "${POSTGRES_DB:-}" ] && [ "$POSTGRES_DB" != postgres ]; then
		# On a socket that nobody looks for: a client, or a readiness probe, must not take this server for the real one.
		pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k '$PGDATA'" -w start > /dev/null
		createdb --host="$PGDATA" --username="$POSTGRES_USER" "$POSTGRES_DB"
		pg_ctl -D "$PGDATA" -m fast -w stop > /dev/null
	fi
fi

[ $# -eq 0 ] || exec "$@"
exec postgres -c listen_addresses='*' -k /tmp
