#!/bin/sh
# What compose needs of the entry point of the public postgres image: a password from a file, scripts run once.
set -eu
if [ "$(id -u)" = 0 ]; then
	chown postgres:postgres "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-host=scram-sha-256 --auth-local=trust >/dev/null
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	pg_ctl --wait --options="-c listen_addresses=''" start
	for script in /docker-entrypoint-initdb.d/*; do
		[ -f "$script" ] && POSTGRES_USER=postgres sh "$script"
	done
	pg_ctl --wait --mode=fast stop
fi
exec "$@" -c "listen_addresses=*"
