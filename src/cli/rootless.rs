//! Where an ordinary user's commands work: which of them enter the user namespace that the store's files belong to.

use std::path::Path;

use super::Command;
use crate::base::BoxFault;
use crate::runtime::rootless::{self, Need};

/// Enters it, for the commands that have to do with a store. Gives what the user should know.
pub fn enter(command: &Command, root: &Path) -> Result<Option<String>, BoxFault> {
    if rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let (need, container) = match command {
        Command::Completion(_)
        | Command::Convert(_)
        | Command::Copy(_)
        | Command::Extract(_)
        | Command::Ls(_)
        | Command::Man(_)
        | Command::Media(_)
        | Command::Repair(_)
        | Command::Verify(_)
        | Command::Version(_) => return Ok(None),
        // podman has a user namespace of its own.
        Command::Agent(args) if args.is_for_podman() => return Ok(None),
        Command::Agent(_) | Command::Fetch(_) | Command::Send(_) => (Need::Programs, None),
        Command::Df(_)
        | Command::Fsck(_)
        | Command::History(_)
        | Command::Images(_)
        | Command::Import(_)
        | Command::Info(_)
        | Command::Inventory(_)
        | Command::Load(_)
        | Command::Rmi(_)
        | Command::Save(_)
        | Command::Tag(_) => (Need::Files, None),
        Command::Exec(args) => (Need::Containers, Some(args.container.as_str())),
        _ => (Need::Containers, None),
    };
    Ok(rootless::enter(root, need, container)?)
}
