//! Other people's tools, run from the Debian trees that `tools/peers.sh` makes.
//!
//! A [`Machine`] is one such tree in namespaces of its own (`tools/peer.sh`): dropping it ends every process inside and takes
//! every mount, network and cgroup along. Machines start in a quarter of a second, so each test has its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::{checkout, wait_until};

/// Whose packages a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// docker 20.10, podman 4.3, skopeo 1.9, containerd 1.6, crun 1.8
    Debian12,
    /// docker 26.1, podman 5.4, skopeo 1.18, containerd 1.7, crun 1.21
    Debian13,
}

/// Both, for tests that hold for either.
pub const RELEASES: [Release; 2] = [Release::Debian12, Release::Debian13];

/// A running tree.
pub struct Machine {
    keeper: Child,
    pid: u32,
    dir: TempDir,
}

impl Machine {
    /// A machine with a network of its own that has nothing but a loopback.
    pub fn start(release: Release) -> Machine {
        Machine::enter(release, &[])
    }

    /// A machine on the host's network, for servers that a process outside shall reach on the loopback.
    pub fn on_host_network(release: Release) -> Machine {
        Machine::enter(release, &["-n", "host"])
    }

    fn enter(release: Release, options: &[&str]) -> Machine {
        // Not in /tmp, which may be a tmpfs: dockerd wants a data-root that overlay takes.
        let dir = tempfile::Builder::new().prefix("ferry-peer-").tempdir_in("/var/tmp").unwrap();
        let number = match release {
            Release::Debian12 => "12",
            Release::Debian13 => "13",
        };
        let mut keeper = Command::new(checkout().join("tools/peer.sh"))
            .arg(number)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("tools/peer.sh {number} did not start; it says: {line:?}"));
        Machine { keeper, pid, dir }
    }

    /// Its first process, as the test sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A directory that machine and test see at the same path; empty at first, gone with the machine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command inside, killed after five minutes.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.daemon("timeout");
        command.args(["-k", "5", "300"]).arg(program);
        command
    }

    /// A command inside, without a time limit.
    fn daemon(&self, program: impl AsRef<OsStr>) -> Command {
        // What enters the namespaces is still in the test's cgroups.
        const JOIN: &str = "for g in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do \
            if [ -e $g ]; then echo 0 >$g; fi; done; cd \"$0\"; exec \"$@\"";
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r"]);
        command.args(["sh", "-c", JOIN]).arg(self.dir()).arg(program);
        command
            .stdin(Stdio::null())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command
    }

    /// Runs a program inside and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> String {
        succeed(self.command(program).args(arguments))
    }

    /// Runs a shell script inside and gives what it printed.
    pub fn sh(&self, script: &str) -> String {
        self.run("sh", ["-ec", script])
    }

    /// Starts a dockerd with an empty data-root of its own.
    pub fn dockerd(&self) -> Docker<'_> {
        self.dockerd_on(&self.dir().join("docker-data"))
    }

    /// Starts a dockerd on this data-root.
    pub fn dockerd_on(&self, data_root: &Path) -> Docker<'_> {
        let name = data_root.file_name().unwrap().to_str().unwrap();
        let socket = self.dir().join(format!("{name}.sock"));
        let host = format!("unix://{}", socket.display());
        let mut command = self.daemon("dockerd");
        command
            .args(["-H", &host, "--bridge=none", "--iptables=false", "--ip6tables=false", "--data-root"])
            .arg(data_root);
        command.args(["--exec-root", &format!("/run/{name}"), "--pidfile", &format!("/run/{name}.pid")]);
        let daemon = Daemon::start(self, command, &format!("{name}.log"));
        let docker = Docker { daemon, host, data_root: data_root.to_owned() };
        docker.daemon.ready("dockerd", || docker.command(["info"]).output().unwrap().status.success());
        docker
    }

    /// Starts a containerd with an empty root of its own.
    pub fn containerd(&self) -> Containerd<'_> {
        self.containerd_at("/run/ctr.sock", "default")
    }

    /// The same, which answers elsewhere, and is asked about another namespace.
    pub fn containerd_at(&self, address: &'static str, namespace: &'static str) -> Containerd<'_> {
        let mut command = self.daemon("containerd");
        command.arg("--root").arg(self.dir().join("containerd"));
        command.args(["--state", "/run/containerd", "--address", address]);
        let daemon = Daemon::start(self, command, "containerd.log");
        let containerd = Containerd { daemon, address, namespace };
        containerd.daemon.ready("containerd", || containerd.command(["version"]).output().unwrap().status.success());
        containerd
    }

    /// podman as root, with a store of its own.
    pub fn podman(&self) -> Podman<'_> {
        Podman(self)
    }

    /// `skopeo ARGUMENTS…`
    pub fn skopeo<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command("skopeo");
        succeed(command.arg("--insecure-policy").args(arguments))
    }

    /// Starts an sshd on the loopback that lets root in with a throwaway key.
    pub fn sshd(&self) -> Sshd<'_> {
        self.sshd_with(&[])
    }

    /// The same with other settings of `sshd_config`.
    pub fn sshd_with(&self, settings: &[&str]) -> Sshd<'_> {
        let dir = self.dir().join("ssh");
        let (key, host_key) = (dir.join("id_ed25519"), dir.join("host_key"));
        // In a network of the machine's own any port is free; on the host's the kernel knows one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let d = dir.display();
        self.sh(&format!(
            "mkdir -m 700 {d}
            ssh-keygen -q -t ed25519 -N '' -f {}
            ssh-keygen -q -t ed25519 -N '' -f {}
            cp {d}/id_ed25519.pub {d}/authorized_keys
            echo \"[127.0.0.1]:{port} $(cat {d}/host_key.pub)\" >{d}/known_hosts",
            key.display(),
            host_key.display(),
        ));
        let mut command = self.daemon("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string()]);
        // The first of two counts.
        for option in settings {
            command.args(["-o", option]);
        }
        for option in [
            "ListenAddress=127.0.0.1",
            "PidFile=/run/sshd.pid",
            "StrictModes=no",
            "UsePAM=no",
            "PasswordAuthentication=no",
            "PermitRootLogin=yes",
            "MaxStartups=100",
            "Subsystem=sftp internal-sftp",
            &format!("HostKey={}", host_key.display()),
            &format!("AuthorizedKeysFile={d}/authorized_keys"),
        ] {
            command.args(["-o", option]);
        }
        let known_hosts = dir.join("known_hosts");
        let sshd = Sshd { daemon: Daemon::start(self, command, "sshd.log"), port, key, known_hosts };
        sshd.daemon.ready("sshd", || sshd.ssh("true").output().unwrap().status.success());
        sshd
    }

    /// Starts a registry on the loopback, without TLS.
    pub fn registry(&self) -> Registry<'_> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
            self.dir().join("registry").display()
        );
        std::fs::write(self.dir().join("registry.yml"), config).unwrap();
        let mut command = self.daemon("docker-registry");
        command.arg("serve").arg(self.dir().join("registry.yml"));
        let daemon = Daemon::start(self, command, "registry.log");
        let ask = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        daemon.ready("the registry", || self.command("bash").args(["-c", &ask]).output().unwrap().status.success());
        Registry { _daemon: daemon, address: format!("127.0.0.1:{port}") }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A server inside a machine; dropping it stops it in order.
