//! A host reached by a command of the user's: `ssh -J bastion`, a wrapper, `kubectl exec`. The way rsync does it.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::patience::Patient;
use super::remote::{Process, Remote, RemoteError, Tail};

/// A host reached by running a command of the form `COMMAND HOST FAR-COMMAND`.
pub struct CommandRemote {
    host: String,
    words: Vec<String>,
    timeout: Duration,
}

impl CommandRemote {
    /// `words` is the command with its options, without the host; `host` is passed to it as it is. When something is due
    /// and nothing moves for `timeout`, the far side counts as gone.
    ///
    /// A host that begins with `-` would be read as an option by ssh; callers refuse it before this.
    pub fn new(words: Vec<String>, host: String, timeout: Duration) -> Self {
        Self { host, words, timeout }
    }
}

/// Splits a command line into words as a POSIX shell does, quotes and backslashes included; no expansions.
pub fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => loop {
                match chars.next()? {
                    '\'' => break word.get_or_insert_default().push_str(""),
                    c => word.get_or_insert_default().push(c),
                }
            },
            '"' => loop {
                match chars.next()? {
                    '"' => break word.get_or_insert_default().push_str(""),
                    '\\' => {
                        let next = chars.next()?;
                        if !matches!(next, '"' | '\\' | '$' | '`') {
                            word.get_or_insert_default().push('\\');
                        }
                        word.get_or_insert_default().push(next);
                    }
                    c => word.get_or_insert_default().push(c),
                }
            },
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Ends the command when the process is dropped before its end.
struct Reaper(Option<Child>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself: both calls then only collect it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How long a login may take, as sshd has it (LoginGraceTime).
const LOGIN: Duration = Duration::from_secs(120);
/// What a pipe holds that nobody reads from, in bytes.
const PIPE: u64 = 64 << 10;
/// How long the end of what a command said is waited for when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits for a child's end; nothing when it does not come in time.
fn ends_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let Ok(handle) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else {
        // A kernel without these knows no such wait.
        return child.wait().map(Some);
    };
    let limit = limit.try_into().ok();
    loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], limit.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Remote for CommandRemote {
    fn host(&self) -> &str {
        &self.host
    }

    fn start(&mut self, command: &str) -> Result<Process, RemoteError> {
        let line = self.words.join(" ");
        let spawn = |source| RemoteError::Spawn { command: line.clone(), source };
        let Some((program, options)) = self.words.split_first() else {
            return Err(spawn(std::io::ErrorKind::InvalidInput.into()));
        };
        let mut child = Command::new(program)
            .args(options)
            .arg(&self.host)
            .arg(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(spawn)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut reaper = Reaper(Some(child));
        let (Some(stdin), Some(stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(spawn(std::io::ErrorKind::BrokenPipe.into()));
        };
        let tail = Arc::new(Mutex::new(Tail::default()));
        let kept = Arc::clone(&tail);
        let (heard, silent) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buf) {
                kept.lock().unwrap_or_else(|e| e.into_inner()).push(&buf[..n]);
            }
            drop(heard);
        });
        let (host, timeout) = (self.host.clone(), self.timeout);
        let end = move || {
            let Some(child) = reaper.0.as_mut() else { return Ok((255, String::new())) };
            let io = |source| RemoteError::Io { host, action: "wait for ssh", source };
            let code = match ends_within(child, timeout).map_err(io)? {
                Some(status) => status.code().unwrap_or(255),
                // It neither goes on nor away: the reaper ends it.
                None => 255,
            };
            drop(reaper);
            // What it said is there, unless somebody else holds its standard error open.
            let _ = silent.recv_timeout(LAST_WORDS);
            let text = tail.lock().unwrap_or_else(|e| e.into_inner()).text();
            Ok((code, text))
        };
        // It logs in first, and may ask somebody for a password: until then nothing comes, and what is sent fills its pipe.
        let stdin = Patient::new(stdin, self.timeout).map_err(spawn)?.at_first(LOGIN, PIPE);
        let stdout = Patient::new(stdout, self.timeout).map_err(spawn)?.at_first(LOGIN, 0);
        Ok(Process { stdin: Some(Box::new(stdin)), stdout: Box::new(stdout), end: Box::new(end) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_splits_as_a_shell_splits_it() {
        for (line, words) in [
            ("ssh -J bastion", Some(vec!["ssh", "-J", "bastion"])),
            (r#"ssh -o "User name" 'a b'\ c"#, Some(vec!["ssh", "-o", "User name", "a b c"])),
            ("''", Some(vec![""])),
            ("  ", Some(vec![])),
            ("'open", None),
            (r#""a\$b\n""#, Some(vec![r"a$b\n"])),
        ] {
            assert_eq!(split_words(line), words.map(|w| w.into_iter().map(String::from).collect()), "{line}");
        }
    }
}
