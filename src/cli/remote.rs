//! How other hosts are reached: options that `send` and `fetch` share.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::UsageError;
use super::ask::Terminal;
use crate::base::BoxFault;
use crate::transfer::bootstrap::{AgentOptions, Sudo};
use crate::transfer::command::split_words;
use crate::transfer::connect::Reach;
use crate::transfer::remote::quote;
use crate::transfer::ssh::Options;
use crate::transfer::ssh_config::Defaults;

/// Options for reaching hosts.
#[derive(Debug, Args)]
pub struct ReachArgs {
    /// Reach hosts by this command (`ssh -J bastion`) instead of the built-in ssh
    #[arg(long, env = "FERRY_SSH", value_name = "COMMAND")]
    ssh: Option<String>,
    /// Trust the key of a host that is not known yet, without asking
    #[arg(long)]
    accept_new: bool,
    /// Give up on a host that does not answer for this long, in seconds
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Options for working on hosts.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    #[command(flatten)]
    reach: ReachArgs,
    /// Work as root there, by sudo
    #[arg(long)]
    sudo: bool,
    /// The ferry to put on hosts that have none, for another architecture than this one's
    #[arg(long, value_name = "FILE")]
    ferry_binary: Option<PathBuf>,
    /// Put no ferry on hosts that have none
    #[arg(long, conflicts_with = "ferry_binary")]
    no_upload: bool,
    /// The store on the far side [default: that user's]
    #[arg(long, value_name = "DIR")]
    remote_root: Option<String>,
}

impl ReachArgs {
    /// How hosts are reached.
    pub fn reach(&self) -> Result<Reach, BoxFault> {
        let words = |line: &String| {
            split_words(line)
                .filter(|words| !words.is_empty())
                .ok_or_else(|| UsageError(format!("--ssh {line:?} is no command: is a quote left open?")))
        };
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "root".into());
        Ok(Reach {
            command: self.ssh.as_ref().map(words).transpose()?,
            options: Options {
                accept_new: self.accept_new,
                timeout: Duration::from_secs(self.timeout),
                prompter: Arc::new(Terminal),
            },
            defaults: Defaults { user, home: absolute("HOME"), agent: absolute("SSH_AUTH_SOCK") },
        })
    }
}

impl RemoteArgs {
    /// How hosts are reached.
    pub fn reach(&self) -> Result<Reach, BoxFault> {
        self.reach.reach()
    }

    /// How a user there starts the ferry at `path` on the store that was worked on.
    pub fn command_there(&self, path: &str) -> String {
        let mut words = vec![path.to_owned()];
        words.extend(self.remote_root.iter().flat_map(|root| ["--root".to_owned(), root.clone()]));
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        format!("{}{}", if self.sudo { "sudo " } else { "" }, words.join(" "))
    }

    /// How the far side is prepared.
    pub fn agent(&self) -> Result<AgentOptions, BoxFault> {
        let own = || std::env::current_exe().map_err(|error| UsageError(format!("cannot find this program: {error}")));
        let upload = !self.no_upload;
        let binary = match &self.ferry_binary {
            Some(binary) => Some(binary.clone()),
            None if upload => Some(own()?),
            None => None,
        };
        let sudo = self.sudo.then(|| Arc::new(Sudo::new(Arc::new(Terminal))));
        Ok(AgentOptions { binary, upload, sudo, root: self.remote_root.clone() })
    }
}
