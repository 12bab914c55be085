//! A host reached by a command of the user's: `ssh -J bastion`, a wrapper, `kubectl exec`. The way rsync does it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::remote::{Process, Remote, RemoteError, Tail};

/// A host reached by running a command of the form `COMMAND HOST FAR-COMMAND`.
pub struct CommandRemote {
    host: String,
    words: Vec<String>,
}

impl CommandRemote {
    /// `words` is the command with its options, without the host; `host` is passed to it as it is.
    ///
    /// A host that begins with `-` would be read as an option by ssh; callers refuse it before this.
    pub fn new(words: Vec<String>, host: String) -> Self {
        Self { host, words }
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
        let listener = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut buf) {
                kept.lock().unwrap_or_else(|e| e.into_inner()).push(&buf[..n]);
            }
        });
        let host = self.host.clone();
        let end = move || {
            let Some(mut child) = reaper.0.take() else { return Ok((255, String::new())) };
            let status = child.wait().map_err(|source| RemoteError::Io { host, action: "wait for ssh", source })?;
            // The listener ends with the pipe; it cannot panic.
            let _ = listener.join();
            let text = tail.lock().unwrap_or_else(|e| e.into_inner()).text();
            Ok((status.code().unwrap_or(255), text))
        };
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
