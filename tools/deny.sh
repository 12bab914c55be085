#!/usr/bin/env bash
# deny.sh ARGUMENT...
#
# cargo-deny, built once into target/tools.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
version=0.20.2
bin=$top/target/tools/bin/cargo-deny
[ "$("$bin" --version 2>/dev/null)" = "cargo-deny $version" ] ||
  CARGO_TARGET_DIR=$top/target/tools/build cargo install -q --locked --debug --root "$top/target/tools" cargo-deny --version "$version"
cd "$top"
exec "$bin" "$@"