struct Daemon<'m> {
    machine: &'m Machine,
    /// nsenter, which waits for the server
    child: Option<Child>,
    log: PathBuf,
}

impl<'m> Daemon<'m> {
    fn start(machine: &'m Machine, mut command: Command, log: &str) -> Daemon<'m> {
        let log = machine.dir().join(log);
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Daemon { machine, child: Some(child), log }
    }

    fn ready(&self, what: &str, mut ask: impl FnMut() -> bool) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !ask() {
            if std::time::Instant::now() > deadline {
                panic!("{what} does not answer; its log:\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn signal(&self, signal: &str) {
        // The server is the one child of nsenter; `kill` works from outside too, with the host's number.
        if let Some(child) = &self.child {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let pids = std::fs::read_to_string(children).unwrap_or_default();
            for pid in pids.split_whitespace() {
                let _ = Command::new("kill").args([signal, pid]).output();
            }
        }
    }

    fn stop(&mut self) {
        self.signal("-TERM");
        if let Some(mut child) = self.child.take() {
            wait_until(&format!("the end of what logs to {}", self.log.display()), || {
                child.try_wait().unwrap().is_some()
            });
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // Unwinding from a failed test: the machine's end will do.
        if std::thread::panicking() {
            eprintln!("the log {}:\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
            self.signal("-KILL");
            self.child.take().map(|mut child| child.wait());
        } else {
            self.stop();
        }
    }
}

/// A dockerd and its client.
pub struct Docker<'m> {
    daemon: Daemon<'m>,
    /// What goes into `DOCKER_HOST`.
    pub host: String,
    /// Where its images are.
    pub data_root: PathBuf,
}

impl Docker<'_> {
    /// `docker ARGUMENTS…`, not yet run.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.daemon.machine.command("docker");
        command.env("DOCKER_HOST", &self.host).args(arguments);
        command
    }

    /// `docker ARGUMENTS…`; gives what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Ends the daemon in order and leaves its data-root.
    pub fn stop(mut self) {
        self.daemon.stop();
    }
}

/// A containerd and its `ctr`.
pub struct Containerd<'m> {
    daemon: Daemon<'m>,
    address: &'static str,
    namespace: &'static str,
}

impl Containerd<'_> {
    /// `ctr ARGUMENTS…`, not yet run.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.daemon.machine.command("ctr");
        command.args(["-a", self.address, "-n", self.namespace]).args(arguments);
        command
    }

    /// `ctr ARGUMENTS…`; gives what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        succeed(&mut self.command(arguments))
    }
}

