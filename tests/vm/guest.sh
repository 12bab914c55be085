# The guest has what the other scripts count on.

check "cgroups are v2 alone" grep -q '^cgroup2 /sys/fs/cgroup ' /proc/mounts
refuse "no v1 hierarchy is there" grep -q ' cgroup cgroup ' /proc/mounts
for fs in vfat exfat overlay btrfs xfs squashfs fuse; do
  check "the kernel has $fs" modprobe "$fs"
done
for module in loop dm-flakey dm-log-writes sch_netem sch_tbf bridge veth br_netfilter nf_tables nft_chain_nat nft_masq nft_redir tun \
  ip_tables iptable_nat xt_conntrack; do
  check "the kernel has $module" modprobe "$module"
done
check "rlimits can be raised" bash -c 'ulimit -n 1048576'
check "user namespaces work" unshare -Ur true
check "vfat can be made and mounted" bash -euc '
  truncate -s 64M vfat.img; mkfs.vfat vfat.img; mkdir vfat; mount -o loop vfat.img vfat; echo x >vfat/x; umount vfat'
check "exfat can be made and mounted" bash -euc '
  truncate -s 64M exfat.img; mkfs.exfat exfat.img; mkdir exfat; mount -o loop exfat.img exfat; echo x >exfat/x; umount exfat'
check "the loopback can be slowed" bash -euc 'tc qdisc add dev lo root netem delay 5ms; tc qdisc del dev lo root'
check "ferry runs" ferry version
