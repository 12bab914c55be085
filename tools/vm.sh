#!/usr/bin/env bash
# vm.sh [-m MIB] [-t SECONDS] [-f FILE]... [SCRIPT...]       (default: every tests/vm/*.sh)
#
# Boots Debian 12's 6.1 cloud kernel in qemu, with KVM where it works and emulated where not, and runs the scripts in it one after
# the other. The guest has what a developer's kernel may lack: cgroups v2 alone, vfat, exfat, dm-flakey, netem, overlay,
# nftables, and root. It has no network but its loopback. Nothing is installed on the host: kernel and userland are Debian's
# packages below target/.
#
# A script is tests/vm/NAME.sh, given as NAME. It is run by bash with -eu -o pipefail after tests/vm/lib/lib.sh, in an empty
# directory on a journaled ext4 (8 GiB, sparse), with target/static/ferry as `ferry`. The root is the Debian 12 tree of
# tools/peers.sh, so docker, podman and mkfs are there; what is written to it stays in memory. Each -f FILE is at /host/.
# Output comes as it is made. The status is 0 when every script succeeded; the last line says how many did.
#   -m MIB      memory of the guest (2048)
#   -t SECONDS  time limit for everything together (900)
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
memory=2048
limit=900
files=()
while getopts m:t:f: option; do
  case $option in
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    f) files+=("$(realpath "$OPTARG")") ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
cd "$top"
if [ $# = 0 ]; then
  for script in tests/vm/*.sh; do set -- "$@" "$(basename "$script" .sh)"; done
fi
for name in "$@"; do
  [ -e "tests/vm/$name.sh" ] || { echo "vm: there is no tests/vm/$name.sh" >&2; exit 2; }
done
[ -x target/static/ferry ] || { echo "vm: target/static/ferry is missing: run make static" >&2; exit 1; }
tools/need.sh cpio e2fsprogs
tools/peers.sh
peers=${FERRY_PEERS:-$top/target/peers}

case $(uname -m) in
  # Nested virtualisation may refuse to pass on what this register says.
  x86_64) arch=amd64 cpu=max,arch-capabilities=off qemu=(qemu-system-x86_64 -machine "q35") console=ttyS0 ;;
  aarch64) arch=arm64 cpu=max qemu=(qemu-system-aarch64 -machine "virt,gic-version=max") console=ttyAMA0 ;;
esac
modules=(virtio_pci virtio_blk virtio_console overlay)

vm=$top/target/vm
mkdir -p "$vm"
exec 9>"$vm/.lock"
flock 9

# The kernel, its modules, and a read-only disk of the Debian 12 tree with those modules in it.
stamp=$(cat "$peers/12/.complete")
if [ "$(cat "$vm/.complete" 2>/dev/null)" != "$stamp" ]; then
  echo "vm: fetching the kernel and making the guest's disk"
  rm -rf "$vm/kernel" "$vm/base.ext4"
  mkdir -p "$vm/kernel"
  tools/peer.sh 12 -b "$vm" -n host -- bash -euo pipefail -c '
    cd "$1/kernel"
    apt-get update -q
    package=$(apt-cache depends "linux-image-cloud-$2" | sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -1)
    apt-get -o APT::Sandbox::User=root download -q "$package"
    dpkg-deb -x "$package"*.deb .
    rm "$package"*.deb
    rm -rf usr
    mkdir usr
    mv lib usr/lib
    mv boot/vmlinuz-* vmlinuz
    rm -r boot
    depmod -b "$PWD/usr" "$(ls usr/lib/modules)"' vm "$vm" "$arch" >"$vm/kernel.log" 2>&1 || { tail -20 "$vm/kernel.log" >&2; exit 1; }
  mkdir -p "$vm/merged"
  unshare -m --propagation private bash -euc '
    mount -t overlay -o "lowerdir=$1/kernel:$2/12" overlay "$1/merged"
    mke2fs -q -t ext4 -O ^has_journal -d "$1/merged" "$1/base.part" 2G' vm "$vm" "$peers"
  mv "$vm/base.part" "$vm/base.ext4"
  echo "$stamp" >"$vm/.complete"
fi
flock -u 9

run=$(mktemp -d "$vm/run.XXXXXX")
trap 'rm -rf "$run"' EXIT

# The first file system: busybox, the modules that reach the disk, ferry, the scripts.
root=$run/initramfs
mkdir -p "$root"/{bin,dev,proc,sys,new,lib,payload/scripts}
busybox=$(ls "$peers"/12/{usr/,}bin/busybox 2>/dev/null | head -1)
cp "$busybox" "$root/bin/busybox"
cp target/static/ferry "$root/payload/ferry"
cp -r tests/vm/. "$root/payload/scripts/"
release=$(ls "$vm/kernel/usr/lib/modules")
tools/peer.sh 12 -b "$vm" -- modprobe -d "$vm/kernel/usr" -S "$release" --show-depends -a "${modules[@]}" |
  sed -n 's/^insmod //p' | awk '!seen[$1]++ {print $1}' >"$run/insmod"
while read -r module; do
  cp "$module" "$root/lib/"
  echo "${module##*/}"
