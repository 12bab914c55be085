#!/usr/bin/env bash
# peers.sh [DIR]        (default: $FERRY_PEERS, else target/peers)
#
# Makes the trees that the tests take their peers from: DIR/12 and DIR/13, Debian 12 and 13 with docker, podman, skopeo and the
# rest, and in the latter services to make images of. The host itself gets no package but debootstrap, no service is started, and
# what the installation mounts lives in a mount namespace of its own. Needs root. A tree that is complete is left alone, so a second
# call costs nothing. Programs run from the trees with tools/peer.sh.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-${FERRY_PEERS:-$top/target/peers}}

common="docker.io podman skopeo umoci containerd buildah crun runc zstd xz-utils bzip2 iptables nftables iproute2 procps
  borgbackup restic rsync openssh-server openssh-client docker-registry busybox-static netavark slirp4netns passt
  uidmap fuse-overlayfs ca-certificates jq e2fsprogs dosfstools exfatprogs casync
  kmod dmsetup attr libcap2-bin netcat-openbsd"
case $(uname -m) in
  x86_64) qemu=qemu-system-x86 ;;
  aarch64) qemu=qemu-system-arm ;;
  *) echo "peers: no Debian kernel is set up here for $(uname -m)" >&2; exit 1 ;;
esac
packages() {
  case $1 in
    12) echo $common containernetworking-plugins ;;
    13) echo $common docker-cli aardvark-dns $qemu nginx-light redis-server postgresql python3 nodejs ;;
  esac
}
suite() { case $1 in 12) echo bookworm ;; 13) echo trixie ;; esac; }
stamp() { packages "$1" | sha256sum | cut -c1-16; }
complete() { [ "$(cat "$dir/$1/.complete" 2>/dev/null)" = "$(stamp "$1")" ]; }

complete 12 && complete 13 && exit 0
[ "$(id -u)" = 0 ] || { echo "peers: run as root: the tests' peers are installed into trees of their own with chroot" >&2; exit 1; }
"$top/tools/need.sh" debootstrap debian-archive-keyring util-linux
mkdir -p "$dir"
exec 9>"$dir/.lock"
flock 9

# tree RELEASE: runs in a private mount namespace, so that no mount outlives it
tree() {
  local release=$1 t=$dir/$1 mirror
  complete "$release" && return
  if [ ! -e "$t/.base" ]; then
    rm -rf "$t"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/\?$' | head -1 || true)
    debootstrap --variant=minbase "$(suite "$release")" "$t" ${mirror:+"$mirror"}
    touch "$t/.base"
  fi
  mount -t proc proc "$t/proc"
  mount --rbind /sys "$t/sys"
  mount --rbind /dev "$t/dev"
  [ ! -e /etc/resolv.conf ] || cp /etc/resolv.conf "$t/etc/resolv.conf"
  # The package scripts must not start what they install, nor wait for the disk: a tree cut short is built anew.
  printf '#!/bin/sh\nexit 101\n' >"$t/usr/sbin/policy-rc.d"
  chmod +x "$t/usr/sbin/policy-rc.d"
  echo force-unsafe-io >"$t/etc/dpkg/dpkg.cfg.d/peers"
  printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >>"$t/etc/dpkg/dpkg.cfg.d/peers"
  chroot "$t" apt-get update -q
  DEBIAN_FRONTEND=noninteractive chroot "$t" apt-get install -y -q --no-install-recommends $(packages "$release")
  chroot "$t" apt-get clean
  rm -rf "$t"/var/lib/apt/lists/*
  stamp "$release" >"$t/.complete"
}
export -f tree complete stamp packages suite
export dir common qemu

echo "peers: building $dir/{12,13} (some minutes the first time; logs beside the trees)"
pids=()
for release in 12 13; do
  unshare -m --propagation private bash -euo pipefail -c "tree $release" >"$dir/$release.log" 2>&1 </dev/null &
  pids+=($!)
done
failed=
for i in 0 1; do
  wait "${pids[$i]}" || { failed=1; echo "peers: the tree of Debian $((12 + i)) failed:" >&2; tail -20 "$dir/$((12 + i)).log" >&2; }
done
[ -z "$failed" ]
