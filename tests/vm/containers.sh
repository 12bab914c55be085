# Containers where control groups are v2 alone: limits, pause, exec, bridge, an ordinary user, and the tutorial.

mkdir -p root/{bin,etc,tmp}
cp "$(command -v busybox)" root/bin/busybox
for a in sh cat echo true sleep tail id httpd stat touch; do ln -s busybox root/bin/$a; done
printf 'root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n' >root/etc/passwd
echo bobs >root/bobs
chown 1000:1000 root/bobs
tar -C root --numeric-owner -cf image.tar .
export FERRY_ROOT=$PWD/store
ferry import -c 'ENV PATH=/bin' -c 'CMD ["sh"]' image.tar i:1 >/dev/null
group() { echo "/sys/fs/cgroup$(sed 's/^0:://' "/proc/$(ferry inspect -f '{{.State.Pid}}' "$1")/cgroup")"; }
prints() { # WHAT COMMAND...    succeeds when the command prints exactly that
  local what=$1
  shift
  [ "$("$@")" = "$what" ]
}
status_is() { # STATUS COMMAND...
  local want=$1 status=0
  shift
  "$@" || status=$?
  [ "$status" = "$want" ]
}

check "a container runs" prints hello ferry run --rm --net none i:1 echo hello
check "its exit code is the program's" status_is 7 ferry run --rm --net none i:1 sh -c 'exit 7'

ferry run -d --name one --net none --memory 32m --cpus 0.5 --pids-limit 50 i:1 sleep 1000 >/dev/null
check "the memory limit is the group's" prints 33554432 cat "$(group one)/memory.max"
check "the processor limit is the group's" prints "50000 100000" cat "$(group one)/cpu.max"
check "the process limit is the group's" prints 50 cat "$(group one)/pids.max"
check "exec runs inside" prints bobs ferry exec one cat /bobs
check "exec gives the exit code" status_is 3 ferry exec one sh -c 'exit 3'
check "exec joins the group" prints 0::/ ferry exec one cat /proc/self/cgroup
check "update changes a limit at once" ferry update --pids-limit 60 one
check "and the group has it" prints 60 cat "$(group one)/pids.max"
check "pause freezes" ferry pause one
check "the group is frozen" grep -qx 'frozen 1' "$(group one)/cgroup.events"
refuse "exec into a frozen container fails" ferry exec one true
check "unpause thaws" ferry unpause one
check "the group runs" grep -qx 'frozen 0' "$(group one)/cgroup.events"
check "stats knows what it uses" sh -c "ferry stats --no-stream --format '{{.Name}} {{.MemUsage}}' one | grep -q '^one .*32MiB'"
refuse "a device that is not allowed cannot be opened" ferry run --rm --net none --cap-add MKNOD i:1 sh -c 'busybox mknod /d b 254 0 && cat /d'
at=$(group one)
check "it is removed" ferry rm -f one
check "its group is gone" test ! -e "$at"
check "a memory hog is killed" status_is 137 ferry run --name hog --net none --memory 16m --memory-swap 16m i:1 tail /dev/zero
check "and that is known" prints true ferry inspect -f '{{.State.OOMKilled}}' hog
ferry rm hog >/dev/null
check "a fork bomb finds its limit" sh -c "ferry run --rm --net none --pids-limit 5 i:1 sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1 & done' 2>&1 | grep -q 'fork'"

