#!/usr/bin/env bash
# need.sh PACKAGE...
#
# Installs the Debian packages that are not on this host yet: a build needs them. Nothing else is changed.
set -euo pipefail
missing=()
for package in "$@"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
command -v apt-get >/dev/null || { echo "need: this host has no apt-get; install by hand: ${missing[*]}" >&2; exit 1; }
sudo=
if [ "$(id -u)" != 0 ]; then
  sudo=sudo
  command -v sudo >/dev/null || { echo "need: not root and no sudo; install by hand: ${missing[*]}" >&2; exit 1; }
fi
echo "need: installing ${missing[*]}"
log=$(mktemp)
install() { DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1; }
install || { $sudo apt-get update -q </dev/null >/dev/null && install; } || { tail -20 "$log" >&2; exit 1; }
rm -f "$log"
