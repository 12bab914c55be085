//! The built-in ssh client against a real sshd.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferry::base::{Class, Fault};
use ferry::transfer::bootstrap::survey;
use ferry::transfer::command::CommandRemote;
use ferry::transfer::remote::{Remote, output};
use ferry::transfer::ssh::{Options, Prompter, SshRemote};
use ferry::transfer::ssh_config::HostConfig;

use crate::support::peers::{Machine, RELEASES, Release, Sshd};

/// Answers as told, and remembers what was asked.
#[derive(Default)]
struct Script {
    confirm: bool,
    asked: Mutex<Vec<String>>,
}

impl Prompter for Script {
    fn secret(&self, question: &str) -> Option<String> {
        self.asked.lock().unwrap().push(question.into());
        None
    }

    fn word(&self, question: &str) -> Option<String> {
        self.secret(question)
    }

    fn confirm(&self, question: &str) -> bool {
        self.asked.lock().unwrap().push(question.into());
        self.confirm
    }
}

fn options(script: &Arc<Script>) -> Options {
    Options { accept_new: false, timeout: Duration::from_secs(20), prompter: script.clone() }
}

fn config(sshd: &Sshd<'_>, known_hosts: PathBuf) -> HostConfig {
    HostConfig {
        hostname: "127.0.0.1".into(),
        port: sshd.port,
        user: "root".into(),
        identity_files: vec![sshd.key.clone()],
        known_hosts: vec![known_hosts],
        ..HostConfig::default()
    }
}

/// What a cat at the far end gives back of `bytes`, written and read at the same time.
fn echo(remote: &mut dyn Remote, bytes: &[u8]) -> Vec<u8> {
    let mut process = remote.start("cat").unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes).unwrap());
        process.stdout.read_to_end(&mut back).unwrap();
    });
    assert_eq!(process.wait().unwrap().0, 0);
    back
}

#[test]
fn bytes_cross_both_ways_at_once_unchanged_by_either_client() {
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for release in RELEASES {
        let machine = Machine::on_host_network(release);
        let sshd = machine.sshd();
        let script = Arc::new(Script::default());
        let mut built_in =
            SshRemote::connect("h", &config(&sshd, sshd.known_hosts.clone()), &options(&script)).unwrap();
        assert!(script.asked.lock().unwrap().is_empty());
        assert!(echo(&mut built_in, &bytes) == bytes, "{release:?}, built in");
        // Several commands over one login, with their exit codes and complaints.
        assert_eq!(output(&mut built_in, "echo", "echo hi", 100).unwrap(), b"hi\n");
        let (code, stderr) = built_in.start("echo no >&2; exit 7").unwrap().wait().unwrap();
        assert_eq!((code, stderr.as_str()), (7, "no"));
        let found = survey(&mut built_in, None).unwrap();
        assert_eq!((found.system.as_str(), found.cached), ("Linux", false));
        assert!(found.engines.contains(&"docker".to_owned()), "{found:?}");
        // A process that nobody listens to any more does not hang.
        drop(built_in.start("yes").unwrap());
        let prefix = sshd.ssh("true");
        let mut words: Vec<String> = vec![prefix.get_program().to_string_lossy().into_owned()];
        words.extend(prefix.get_args().map(|arg| arg.to_string_lossy().into_owned()));
        words.truncate(words.len() - 2);
        let mut command = CommandRemote::new(words, "root@127.0.0.1".into());
        assert!(echo(&mut command, &bytes) == bytes, "{release:?}, by command");
    }
}

#[test]
fn a_host_key_is_trusted_only_when_it_is_known_or_somebody_says_so() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    let connect = |known: &PathBuf, script: &Arc<Script>| {
        SshRemote::connect("h", &config(&sshd, known.clone()), &options(script)).map(|_| ())
    };
    let empty = machine.dir().join("empty/known_hosts");
    let no = Arc::new(Script::default());
    let refused = connect(&empty, &no).unwrap_err();
    assert_eq!(refused.class(), Class::Refused);
    assert!(no.asked.lock().unwrap()[0].contains("SHA256:"), "the fingerprint is shown");
    assert!(!empty.exists());
    let yes = Arc::new(Script { confirm: true, ..Script::default() });
    connect(&empty, &yes).unwrap();
    connect(&empty, &no).unwrap();
    assert_eq!(yes.asked.lock().unwrap().len(), 1, "asked once, remembered after that");

    // The same host with another key, and with this key revoked: no question, an error.
    let line = fs::read_to_string(&empty).unwrap();
    let other = machine.sh("ssh-keygen -q -t ed25519 -N '' -f other; cut -d' ' -f1,2 other.pub");
    let host = line.split(' ').next().unwrap();
    let (changed, revoked) = (machine.dir().join("changed"), machine.dir().join("revoked"));
    fs::write(&changed, format!("{host} {other}")).unwrap();
    fs::write(&revoked, format!("{line}@revoked {line}")).unwrap();
    for (file, text) in [(changed, "HOST KEY CHANGED"), (revoked, "revoked")] {
        let asked = yes.asked.lock().unwrap().len();
        let error = connect(&file, &yes).unwrap_err();
        assert_eq!(error.class(), Class::Refused);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(yes.asked.lock().unwrap().len(), asked, "nobody may wave this through");
    }
}

#[test]
fn a_login_that_fails_says_what_was_tried() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    let mut config = config(&sshd, sshd.known_hosts.clone());
    machine.sh("ssh-keygen -q -t ed25519 -N secret -f stranger");
    config.identity_files = vec![machine.dir().join("stranger")];
    let script = Arc::new(Script::default());
    let error = SshRemote::connect("h", &config, &options(&script)).map(|_| ()).unwrap_err();
    assert!(error.to_string().starts_with("h: login as root failed: tried key files"), "{error}");
    assert!(script.asked.lock().unwrap()[0].starts_with("Passphrase of "), "an encrypted key is asked for");
    config.port = 1;
    assert_eq!(SshRemote::connect("h", &config, &options(&script)).map(|_| ()).unwrap_err().class(), Class::Peer);
}
