//! `ferry agent`: the far side of `send` and `fetch`.

use std::process::ExitCode;

use clap::Args;

use super::{Global, threads, trust};
use crate::base::BoxFault;
use crate::bundle::seal::WayIn;
use crate::bundle::{BundleOptions, Level};
use crate::ops::send;
use crate::store::LoadOptions;
use crate::transfer::receive::ReceiveOptions;
use crate::transfer::send::SendOptions;

/// Answer another ferry on standard input and output (started by send and fetch)
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Do not tell the other side which layers are here: everything is sent each time
    #[arg(long)]
    reveal_nothing: bool,
}

/// Answers.
pub fn run(args: AgentArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    trust::permits(WayIn::Receive)?;
    let store = global.store_to_write()?;
    let load = LoadOptions { threads: threads(), ..LoadOptions::default() };
    let receiving = ReceiveOptions { load, reveal: !args.reveal_nothing };
    let bundle = BundleOptions {
        level: Level::FAST,
        threads: threads(),
        memory: BundleOptions::MEMORY,
        keep_originals: true,
        spool_dir: std::env::temp_dir(),
    };
    let sending = SendOptions { bundle, hints: Vec::new(), rate: None, dry_run: false };
    let (from, to) = (Box::new(std::io::stdin()), Box::new(std::io::BufWriter::new(std::io::stdout())));
    send::answer(from, to, &store, &receiving, &sending, &global.ctx)?;
    Ok(ExitCode::SUCCESS)
}
