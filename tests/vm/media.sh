# Bundles onto removable media: FAT32, exFAT and ext4, read-only and without leave to start programs.
. /payload/scripts/lib/media.sh

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
