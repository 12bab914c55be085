//! The one binary.

/// Chosen by measurement: with musl's own, page faults of buffers that come and go are a seventh of what a load takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ferry::cli::main()
}
