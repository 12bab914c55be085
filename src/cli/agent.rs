//! `ferry agent`: the far side of `send` and `fetch`.

use std::process::ExitCode;

use clap::Args;

use super::{Global, threads, trust};
use crate::base::{AtPath, BoxFault};
use crate::bundle::seal::WayIn;
use crate::bundle::{BundleOptions, Level};
use crate::ops::send::{self, Visible};
use crate::store::LoadOptions;
use crate::transfer::engine::{EngineHome, Found, Target};
use crate::transfer::home::StoreHome;
use crate::transfer::send::SendOptions;

/// Answer another ferry on standard input and output (started by send and fetch)
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Let the other side know of nothing here, and fetch nothing: everything is sent each time
    #[arg(long, conflicts_with = "reveal")]
    reveal_nothing: bool,
    /// Let the other side know of, build upon and fetch images of these names only (a pattern); may be repeated
    #[arg(long, value_name = "PATTERN")]
    reveal: Vec<String>,
    /// Who gets the images: ferry, docker, podman, containerd, k3s, dir:PATH, or auto
    #[arg(long, default_value = "ferry", value_name = "WHO")]
    to: Target,
}

/// Answers.
pub fn run(args: AgentArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    trust::permits(WayIn::Receive)?;
    as_root_of_podman(&args.to)?;
    let bundle = BundleOptions {
        level: Level::DEFAULT,
        threads: threads(),
        memory: BundleOptions::MEMORY,
        keep_originals: true,
        spool_dir: std::env::temp_dir(),
    };
    let sending = SendOptions { bundle, level: None, hints: Vec::new(), rate: None, dry_run: false };
    let (from, to) = (Box::new(std::io::stdin()), Box::new(std::io::BufWriter::new(std::io::stdout())));
    let ctx = &global.ctx;
    let folder = global.root.join("ferry/transfers");
    if args.to != Target::Ferry {
        std::fs::create_dir_all(&folder).at("create", &folder)?;
    }
    let has_store = global.root.join("image").is_dir();
    if let Found::Engine(home) = EngineHome::open(&args.to, folder, has_store)? {
        send::answer(from, to, &home, None, &sending, ctx)?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = global.store_to_write()?;
    let patterns = args.reveal_nothing || !args.reveal.is_empty();
    let visible = Visible { images: patterns.then_some(args.reveal) };
    let load = LoadOptions { threads: threads(), ..LoadOptions::default() };
    let home = StoreHome::new(&store, load, visible.reveal(&store, ctx)?);
    send::answer(from, to, &home, Some((&store, &visible)), &sending, ctx)?;
    Ok(ExitCode::SUCCESS)
}

/// podman's store of a user belongs to the subordinate IDs of that user: they can be read in its user namespace.
fn as_root_of_podman(to: &Target) -> Result<(), BoxFault> {
    use std::os::unix::process::CommandExt;
    if *to != Target::Podman || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let own = std::env::current_exe().at("find", "this program")?;
    let error = std::process::Command::new("podman").arg("unshare").arg(own).args(std::env::args_os().skip(1)).exec();
    tracing::info!(%error, "podman unshare does not work here");
    Ok(())
}
