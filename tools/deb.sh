#!/usr/bin/env bash
# deb.sh PACKAGE DIR
#
# Unpacks a Debian package into DIR without installing it. Nothing happens when DIR holds it already.
set -euo pipefail
package=${1:?usage: deb.sh PACKAGE DIR}
dir=${2:?usage: deb.sh PACKAGE DIR}
[ ! -e "$dir/.complete" ] || exit 0
command -v apt-get >/dev/null || { echo "deb: this host has no apt-get to fetch $package with" >&2; exit 1; }
rm -rf "$dir"
mkdir -p "$dir/download"
cd "$dir/download"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
fetch() { apt-get -q download -o APT::Sandbox::User=root "$package" >log 2>&1; }
fetch || { $sudo apt-get update -q </dev/null >/dev/null && fetch; } || { cat log >&2; exit 1; }
dpkg-deb -x ./*.deb ..
cd ..
rm -r download
touch .complete
