//! The built-in ssh client against a real sshd.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
    secret: Option<String>,
    asked: Mutex<Vec<String>>,
}

impl Prompter for Script {
    fn secret(&self, question: &str) -> Option<String> {
        self.asked.lock().unwrap().push(question.into());
        self.secret.clone()
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
        let mut command = CommandRemote::new(words, "root@127.0.0.1".into(), Duration::from_secs(20));
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

#[test]
fn every_way_to_log_in_works_and_a_wrong_answer_ends_after_three() {
    let machine = Machine::on_host_network(Release::Debian12);
    machine.sh("echo 'root:right one' | chpasswd");
    let passphrase = "ssh-keygen -q -t ed25519 -N 'right one' -f locked && cat locked.pub >>ssh/authorized_keys";
    for (name, options, asked) in [
        ("password", &["PasswordAuthentication=yes", "KbdInteractiveAuthentication=no"][..], "root@h's password: "),
        ("keyboard-interactive", &["UsePAM=yes", "KbdInteractiveAuthentication=yes"][..], "(root@h) Password: "),
        ("key file", &["KbdInteractiveAuthentication=no"][..], "Passphrase of "),
    ] {
        let sshd = machine.sshd_with(options);
        let mut config = config(&sshd, sshd.known_hosts.clone());
        config.identity_files.clear();
        if name == "key file" {
            machine.sh(passphrase);
            config.identity_files.push(machine.dir().join("locked"));
        }
        let right = Arc::new(Script { secret: Some("right one".into()), ..Script::default() });
        let mut remote =
            SshRemote::connect("h", &config, &self::options(&right)).map_err(|e| format!("{name}: {e}")).unwrap();
        assert_eq!(output(&mut remote, "echo", "echo hi", 100).unwrap(), b"hi\n");
        assert!(right.asked.lock().unwrap()[0].starts_with(asked), "{name}: {:?}", right.asked.lock().unwrap());
        let wrong = Arc::new(Script { secret: Some("wrong".into()), ..Script::default() });
        let error = SshRemote::connect("h", &config, &self::options(&wrong)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("login as root failed"), "{name}: {error}");
        assert!(wrong.asked.lock().unwrap().len() <= 3, "{name}");
        // In batch mode nobody is asked.
        config.batch = true;
        SshRemote::connect("h", &config, &self::options(&wrong)).map(|_| ()).unwrap_err();
        assert!(wrong.asked.lock().unwrap().len() <= 3, "{name}");
        drop(remote);
        drop(sshd);
        fs::remove_dir_all(machine.dir().join("ssh")).unwrap();
    }
    let sshd = machine.sshd();
    let mut config = config(&sshd, sshd.known_hosts.clone());
    let socket = machine.dir().join("agent.sock");
    let agent = machine.sh(&format!("ssh-agent -a {0}; SSH_AUTH_SOCK={0} ssh-add -q ssh/id_ed25519", socket.display()));
    assert!(agent.contains("SSH_AGENT_PID"));
    config.identity_files.clear();
    config.identity_agent = Some(socket);
    let nobody = Arc::new(Script::default());
    let mut remote = SshRemote::connect("h", &config, &options(&nobody)).unwrap();
    assert_eq!(output(&mut remote, "echo", "echo hi", 100).unwrap(), b"hi\n");
}

/// A line to a port of this machine, for one connection: nothing passes any more once it is told to stall.
fn line_to(port: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (here, stalled) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
    let stall = stalled.clone();
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
            let stall = stall.clone();
            std::thread::spawn(move || {
                let mut buf = vec![0; 32 << 10];
                while let Ok(n @ 1..) = from.read(&mut buf) {
                    while stall.load(Ordering::Relaxed) {
                        std::thread::park();
                    }
                    if to.write_all(&buf[..n]).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (here, stalled)
}

#[test]
fn a_line_that_stalls_and_a_command_that_takes_nothing_are_given_up_when_the_timeout_is_over() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    let script = Arc::new(Script { confirm: true, ..Script::default() });
    for (command, stalls) in [("cat >/dev/null", true), ("exec sleep 60", false)] {
        let (port, stalled) = line_to(sshd.port);
        let config = HostConfig { port, ..config(&sshd, machine.dir().join("new_hosts")) };
        let options = Options { timeout: Duration::from_secs(3), ..options(&script) };
        let mut remote = SshRemote::connect("h", &config, &options).unwrap();
        let mut process = remote.start(command).unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(b"x").unwrap();
        stalled.store(stalls, Ordering::Relaxed);
        let began = Instant::now();
        stdin.write_all(&vec![0; 64 << 20]).unwrap_err();
        drop(stdin);
        // It has ended in whatever way; how long that took is what counts.
        let _ = process.wait();
        drop(remote);
        assert!(began.elapsed() < Duration::from_secs(25), "{command}: {:?}", began.elapsed());
    }
}

#[test]
fn sudo_runs_a_copy_that_only_root_can_have_written_and_a_wrong_password_is_an_error() {
    use ferry::transfer::bootstrap::{AgentOptions, Sudo, start_agent};
    let machine = Machine::start(Release::Debian12);
    // sudo as the tree has none: wants its password on standard input, and nothing on the command line.
    let shims = machine.dir().join("shims");
    fs::create_dir(&shims).unwrap();
    let sudo = "#!/bin/sh\nwhile :; do case $1 in -n) n=1 ;; -k|-S) ;; -p) shift ;; *) break ;; esac; shift; done\n\
                [ -z \"$n\" ] || exit 1\nIFS= read -r word\n[ \"$word\" = 'right one' ] || { echo 'Sorry' >&2; exit 1; }\n\
                exec \"$@\"\n";
    fs::write(shims.join("sudo"), sudo).unwrap();
    fs::set_permissions(shims.join("sudo"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = machine.dir().display();
    let script = format!("export PATH={dir}/shims:$PATH XDG_CACHE_HOME={dir}/cache; eval \"$1\"");
    let command = machine.command("sh");
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.extend(["-c".into(), script]);
    let start = |secret: &str| {
        let prompter = Arc::new(Script { secret: Some(secret.into()), ..Script::default() });
        let root = machine.dir().join("root's store").display().to_string();
        let options = AgentOptions {
            binary: Some(crate::support::ferry().to_owned()),
            upload: true,
            sudo: Some(Arc::new(Sudo::new(prompter))),
            root: Some(root),
        };
        let mut remote = CommandRemote::new(words.clone(), "far".into(), Duration::from_secs(20));
        start_agent(&mut remote, &options, &[], &ferry::base::Ctx::silent()).map(|agent| agent.process)
    };
    let wrong = start("wrong").map(|_| ()).unwrap_err();
    assert_eq!((wrong.class(), wrong.to_string().contains("Sorry")), (Class::Refused, true), "{wrong}");
    let agent = start("right one").unwrap_or_else(|fault| panic!("{fault}"));
    // It runs from a directory of root's own, which is gone with it.
    assert!(machine.sh("ls -d /var/lib/.ferry.*").contains("/var/lib/.ferry."));
    agent.wait().unwrap();
    assert_eq!(machine.sh("ls -d /var/lib/.ferry.* 2>/dev/null || :"), "");
    // A cached copy that somebody has changed is noticed by root, and put right by the next look.
    let cached = machine.sh("ls cache/ferry/agent-*").trim().to_owned();
    fs::write(machine.dir().join(&cached), "#!/bin/sh\n").unwrap();
    start("right one").unwrap_or_else(|fault| panic!("{fault}")).wait().unwrap();
}
