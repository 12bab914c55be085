#!/usr/bin/env bash
# tutorial.sh FERRY
#
# The main job on real input: two images are made on a connected side and saved into one archive; the archive is carried to a side that
# has nothing but it and the binary, loaded into an empty store there, run, changed, and carried on. Everything stays below target/demo.
set -euo pipefail
ferry=$(realpath "${1:?usage: tutorial.sh FERRY}")
top=$(cd "$(dirname "$0")/.." && pwd)
dir=$top/target/demo
"$top/tools/deb.sh" busybox-static "$dir/busybox"

bold='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
on() { # SIDE COMMAND...    shows a command as it would be typed, and runs it on that side's store
  local side=$1
  shift
  local word line=
  for word in "$@"; do case $word in *[!a-zA-Z0-9._/:=-]*) line+=" '$word'" ;; *) line+=" $word" ;; esac; done
  printf '%s%s$ ferry%s%s\n' "$bold" "$side" "$line" "$plain"
  FERRY_ROOT=$dir/$side "$ferry" "$@"
}

# The second half: containers, each side in a network namespace of its own, so that nothing of this host's changes and the far side is
# as another host. What a failure left running is removed when the side is left.
get() { # URL    as soon as somebody answers
  for _ in $(seq 100); do "$busybox" wget -qO- "$1" 2>/dev/null && return || sleep 0.05; done
  echo "nobody answers at $1" >&2
  return 1
}
ask() { # SIDE    an HTTP GET to the address of the side's container web, and to its published port
  local address
  address=$(FERRY_ROOT=$dir/$1 "$ferry" inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)
  say "an HTTP GET to its address ($address), and to the published port"
  get "http://$address/"
  get http://127.0.0.1:8080/
}
clear_away() { # SIDE
  local left
  left=$(FERRY_ROOT=$dir/$1 "$ferry" ps -aq)
  [ -z "$left" ] || FERRY_ROOT=$dir/$1 "$ferry" rm -f $left >/dev/null
}
containers_home() {
  say "run it, and change it from inside"
  on home run --name page busybox:1 sh -c 'mkdir -p /data/html; echo "<h1>made at home</h1>" >/data/html/index.html'
  on home commit -m "a page" page linuxea/httpd:v1
  on home run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /data/html
  on home ps -a
  ask home
  on home rm -f web page
  say "saved together with a second image"
  on home save -o made.tar.gz linuxea/httpd:v1 busybox:1
}
containers_far() {
  say "the other side, another store and another network, loads it and runs it"
  on far load -i made.tar.gz
  on far run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /data/html
  ask far
  say "changed there while it runs, committed again, saved again"
  on far exec web sh -c 'echo "<h1>changed on the far side</h1>" >/data/html/index.html'
  ask far
  on far commit -m "changed there" web linuxea/httpd:v2
  on far rm -f web
  on far save -o back.tar.gz linuxea/httpd:v2
  on far history linuxea/httpd:v2
}
if [ "${2:-}" = containers ]; then
  busybox=$3 side=$4
  trap 'clear_away "$side"' EXIT
  cd "$dir/work"
  "$busybox" ip link set lo up
  "containers_$side"
  exit
fi

rm -rf "$dir/home" "$dir/far" "$dir/root" "$dir/work"
mkdir -p "$dir/work" "$dir"/root/{bin,data/html,etc,tmp}
cd "$dir/work"

say "an image from busybox, as the well-known one: every applet a hard link"
busybox=$(find "$dir/busybox" -type f -path '*/bin/busybox')
cp "$busybox" "$dir/root/bin/busybox"
for applet in $("$busybox" --list); do
  [ "$applet" = busybox ] || ln "$dir/root/bin/busybox" "$dir/root/bin/$applet"
done
chmod 1777 "$dir/root/tmp"
echo 'root:x:0:0:root:/:/bin/sh' >"$dir/root/etc/passwd"
tar -C "$dir/root" --numeric-owner --owner=0 --group=0 -cf busybox.tar .
on home import --change 'CMD ["sh"]' busybox.tar busybox:1

say "and a web server on top of it"
echo '<h1>served from an image that came in a file</h1>' >"$dir/root/data/html/index.html"
tar -C "$dir/root" --numeric-owner --owner=0 --group=0 -cf httpd.tar .
on home import --change 'CMD ["httpd","-f","-h","/data/html"]' httpd.tar httpd:v1
on home tag httpd:v1 example.org/team/httpd:v1
on home images

say "both into one archive"
on home save -o images.tar.gz busybox:1 example.org/team/httpd:v1
ls -l images.tar.gz

say "on the far side the store is empty"
on far images
on far load -i images.tar.gz
on far images
on far history example.org/team/httpd:v1

say "nothing was lost on the way: saved again, the far side's images are the same to the byte"
on home save -o home.tar busybox:1 example.org/team/httpd:v1
on far save -o far.tar busybox:1 example.org/team/httpd:v1
cmp home.tar far.tar
echo "home.tar and far.tar are identical"

if [ "$(id -u)" = 0 ]; then
  for side in home far; do unshare -n "$top/demo/tutorial.sh" "$ferry" containers "$busybox" "$side"; done
  say "and back home it is an image like any other"
  on home load -i back.tar.gz
  on home run --rm --network none linuxea/httpd:v2 cat /data/html/index.html
else
  say "containers need a network of their own here: run the demo as root to see them"
fi
