//! Which way a host is reached: the user's command, the built-in client, or the system's ssh for what that cannot do.

use std::process::{Command, Stdio};

use super::command::CommandRemote;
use super::remote::{Remote, RemoteError};
use super::ssh::{self, SshRemote};
use super::ssh_config::{Defaults, Destination, HostConfig};

/// How hosts are reached.
#[derive(Clone)]
pub struct Reach {
    /// The words of `--ssh COMMAND`; it is used as it is and asked nothing else.
    pub command: Option<Vec<String>>,
    /// For the built-in client.
    pub options: ssh::Options,
    /// What the environment says.
    pub defaults: Defaults,
}

impl Reach {
    /// Connects to a host.
    pub fn connect(&self, destination: &Destination) -> Result<Box<dyn Remote>, RemoteError> {
        let name = destination.to_string();
        if let Some(words) = &self.command {
            return Ok(Box::new(CommandRemote::new(words.clone(), by_command(destination), self.options.timeout)));
        }
        let config = self.configuration(destination);
        if let Some(reason) = config.needs_system_ssh {
            tracing::info!("{name}: {reason} is configured: using the system's ssh");
            return Ok(Box::new(self.system_ssh(destination)));
        }
        match SshRemote::connect(&name, &config, &self.options) {
            Ok(remote) => Ok(Box::new(remote)),
            Err(RemoteError::Login { .. }) if config.gssapi => {
                tracing::info!("{name}: trying the system's ssh, which may log in by GSSAPI");
                Ok(Box::new(self.system_ssh(destination)))
            }
            Err(error) => Err(error),
        }
    }

    fn configuration(&self, destination: &Destination) -> HostConfig {
        let mut ssh = Command::new("ssh");
        if let Some(port) = destination.port {
            ssh.args(["-p", &port.to_string()]);
        }
        if let Some(user) = &destination.user {
            ssh.args(["-l", user]);
        }
        let printed = ssh.args(["-G", "--", &destination.host]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        match printed {
            Ok(out) if out.status.success() => {
                HostConfig::from_ssh_g(&String::from_utf8_lossy(&out.stdout), destination, &self.defaults)
            }
            // No ssh on this host is no reason to stop: that is what the built-in client is for.
            _ => HostConfig::plain(destination, &self.defaults),
        }
    }

    /// The system's ssh, told what this ferry was.
    fn system_ssh(&self, destination: &Destination) -> CommandRemote {
        let timeout = self.options.timeout;
        let mut words: Vec<String> =
            ["ssh", "-T", "-o", "Compression=no", "-o", "ServerAliveInterval=15"].map(Into::into).into();
        words.extend(["-o".into(), format!("ConnectTimeout={}", timeout.as_secs().max(1))]);
        if self.options.accept_new {
            words.extend(["-o".into(), "StrictHostKeyChecking=accept-new".into()]);
        }
        if let Some(port) = destination.port {
            words.extend(["-p".into(), port.to_string()]);
        }
        CommandRemote::new(words, by_command(destination), timeout)
    }
}

/// A destination as ssh and its kin take it: the port goes by option, so it must be in the user's command.
fn by_command(destination: &Destination) -> String {
    match &destination.user {
        Some(user) => format!("{user}@{}", destination.host),
        None => destination.host.clone(),
    }
}
