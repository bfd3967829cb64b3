#!/bin/sh
# Installs Sennit on this host, or into an image: the program that lies beside this script, the units, users and
# folders. It needs no network, starts nothing, and may be run again: settings and state are kept.
set -eu

usage() {
	cat <<'EOF'
usage: install.sh [--uninstall] [--root DIR]
  --uninstall  take away the program and the units; settings, state and users stay
  --root DIR   install into the file system below DIR, of an image or a test; users are made at its first boot
EOF
}

fail() {
	echo "install.sh: $*" >&2
	exit 1
}

root='' uninstall=no
while [ $# -gt 0 ]; do
	case $1 in
	--uninstall) uninstall=yes ;;
	--root)
		[ $# -ge 2 ] && [ -n "$2" ] || fail "--root needs a folder"
		root=${2%/}
		[ -n "$root" ] || fail "--root / is this host: leave --root away"
		shift
		;;
	-h | --help) usage && exit 0 ;;
	*) usage >&2 && fail "there is nothing called $1" ;;
	esac
	shift
done

from=$(cd "$(dirname "$0")" && pwd)
units='sennit-controller.service sennit-node.service'

if [ -z "$root" ]; then
	[ "$(id -u)" = 0 ] || fail "this needs root: run it with sudo, or give --root DIR to install into an image"
	[ -d /run/systemd/system ] || fail "systemd does not run here: there is no /run/systemd/system (give --root DIR to install into an image)"
fi
[ -d "$root/etc/systemd/system" ] || fail "there is no $root/etc/systemd/system: this is no system with systemd"

# put MODE SOURCE TARGET replaces a file whole: a program that runs keeps its old one.
put() {
	mkdir -p "$root$(dirname "$3")"
	install -m "$1" "$2" "$root$3.new"
	mv -f "$root$3.new" "$root$3"
}

if [ "$uninstall" = yes ]; then
	for unit in $units; do
		if [ -z "$root" ] && [ -e "/etc/systemd/system/$unit" ]; then
			systemctl disable --now "$unit"
		fi
		rm -f "$root/etc/systemd/system/$unit"
	done
	rm -f "$root/usr/local/bin/sennit" "$root/etc/sysusers.d/sennit.conf" "$root/etc/tmpfiles.d/sennit.conf"
	[ -n "$root" ] || systemctl daemon-reload
	echo "Sennit is gone. What stays: $root/etc/sennit, $root/var/lib/sennit, and the users sennit-node and sennit-controller."
	exit 0
fi

for file in sennit sennit.sysusers.conf sennit.tmpfiles.conf $units; do
	[ -f "$from/$file" ] || fail "there is no $file beside this script: copy the whole folder, and build the program into it with \`CGO_ENABLED=0 go build -o deploy/vm/sennit ./cmd/sennit\`"
done

put 755 "$from/sennit" /usr/local/bin/sennit
put 644 "$from/sennit.sysusers.conf" /etc/sysusers.d/sennit.conf
put 644 "$from/sennit.tmpfiles.conf" /etc/tmpfiles.d/sennit.conf
for unit in $units; do
	put 644 "$from/$unit" "/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/sennit/services.d"
chmod 755 "$root/etc/sennit" "$root/etc/sennit/services.d"
for daemon in node controller; do
	env="$root/etc/sennit/$daemon.env"
	[ -e "$env" ] || (umask 077 && echo "# Environment of sennit-$daemon.service; docs/how-to/install-on-hosts.md says what may stand here." >"$env")
done

if [ -z "$root" ]; then
	systemd-sysusers /etc/sysusers.d/sennit.conf
	systemd-tmpfiles --create /etc/tmpfiles.d/sennit.conf
	systemctl daemon-reload
fi
echo "Sennit is installed. Start what this host runs: systemctl enable --now sennit-controller, or sennit-node."
