# What the scripts about removable media share: an image to carry, and what is said of how it went.

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