done <"$run/insmod" >"$root/lib/order"
printf '%s\n' "$@" >"$root/payload/run"
cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod "/lib/$module"; done </lib/order
mkdir -p /base /tmpfs
mount -o ro -t ext4 /dev/vda /base
mount -t tmpfs -o size=75% tmpfs /tmpfs
mkdir /tmpfs/upper /tmpfs/work
mount -t overlay -o lowerdir=/base,upperdir=/tmpfs/upper,workdir=/tmpfs/work overlay /new
mv /payload /new/payload
for d in dev proc sys; do mount --move /$d /new/$d; done
exec switch_root /new /bin/bash /payload/scripts/lib/init.sh
INIT
printf '#!/bin/busybox sh\necho the guest lives\n/bin/busybox poweroff -f\n' >"$root/probe"
chmod +x "$root/init" "$root/probe"
(cd "$root" && find . -print0 | cpio -o -0 -H newc --quiet >"$run/initramfs.cpio")

truncate -s 8G "$run/scratch"
disks=("$vm/base.ext4,readonly=on" "$run/scratch")
if [ ${#files[@]} -gt 0 ]; then
  mkdir "$run/host"
  cp --reflink=auto "${files[@]}" "$run/host/"
  mke2fs -q -t ext4 -O ^has_journal -d "$run/host" "$run/host.ext4" "$(($(du -sm "$run/host" | cut -f1) * 11 / 10 + 32))M"
  rm -rf "$run/host"
  disks+=("$run/host.ext4,readonly=on")
fi
drives=()
for disk in "${disks[@]}"; do drives+=(-drive "if=virtio,format=raw,cache=unsafe,file=$disk"); done

guest() { # SECONDS ACCELERATOR KERNEL-OPTIONS [QEMU-OPTION]...
  local limit=$1 accelerator=$2 options=$3
  shift 3
  timeout --foreground -k 5 "$limit" tools/peer.sh 13 -b "$vm" -- "${qemu[@]}" -accel "$accelerator" -cpu "$cpu" \
    -smp 2 -m "$memory" -display none -no-reboot -nic none -monitor none -serial "file:$run/console" \
    -kernel "$vm/kernel/vmlinuz" -initrd "$run/initramfs.cpio" -append "console=$console panic=-1 quiet $options" "$@" </dev/null
}

# Inside a virtual machine /dev/kvm may be there and yet not carry a kernel: ask a small guest, once a boot.
boot=$(cat /proc/sys/kernel/random/boot_id)
accelerator=tcg
if [ -w /dev/kvm ]; then
  if [ "$(cut -d' ' -f1 "$vm/accelerator" 2>/dev/null)" != "$boot" ]; then
    guest 15 kvm rdinit=/probe >"$run/probe" 2>&1 || true
    if grep -q 'the guest lives' "$run/console"; then accelerator=kvm; fi
    echo "$boot $accelerator" >"$vm/accelerator"
  fi
  accelerator=$(cut -d' ' -f2 "$vm/accelerator")
fi
echo "vm: $release, $accelerator"

status=0
guest "$limit" "$accelerator" "" "${drives[@]}" -device virtio-serial \
  -chardev file,id=out,append=on,path=/proc/self/fd/1 -device virtserialport,chardev=out,name=out \
  -chardev "file,id=result,path=$run/result" -device virtserialport,chardev=result,name=result | cat || status=$?

# A guest that reached its end has told how it went; one that did not has left its reasons on the console.
if read -r passed failed 2>/dev/null <"$run/result"; then
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
else
  if [ "$status" = 124 ]; then echo "vm: the time limit of $limit seconds is over"; else echo "vm: the guest ended without a result (status $status)"; fi
  tail -40 "$run/console"
  exit 1
fi
