//! `ferry port`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;

/// List a container's published ports
#[derive(Debug, Args)]
pub struct PortArgs {
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// Lists.
pub fn run(args: PortArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let state = dir.state()?;
    let wanted = args.port.map(|port| if port.contains('/') { port } else { format!("{port}/tcp") });
    let mut found = false;
    for port in state.network.iter().flat_map(|network| &network.ports) {
        let ip = if port.host_ip.is_ipv6() { format!("[{}]", port.host_ip) } else { port.host_ip.to_string() };
        let name = port.container.to_string();
        match &wanted {
            Some(wanted) if *wanted != name => continue,
            Some(_) => output::line(format!("{ip}:{}", port.host_port))?,
            None => output::line(format!("{name} -> {ip}:{}", port.host_port))?,
        }
        found = true;
    }
    match wanted {
        Some(wanted) if !found => {
            Err(RuntimeError::NotFound(format!("no public port '{wanted}' published for {}", args.container)).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
