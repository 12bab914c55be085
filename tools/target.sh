#!/usr/bin/env bash
# target.sh TRIPLE
#
# Sees to it that the Rust toolchain can compile for TRIPLE.
set -euo pipefail
triple=${1:?usage: target.sh TRIPLE}
[ ! -d "$(rustc --print sysroot)/lib/rustlib/$triple/lib" ] || exit 0
command -v rustup >/dev/null ||
  { echo "target: Rust's standard library for $triple is missing; with a distribution's toolchain install it from there" >&2; exit 1; }
rustup target add "$triple"
