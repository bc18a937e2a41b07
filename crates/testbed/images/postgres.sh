# PostgreSQL 15 without what only its JIT compiler and its Debian cluster scripts need.
ln -sf dash bin/sh
rm -rf usr/lib/postgresql/15/lib/bitcode usr/lib/postgresql/15/lib/llvmjit* usr/share/perl* usr/share/postgresql-common
for program in usr/lib/postgresql/15/bin/*; do
	ln -sf "/$program" "usr/bin/${program##*/}"
done
printf '%s\n' 'postgres:x:999:999:postgres:/var/lib/postgresql:/bin/sh' >> etc/passwd
printf '%s\n' 'postgres:x:999:' >> etc/group
mkdir -p var/lib/postgresql run/postgresql
chown 999:999 var/lib/postgresql run/postgresql
