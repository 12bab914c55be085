# Bundles onto removable media: FAT32, exFAT and ext4, and media that are too small, lie, fail, go away, or forbid programs.

dd if=/dev/urandom of=noise bs=1M count=12 status=none
mkdir root
mv noise root/
echo media >root/name
tar -C root -cf root.tar .
export FERRY_ROOT=$PWD/store
check "an image is there" ferry import root.tar app:1
id=$(ferry images -q)
mkdir stick

same() { # ROOT: the image arrived there
  [ "$(ferry --root "$1" images -q)" = "$id" ]
}
# The command fails with this code, and says this; what it prints is kept in `said`.
fails() { # CODE TEXT COMMAND...
  local code=$1 text=$2 status=0
  shift 2
  "$@" >said 2>&1 || status=$?
  cat said
  [ "$status" = "$code" ] && grep -q "$text" said
}
nothing_named() { # no file on the stick has the name of a finished one
  ! ls stick | grep -q '\.ferry$'
}

modprobe -a vfat exfat dm-flakey loop
# No udev is there to make the nodes.
export DM_DISABLE_UDEV=1
for kind in vfat exfat ext4; do
  case $kind in
    vfat) make=(mkfs.vfat -F 32) ;;
    exfat) make=(mkfs.exfat) ;;
    ext4) make=(mke2fs -q -t ext4) ;;
  esac
  disk=$(disk "$kind" 96 "${make[@]}")
  mount "$disk" stick
  ferry media
  check "$kind: a bundle is written and read back" \
    fails 0 "read back as written; the medium may be unmounted and taken out" ferry save --medium -o stick/app.ferry app:1
  check "$kind: in volumes, with what starts them" ferry save --medium --with-ferry -o stick/parts.ferry --volume-size 4m app:1
  umount stick
  mount -o ro "$disk" stick
  check "$kind: it loads read-only" ferry --root "$PWD/$kind.1" load -i stick/app.ferry
  check "$kind: all of it" same "$PWD/$kind.1"
  check "$kind: volumes load read-only" ferry --root "$PWD/$kind.2" load -i stick/parts.ferry
  check "$kind: all of them" same "$PWD/$kind.2"
  check "$kind: a read-only medium is refused" fails 7 write-protected ferry save --medium -o stick/more.ferry app:1
  umount stick
  mount -o ro,noexec "$disk" stick
  check "$kind: noexec means it" fails 126 "Permission denied" "stick/ferry.$(uname -m)" version
  check "$kind: the start script gets by without" sh stick/parts.sh --root "$PWD/$kind.3"
  check "$kind: and loads all" same "$PWD/$kind.3"
  umount stick
  losetup -d "$disk"
done

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
check "one that fails writes is told" fails 1 "Input/output error" ferry save --medium -o stick/app.ferry app:1
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
rm -f stick/*
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
