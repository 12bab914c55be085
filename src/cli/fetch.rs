//! `ferry fetch`.

use std::process::ExitCode;

use clap::Args;

use super::remote::RemoteArgs;
use super::{Global, output, threads, trust};
use crate::base::BoxFault;
use crate::bundle::seal::WayIn;
use crate::ops::send;
use crate::store::LoadOptions;
use crate::transfer::home::{Reveal, StoreHome};
use crate::transfer::ssh_config::Destination;

/// Take images from another host by ssh, only what is missing here
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The host
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    host: Destination,
    /// Images of that host's store, by name, ID or digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Fetches.
pub fn run(args: FetchArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    trust::permits(WayIn::Pull)?;
    let store = global.store_to_write()?;
    let load = LoadOptions { threads: threads(), ..LoadOptions::default() };
    let home = StoreHome::new(&store, load, Reveal::All);
    let (reach, agent) = (args.remote.reach()?, args.remote.agent()?);
    let received = send::fetch(&reach, &agent, &args.host, &args.images, &home, &global.ctx)?;
    for name in &received.loaded {
        output::line(format!("Loaded image: {}", output::clean(name)))?;
    }
    Ok(ExitCode::SUCCESS)
}