/// podman with the machine's own store.
pub struct Podman<'m>(&'m Machine);

impl Podman<'_> {
    /// `podman ARGUMENTS…`, not yet run.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.0.command("podman");
        command.arg("--root").arg(self.store());
        command.args(["--runroot", "/run/podman", "--cgroup-manager", "cgroupfs"]).args(arguments);
        command
    }

    /// `podman ARGUMENTS…`; gives what it printed.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        succeed(&mut self.command(arguments))
    }

    /// `podman run --rm` without a network; rlimits are set to what a host that may not raise them has anyway.
    pub fn run_container(&self, image: &str, program: &[&str]) -> String {
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let arguments = ["run", "--rm", "--net=none"].into_iter().chain(limits).chain([image]);
        self.run(arguments.chain(program.iter().copied()))
    }

    /// Where its images are, as skopeo's `containers-storage:` wants it before the name.
    pub fn storage(&self) -> String {
        format!("containers-storage:[overlay@{}+/run/podman]", self.store().display())
    }

    fn store(&self) -> PathBuf {
        self.0.dir().join("podman")
    }
}

/// An sshd that answers on the loopback.
pub struct Sshd<'m> {
    daemon: Daemon<'m>,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The private key root is let in with.
    pub key: PathBuf,
    /// A known_hosts file with the server's key in it.
    pub known_hosts: PathBuf,
}

impl Sshd<'_> {
    /// OpenSSH's own client, running a command line at the far end.
    pub fn ssh(&self, line: &str) -> Command {
        let mut command = self.daemon.machine.command("ssh");
        command.args(["-F", "/dev/null", "-p", &self.port.to_string(), "-o", "BatchMode=yes", "-i"]).arg(&self.key);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", self.known_hosts.display()));
        command.args(["root@127.0.0.1", line]);
        command
    }
}

/// A registry without TLS or users.
pub struct Registry<'m> {
    _daemon: Daemon<'m>,
    /// `HOST:PORT`
    pub address: String,
}

/// Runs it and gives what it printed.
///
/// # Panics
/// When it fails; the panic shows the command and all it said.
pub fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{stdout}{}", String::from_utf8_lossy(&stderr));
    stdout
}
