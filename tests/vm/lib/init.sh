# The guest's first process, after the switch to the Debian root (tools/vm.sh).
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/sshd /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
hostname guest
ln -sf /proc/mounts /etc/mtab
cp /payload/ferry /usr/local/bin/ferry

port() { # the virtio port of this name
  local p
  for p in /sys/class/virtio-ports/*; do
    [ "$(cat "$p/name")" = "$1" ] && echo "/dev/${p##*/}"
  done
}
exec 3>"$(port result)" >"$(port out)" 2>&1

mke2fs -q -t ext4 -F /dev/vdb
mkdir -p /scratch /host
mount /dev/vdb /scratch
mkdir /scratch/var-tmp
chmod 1777 /scratch/var-tmp
mount --bind /scratch/var-tmp /var/tmp
[ ! -b /dev/vdc ] || mount -o ro /dev/vdc /host

passed=0 failed=0
while read -r name; do
  echo "# $name"
  mkdir "/scratch/$name"
  if (cd "/scratch/$name" && bash -eu -o pipefail -c '. /payload/scripts/lib/lib.sh; . "$1"; finish' "$name" "/payload/scripts/$name.sh" </dev/null); then
    echo "ok $name"
    passed=$((passed + 1))
  else
    echo "not ok $name"
    failed=$((failed + 1))
    dmesg | tail -5
  fi
done </payload/run
echo "$passed $failed" >&3
sync
echo o >/proc/sysrq-trigger
sleep 60
