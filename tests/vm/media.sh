# Bundles onto removable media: FAT32, exFAT and ext4, read-only and without leave to start programs.
. /payload/scripts/lib/media.sh
check "a bundle is there" ferry save -o whole.ferry app:1
check "and an archive of layers whose size no document says" \
  sh -c 'ferry save -o app.tar app:1 && skopeo --insecure-policy copy -q docker-archive:app.tar oci:layout:app:1'

for kind in vfat exfat ext4; do
  case $kind in
    vfat) make=(mkfs.vfat -F 32) ;;
    exfat) make=(mkfs.exfat) ;;
    ext4) make=(mke2fs -q -t ext4) ;;
  esac
  disk=$(disk "$kind" 320 "${make[@]}")
  mount "$disk" stick
  ferry media
  check "$kind: a bundle is written and read back" \
    fails 0 "read back as written; the medium may be unmounted and taken out" ferry save --medium -o stick/app.ferry app:1
  check "$kind: in volumes, with what starts them" ferry save --medium --with-ferry -o stick/parts.ferry --volume-size 4m app:1
  check "$kind: one file that starts itself" \
    fails 0 ": 1 file of " ferry save --medium --self-extracting -o stick/one.run app:1
  check "$kind: a program beside volumes" \
    fails 0 "read back as written" ferry save --medium --self-extracting -o stick/many.run --volume-size 4m app:1
  check "$kind: as a copy" ferry copy --medium --self-extracting whole.ferry stick
  check "$kind: one file, though its size was not known" \
    fails 0 ": 1 file of " ferry convert --medium --self-extracting layout stick/unknown.run
  check "$kind: it starts" stick/one.run --root "$PWD/$kind.0"
  check "$kind: and loads all" same "$PWD/$kind.0"
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
  for name in one.run many.run whole; do
    check "$kind: $name gets by without" sh "stick/$name" --root "$PWD/$kind.$name"
    check "$kind: and loads all" same "$PWD/$kind.$name"
  done
  # What skopeo wrote has a config of its own.
  check "$kind: and the one whose size was not known" \
    fails 0 "Loaded image" sh stick/unknown.run --root "$PWD/$kind.unknown"
  umount stick
  losetup -d "$disk"
done
