//! The one binary.

/// With musl's own allocator, page faults of buffers that come and go were a seventh of what a load took, by its profile.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ferry::cli::main()
}
