# Media that are too small, flip bits, fail writes, are pulled or unmounted, and bundles over two of them.
. /payload/scripts/lib/media.sh

# Too small.
disk=$(disk small 8 mkfs.vfat)
mount "$disk" stick
check "one too small is refused before a byte is written" fails 8 "needs .* are free" ferry save --medium -o stick/app.ferry app:1
check "and stays empty" sh -c '[ -z "$(ls stick)" ]'
umount stick
losetup -d "$disk"

flaky() { # FILE-SYSTEM-OPTIONS... : a mapped disk in $mapped, its sectors in $sectors
  disk=$(disk flaky 96 mkfs.vfat -F 32)
  sectors=$(blockdev --getsz "$disk")
  dmsetup create flaky --table "0 $sectors linear $disk 0"
  dmsetup mknodes
  mapped=/dev/mapper/flaky
  mount "$mapped" stick
}
retable() { # TABLE
  dmsetup suspend --noflush flaky
  dmsetup load flaky --table "$1"
  dmsetup resume flaky
}
calm() {
  retable "0 $sectors linear $disk 0"
  umount stick
  dmsetup remove flaky
  losetup -d "$disk"
}

# What the FAT and the directory need stays right: the first 4 MiB; of all that is written behind, a byte is another.
flaky
retable "0 8192 linear $disk 0
8192 $((sectors - 8192)) flakey $disk 8192 0 3600 5 corrupt_bio_byte 300 w 255 0"
check "one that flips bits is found out" fails 6 "gives back other bytes than were written" ferry save --medium -o stick/app.ferry app:1
check "and the file is gone" nothing_named
check "for an archive too" fails 6 "gives back other bytes than were written" ferry save --medium -o stick/app.tar app:1
calm

flaky
retable "0 8192 linear $disk 0
8192 $((sectors - 8192)) flakey $disk 8192 0 3600 1 error_writes"
check "one that fails writes is told" fails 1 "I/O error" ferry save --medium -o stick/app.ferry app:1
check "and has nothing that looks finished" nothing_named
calm

# Taken away in the middle: all reads and writes fail from some moment on.
flaky
ferry save -o whole.ferry --volume-size 1m app:1
(until ls stick/*.part >/dev/null 2>&1 || ls stick/*.ferry >/dev/null 2>&1; do :; done
 dmsetup suspend --noflush flaky; dmsetup load flaky --table "0 $sectors error"; dmsetup resume flaky) &
status=0
ferry copy --medium whole.ferry stick >said 2>&1 || status=$?
wait
check "one that is pulled is told, by its path" sh -c "[ $status != 0 ] && [ $status -lt 126 ] && grep -q stick said"
umount -l stick
dmsetup remove --retry --force flaky || true
losetup -d "$disk" || true

# Unmounted in the middle: between two media nothing is mounted, and what lies below the mount point stays clean.
disk=$(disk first 10 mke2fs -q -t ext4 -O ^has_journal -m 0)
mount "$disk" stick
check "one that is unmounted is missed" fails 3 "no medium is mounted there" \
  ferry copy whole.ferry stick --next-medium 'if mountpoint -q stick; then umount stick; fi'
check "and nothing is written below its mount point" sh -c '[ -z "$(ls stick)" ]'

# The same while a volume is being written: a slow medium, unmounted lazily.
mount "$disk" stick
rm -rf stick/*
(until ls stick/*.ferry >/dev/null 2>&1; do :; done; umount -l stick) &
status=0
ferry copy --medium whole.ferry stick --next-medium false >said 2>&1 || status=$?
wait
cat said
check "one that is unmounted while it is written is told" sh -c "[ $status != 0 ] && [ $status -lt 126 ]"
check "and no volume lies below its mount point" sh -c '! ls stick | grep -q ferry'

# The next try goes on where that one ended.
second=$(disk second 40 mkfs.exfat)
mount "$disk" stick
check "over two media, going on" ferry copy whole.ferry stick \
  --next-medium "umount stick && if [ \$FERRY_MEDIUM = 2 ]; then mount $second stick; else exit 1; fi"
check "loaded in the other order" ferry --root "$PWD/turn" load -i stick \
  --next-medium "umount stick && if [ \$FERRY_MEDIUM = 2 ]; then mount -o ro $disk stick; else exit 1; fi"
check "all of it is there" same "$PWD/turn"
umount stick
losetup -d "$disk" "$second"
