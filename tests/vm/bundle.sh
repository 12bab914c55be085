# A bundle is written to FAT32 and to exFAT, and loaded from both while they are read-only.

modprobe loop
mkdir -p root/data root/bin
cp /bin/busybox root/bin/
for n in 1 2 3 4 5 6; do head -c 1M /dev/urandom >root/data/$n; done
tar -C root -cf root.tar .
ferry --root one import root.tar app:1 >/dev/null
ferry --root one images --digests --no-trunc >one.txt
ferry --root one save -o one.tar app:1
save() { ferry --root one save --progress none "$@" app:1; }
same() { # STORE: it has what the first store has, and can show every file of it
  ferry --root "$1" images --digests --no-trunc | cmp - one.txt
  ferry --root "$1" save app:1 | cmp - one.tar
}

for fs in vfat exfat; do
  case $fs in
    vfat) device=$(disk $fs 80 mkfs.vfat -F 32) ;;
    exfat) device=$(disk $fs 80 mkfs.exfat) ;;
  esac
  mkdir $fs
  mount "$device" $fs
  mkdir -p $fs/set
  check "$fs: a bundle of one file is written" save -o $fs/app.ferry
  check "$fs: a set of volumes with parity is written" save --volume-size 2m --parity 45% -o $fs/set/app.ferry
  check "$fs: nothing half-made is left" sh -c "! find $fs -name '*.part' | grep ."
  umount $fs
  mount -o ro "$device" $fs
  refuse "$fs: it is read-only now" touch $fs/x
  check "$fs: the file is loaded" ferry --root $fs-file load -q -i $fs/app.ferry
  check "$fs: and is what was saved" same $fs-file
  check "$fs: the set is loaded by its folder" ferry --root $fs-set load -q -i $fs/set
  check "$fs: and is what was saved" same $fs-set
  check "$fs: the set is verified to its last layer" ferry verify --deep $fs/set
  check "$fs: it is listed" sh -c "ferry ls $fs/set | grep -q app:1"
  umount $fs
  mount "$device" $fs
  rm $fs/set/app.002.ferry
  umount $fs
  mount -o ro "$device" $fs
  refuse "$fs: a lost volume is missed" ferry --root $fs-lost load -q -i $fs/set
  check "$fs: nothing of it is there" sh -c "[ -z \"\$(ferry --root $fs-lost images -q)\" ]"
  check "$fs: with parity the set is loaded all the same" ferry --root $fs-mended load -q --repair -i $fs/set
  check "$fs: and is what was saved" same $fs-mended
  umount $fs
  losetup -d "$device"
done
