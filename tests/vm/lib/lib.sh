# What the guest's scripts share; read before each of them.

failures=0

# check PROMISE COMMAND [ARGUMENT]...     says whether the command succeeded, and shows what it printed when it did not
check() {
  local promise=$1
  shift
  if ("$@") >/tmp/check.log 2>&1; then
    echo "ok   $promise"
  else
    echo "FAIL $promise (status $?): $*"
    sed 's/^/     /' /tmp/check.log
    failures=$((failures + 1))
  fi
}

# refuse PROMISE COMMAND [ARGUMENT]...    the same for a command that must fail, by its own decision and not by a signal
refuse() {
  local promise=$1 status=0
  shift
  ("$@") >/tmp/check.log 2>&1 || status=$?
  if [ "$status" != 0 ] && [ "$status" -lt 126 ]; then
    echo "ok   $promise"
  else
    echo "FAIL $promise (status $status): $*"
    sed 's/^/     /' /tmp/check.log
    failures=$((failures + 1))
  fi
}

# until_true SECONDS COMMAND [ARGUMENT]...    asks again and again
until_true() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

# disk NAME MIB [MKFS...]     a loop device of that size, made a file system of by MKFS; prints the device
disk() {
  local name=$1 size=$2
  shift 2
  truncate -s "${size}M" "$name.img"
  [ $# = 0 ] || "$@" "$name.img" >/dev/null
  losetup -f --show "$name.img"
}

finish() {
  [ "$failures" = 0 ]
}
