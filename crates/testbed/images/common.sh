# Sourced for every image made of Debian packages: $ROOT is the unpacked root directory, to be made an image of.
# No package script has run; what they would have set up and a container needs is done here.
set -euo pipefail
cd "$ROOT"
chmod 755 .
mkdir -p dev proc sys tmp root run var/tmp etc/ssl/certs
chmod 1777 tmp var/tmp
chmod 700 root
rm -rf usr/share/doc usr/share/man usr/share/locale usr/share/info usr/share/lintian usr/share/i18n usr/share/bug \
	usr/share/bash-completion usr/lib/systemd var/cache/* usr/lib/*-linux-gnu/gconv
rm -f etc/hostname etc/resolv.conf etc/fstab etc/mtab
printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'nonroot:x:65532:65532:nonroot:/tmp:/bin/sh' > etc/passwd
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' > etc/group
printf '%s\n' 'passwd: files' 'group: files' 'hosts: files dns' > etc/nsswitch.conf
if [ -d usr/share/ca-certificates/mozilla ]; then
	cat usr/share/ca-certificates/mozilla/*.crt > etc/ssl/certs/ca-certificates.crt
	rm -rf usr/share/ca-certificates
fi
