#!/usr/bin/env bash
# peer.sh 12|13 [-b DIR]... [-n host] [-c] [--] COMMAND [ARGUMENT]...
#
# Runs COMMAND in the Debian 12 or 13 tree that tools/peers.sh made, as if on a machine of its own: mount, PID, IPC, UTS,
# cgroup and network namespaces (the last with nothing but a loopback). What it writes to the tree goes to a tmpfs and is gone
# at the end, and so is every process it leaves behind: nothing reaches the host. Seen at their own paths, and writable, are
# /tmp, /var/tmp, the checkout, and each DIR.
#   -n host   keep the host's network namespace (to reach a server on its loopback)
#   -c        leave both cgroup versions visible on a host that has both; crun refuses such a host, so the v2 half is hidden
#
# Without COMMAND it prints `ready PID`, PID being the namespaces' first process as the host sees it, and stays until its
# standard input ends; meanwhile `nsenter -t PID -a -r -w COMMAND` runs things inside.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
release=${1:?usage: peer.sh 12|13 [-b DIR]... [-n host] [-c] [--] COMMAND...}
shift
binds=(/tmp /var/tmp "$top")
own_net=1
both=
while getopts b:n:c option; do
  case $option in
    b) binds+=("$OPTARG") ;;
    n) own_net= ;;
    c) both=1 ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
tree=${FERRY_PEERS:-$top/target/peers}/$release
[ -e "$tree/.complete" ] || { echo "peer: there is no tree at $tree: run tools/peers.sh" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "peer: run as root: the peers live in trees that are entered with chroot" >&2; exit 1; }

# A cgroup of its own in every v1 hierarchy and in v2, so that what docker and podman make below is found and removed.
cgroup=ferry-peer-$$
declare -a groups=()
while read -r _ at type _; do
  case $type in cgroup | cgroup2) groups+=("$at/$cgroup") ;; esac
done </proc/mounts
tidy() {
  local g
  for g in "${groups[@]}"; do
    # the last process may still be on its way out
    for _ in {1..100}; do
      [ -d "$g" ] || break
      find "$g" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.05
    done
  done
}
for g in "${groups[@]}"; do
  mkdir "$g"
  case $g in *cpuset*) for f in cpus mems; do cat "${g%/*}/cpuset.$f" >"$g/cpuset.$f" 2>/dev/null || true; done ;; esac
done
trap tidy EXIT

inside() {
  local g
  # /proc is still the host's here, and so is the number in it
  read -r outer _ </proc/self/stat
  types=$(grep -E '^[^ ]+ [^ ]+ cgroup ' /proc/mounts || true)
  export outer types root=$tree/mnt/root
  for g in $joined; do echo 0 >"$g/cgroup.procs"; done
  [ -z "$own_net" ] || ip link set lo up
  mount -t tmpfs -o mode=755 tmpfs "$tree/mnt"
  mkdir "$tree"/mnt/{upper,work,root}
  mount -t overlay -o "lowerdir=$tree,upperdir=$tree/mnt/upper,workdir=$tree/mnt/work" overlay "$root"
  mount -t proc proc "$root/proc"
  # sysfs shows the network namespace it was mounted in
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mkdir -p "$root"/run/{lock,sshd}
  while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
  done
  shift
  # A cgroup namespace sees its own group as the root of what is mounted inside it, so it comes after joining the group.
  exec unshare --cgroup bash -euo pipefail -c 'cgroups "$@"' cgroups "$@"
}

cgroups() {
  local at=$root/sys/fs/cgroup path options name
  if [ -n "$types" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$at"
    while read -r _ path _ options _; do
      name=${path##*/}
      mkdir "$at/$name"
      case $options in
        *name=*) mount -t cgroup -o "none,name=${options##*name=}" cgroup "$at/$name" ;;
        *) mount -t cgroup -o "$name" cgroup "$at/$name" ;;
      esac
    done <<<"$types"
    if [ -n "$both" ]; then
      mkdir "$at/unified"
      mount -t cgroup2 cgroup2 "$at/unified"
    fi
  else
    mount -t cgroup2 cgroup2 "$at"
  fi
  # The tree becomes the root of the mount namespace, not a chroot in it: what a runtime's exec enters is that root.
  cd "$root"
  pivot_root . mnt
  cd /
  umount -l /mnt
  if [ $# -gt 0 ]; then exec "$@"; fi
  exec bash -c 'echo "ready $1"; while read -r _; do :; done' peer "$outer"
}

export -f inside cgroups
export tree both own_net joined="${groups[*]}"
unshare --mount --propagation private --pid --fork --kill-child --ipc --uts ${own_net:+--net} \
  bash -euo pipefail -c 'inside "$@"' inside "${binds[@]}" -- "$@" <&0 &
child=$!
# unshare itself ignores the polite signals; with --kill-child its end is the end of everything inside
trap 'kill -KILL $child' TERM INT HUP
wait $child
