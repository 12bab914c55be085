# make demo     the main job, on real input           make test      all tests
# make check    format, lints, docs, licences         make static    the one binary that is shipped: target/static/ferry
# make test-vm  the tests that need a kernel of their own, in qemu
# make bench    ferry against docker, podman, skopeo, tar; writes docs/benchmarks.md
# Each installs the Debian packages it needs for building and changes nothing else on the host.

SHELL := /bin/bash
TRIPLE := $(shell uname -m)-unknown-linux-musl
RUST := --release --locked --target $(TRIPLE)
# musl-tools has the C compiler for the target; ssh2 builds its own OpenSSL, which wants perl.
PACKAGES := binutils gcc libc6-dev make musl-tools perl pkg-config
# What tests make their input with, look at the kernel with, and run containers with beside ferry's own runtime.
TEST_PACKAGES := busybox-static e2fsprogs iproute2 pigz python3 runc tar uidmap util-linux
TESTS ?=
VM ?=

.PHONY: demo test check static test-vm bench peers packages target
.DELETE_ON_ERROR:

demo: static
	demo/tutorial.sh target/static/ferry

# The tests run on the shipped binary's own target and profile, so what they prove holds for it.
test: static peers
	tools/need.sh $(TEST_PACKAGES)
	cargo test $(RUST) $(TESTS)

check: packages
	cargo fmt --check
	cargo clippy $(RUST) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(RUST) --no-deps --document-private-items
	tools/deny.sh check bans licenses sources

static: packages
	cargo build $(RUST)
	mkdir -p target/static
	strip --strip-debug -o target/static/ferry.new target/$(TRIPLE)/release/ferry
	mv target/static/ferry.new target/static/ferry

test-vm: static peers
	tools/vm.sh $(VM)

bench: static peers
	benches/all.sh

peers:
	tools/peers.sh

packages:
	tools/need.sh $(PACKAGES)
	tools/target.sh $(TRIPLE)
