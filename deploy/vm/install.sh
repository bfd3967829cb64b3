#!/bin/sh
# Installs Sennit on this host, or into an image: the program that lies beside this script, the units, users and
# folders. It needs no network, starts nothing, and may be run again: settings and state are kept.
set -eu

usage() {
	cat <<'EOT'
usage: install.sh [--uninstall] [--root DIR]
  --uninstall  take away the program and the units; settings, state and users stay
  --root DIR   install into the file system below DIR, of an image or a test; users are made at its first boot
EOT
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
		if [ $# -lt 2 ] || [ -z "$2" ]; then fail "--root needs a folder"; fi
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
build='CGO_ENABLED=0 go build -o deploy/vm/sennit ./cmd/sennit'
units='sennit-controller.service sennit-node.service'

if [ -z "$root" ]; then
	[ "$(id -u)" = 0 ] || fail "this needs root: run it with sudo, or give --root DIR to install into an image"
	[ -d /run/systemd/system ] || fail "systemd does not run here: there is no /run/systemd/system (give --root DIR to install into an image)"
fi
[ -d "$root/etc/systemd/system" ] || fail "there is no $root/etc/systemd/system: this is no system with systemd"

# put MODE SOURCE TARGET replaces a file whole: a program that runs keeps its old one.
put() {
	mkdir -p "$root$(dirname "$3")"
	install -m "$1" "$from/$2" "$root$3.new"
	mv -f "$root$3.new" "$root$3"
}

if [ "$uninstall" = yes ]; then
	for unit in $units; do
		if [ -z "$root" ] && [ -e "/etc/systemd/system/$unit" ]; then
			systemctl disable --now "$unit"
		fi
		rm -f "$root/etc/systemd/system/$unit"
	done
	rm -f "$root/usr/local/bin/sennit" "$root/etc/sysusers.d/sennit.conf" "$root/etc/tmpfiles.d/sennit.conf" "$root/etc/sysctl.d/10-sennit.conf"
	if [ -z "$root" ]; then
		rm -rf /run/sennit
		systemctl daemon-reload
	fi
	echo "Sennit is gone. What stays: $root/etc/sennit, $root/var/lib/sennit, and the users sennit-node and sennit-controller."
	exit 0
fi

# Everything is looked at before anything is changed.
for file in sennit sennit.sysusers.conf sennit.tmpfiles.conf sennit.sysctl.conf node.env controller.env $units; do
	[ -f "$from/$file" ] || fail "there is no $file beside this script: copy the whole folder, and build the program into it with \`$build\`"
done
if [ -z "$root" ]; then
	# A copy is run: the folder may be on a file system from which nothing may be run.
	mkdir -p /usr/local/bin
	trap 'rm -f /usr/local/bin/sennit.try' EXIT
	install -m 755 "$from/sennit" /usr/local/bin/sennit.try
	/usr/local/bin/sennit.try version >/dev/null 2>&1 || fail "the program beside this script does not run on this host ($(uname -sm)): build it for here, \`GOOS=linux GOARCH=… $build\`"
fi

put 755 sennit /usr/local/bin/sennit
put 644 sennit.sysusers.conf /etc/sysusers.d/sennit.conf
put 644 sennit.tmpfiles.conf /etc/tmpfiles.d/sennit.conf
put 644 sennit.sysctl.conf /etc/sysctl.d/10-sennit.conf
for unit in $units; do
	put 644 "$unit" "/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/sennit/services.d"
chmod 755 "$root/etc/sennit" "$root/etc/sennit/services.d"
for env in node.env controller.env; do
	[ -e "$root/etc/sennit/$env" ] || put 600 "$env" "/etc/sennit/$env"
done

if [ -z "$root" ]; then
	systemd-sysusers /etc/sysusers.d/sennit.conf
	systemd-tmpfiles --create /etc/tmpfiles.d/sennit.conf
	systemctl daemon-reload
	# Raised at once, never lowered; the host's own sysctl.d decides from the next boot on.
	while read -r key equals wanted; do
		file=/proc/sys/$(echo "$key" | tr . /)
		if [ "$equals" != = ] || [ ! -e "$file" ] || [ "$(cat "$file")" -ge "$wanted" ]; then continue; fi
		(echo "$wanted" >"$file") 2>/dev/null || echo "Note: $key stays at $(cat "$file") and should be $wanted. It is set at the next boot; in a container, set it outside."
	done <"$from/sennit.sysctl.conf"
fi
echo "Sennit is installed. Start what this host runs: systemctl enable --now sennit-controller, or sennit-node."