# The tutorial, over the bridge.
get() { until_true 20 sh -c "busybox wget -qO- $1 | grep -qx '$2'"; }
ferry run --name page i:1 sh -c 'mkdir /www; echo from-inside >/www/index.html'
check "commit makes an image" ferry commit -m 'a page' page linuxea/httpd:v1
ferry run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /www >/dev/null
check "ps shows both" prints "web running
page exited" ferry ps -a --format '{{.Names}} {{.State}}'
check "it answers at its address" get "http://$(ferry inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)/" from-inside
check "it answers at the published port" get http://127.0.0.1:8080/ from-inside
check "both are saved together" ferry save -o both.tar linuxea/httpd:v1 i:1
# The far side: a store and a network of its own.
unshare -n sleep 1000 &
side=$!
check "there is another network" until_true 20 sh -c "[ \"\$(readlink /proc/$side/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ]"
there() { nsenter --net="/proc/$side/ns/net" "$@"; }
far() { there ferry --root "$PWD/far" "$@"; }
get_there() { until_true 20 nsenter --net="/proc/$side/ns/net" sh -c "busybox wget -qO- $1 | grep -qx '$2'"; }
there busybox ip link set lo up
check "the far side loads them" far load -q -i both.tar
check "and runs what was committed" far run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /www
check "it answers there at its address" get_there "http://$(far inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)/" from-inside
check "and at the published port" get_there http://127.0.0.1:8080/ from-inside
check "it is changed there" far exec web sh -c 'echo from-there >/www/index.html'
check "committed again" far commit -m 'changed there' web linuxea/httpd:v2
check "saved again" far save -o back.tar linuxea/httpd:v2
check "and removed" far rm -f web
kill "$side"
check "back home it is loaded" ferry load -q -i back.tar
check "and has what was changed there" prints from-there ferry run --rm --net none linuxea/httpd:v2 cat /www/index.html
check "on top of what was committed here" prints "changed there
a page" sh -c "ferry history --format '{{.Comment}}' linuxea/httpd:v2 | head -2"
pid=$(ferry inspect -f '{{.State.Pid}}' web)
kill -9 "$(awk '/PPid/ {print $2}' "/proc/$pid/status")"
check "a container dies with its monitor" until_true 20 test ! -e "/proc/$pid"
check "the next command knows" prints exited sh -c "ferry ps >/dev/null; ferry inspect -f '{{.State.Status}}' web"
ferry rm -f web page >/dev/null
check "the bridge goes" until_true 30 sh -c 'ferry ps >/dev/null; [ "$(ls /sys/class/net)" = lo ]'
check "no group is left" prints "" find /sys/fs/cgroup/ferry -mindepth 1 -type d
unset FERRY_ROOT

# An ordinary user. The home is on the ext4: the guest's root is an overlay itself, which takes no other on top.
home=$PWD/alice
useradd -m -d "$home" alice
cp image.tar "$home/"
user() { setpriv --reuid alice --regid alice --clear-groups env HOME="$home" sh -c "cd; $*"; }
chmod 755 . "$home"
check "a user imports" user "ferry import -c 'ENV PATH=/bin' image.tar i:1"
check "a user runs" prints 0 user ferry run --rm --net none i:1 id -u
check "owners are there, shifted" prints 1000 user ferry run --rm --net none i:1 stat -c %u /bobs
check "a user's container keeps running" user "ferry run -d --name un --net none i:1 sleep 1000"
check "a user execs" prints bobs user ferry exec un cat /bobs
check "a user commits" user "ferry exec un touch /new; ferry stop -t 1 un; ferry commit un i:2"
check "a user saves" user "ferry rm -f un; ferry save -o out.tar i:2; mkdir x; tar -C x -xf out.tar"
check "with owners intact" user 'for t in $(find x -type f); do tar --numeric-owner -tvf $t 2>/dev/null; done | grep -q "1000/1000.*bobs"'

# One who has no ranges of IDs: inside there is but one, and owners live in the store's own words.
home=$PWD/carol
useradd -m -d "$home" carol
sed -i '/^carol:/d' /etc/subuid /etc/subgid
cp image.tar "$home/"
chmod 755 "$home"
user() { setpriv --reuid carol --regid carol --clear-groups env HOME="$home" sh -c "cd; $*"; }
check "a user without ranges imports" user "ferry import -c 'ENV PATH=/bin' image.tar i:1"
check "runs" prints 0 user ferry run --rm --net none i:1 id -u
check "execs, commits and saves" user "ferry run -d --name one --net none i:1 sleep 1000; ferry exec one touch /new; ferry stop -t 1 one
  ferry commit one i:2; ferry rm one; ferry save -o out.tar i:2; mkdir x; tar -C x -xf out.tar"
check "with owners intact as well" user 'for t in $(find x -type f); do tar --numeric-owner -tvf $t 2>/dev/null; done | grep -q "1000/1000.*bobs"'
