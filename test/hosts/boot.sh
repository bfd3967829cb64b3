# The first process of a host: it lays this machine's files below a fresh root, and becomes systemd. It has a mount,
# PID, network, UTS, IPC and cgroup namespace of its own, and is given the host's NAME and an empty FOLDER.
set -eu
name=$1 folder=$2

mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"

mount -t proc proc proc
echo "$name" >proc/sys/kernel/hostname
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys # most of it is the machine's: no setting of it may change
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir tmp/dev
mount -t tmpfs -o mode=755 tmpfs tmp/dev
for device in null zero full random urandom tty; do
	: >"tmp/dev/$device"
	mount --bind "/dev/$device" "tmp/dev/$device"
done
mkdir tmp/dev/shm tmp/dev/pts
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts tmp/dev/pts
ln -s pts/ptmx tmp/dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs tmp/dev/shm
mount --move tmp/dev dev

# A host from nothing: of this machine's services none is started, and Sennit was never here.
rm -rf etc/systemd/system etc/systemd/network etc/sysctl.d etc/sennit var/lib/sennit var/log/journal usr/local/bin/sennit usr/local/sbin
mkdir -p etc/systemd/system etc/sysctl.d usr/local/sbin home/operator
for unit in systemd-logind.service systemd-remount-fs.service systemd-update-utmp.service systemd-udevd.service getty.target \
	sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount dev-hugepages.mount dev-mqueue.mount; do
	ln -s /dev/null "etc/systemd/system/$unit"
done
: >etc/fstab
echo "$name" >etc/hostname
grep -q '^[^:]*:[^:]*:1000:' etc/passwd || echo 'operator:x:1000:1000::/home/operator:/bin/sh' >>etc/passwd
chown 1000:1000 home/operator
# Whoever types sudo is root already.
printf '#!/bin/sh\nexec "$@"\n' >usr/local/sbin/sudo
chmod 755 usr/local/sbin/sudo

mkdir -p tmp/machine
pivot_root . tmp/machine
umount -l /tmp/machine
rmdir /tmp/machine
cd /
# As in a container: nothing of the machine itself can be changed.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=sennit-test \
	setpriv --bounding-set -sys_module,-sys_rawio,-sys_time,-sys_boot,-mknod,-syslog,-audit_control,-audit_read \
	"$3" --system --unit=multi-user.target --log-target=journal --show-status=no </dev/null
