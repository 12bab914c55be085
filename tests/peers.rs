//! The peers that other tests compare with are there and work.

use crate::support::peers::{Machine, RELEASES, Release};

/// A docker-archive of one image, `small:1`, made from busybox with docker.
fn small_archive(machine: &Machine) {
    machine.sh("mkdir -p root/bin; cp /bin/busybox root/bin/; for a in sh echo cat; do ln root/bin/busybox root/bin/$a; done; tar -C root -cf root.tar .");
}

#[test]
fn docker_runs_and_saves_on_both_releases() {
    for release in RELEASES {
        let machine = Machine::start(release);
        small_archive(&machine);
        let docker = machine.dockerd();
        docker.run(["import", "root.tar", "small:1"]);
        assert_eq!(docker.run(["run", "--rm", "--net=none", "small:1", "/bin/echo", "hello"]), "hello\n");
        docker.run(["save", "-o", "small.tar", "small:1"]);
        let version = docker.run(["version", "-f", "{{.Server.Version}}"]);
        let data_root = docker.data_root.clone();
        docker.stop();
        assert!(machine.dir().join("small.tar").exists());
        assert!(data_root.join("image/overlay2/repositories.json").exists());
        let expected = if release == Release::Debian12 { "20.10." } else { "26.1." };
        assert!(version.starts_with(expected), "{version}");
    }
}

#[test]
fn podman_skopeo_and_containerd_take_what_docker_saved() {
    for release in RELEASES {
        let machine = Machine::start(release);
        small_archive(&machine);
        let docker = machine.dockerd();
        docker.run(["import", "root.tar", "small:1"]);
        docker.run(["save", "-o", "small.tar", "small:1"]);
        drop(docker);

        let podman = machine.podman();
        podman.run(["load", "-q", "-i", "small.tar"]);
        let id = podman.run(["images", "-q", "--no-trunc"]);
        assert_eq!(podman.run_container(id.trim(), &["/bin/echo", "hello"]), "hello\n");

        machine.skopeo(["copy", "-q", "docker-archive:small.tar", "oci:layout:small"]);
        machine.skopeo(["copy", "-q", "oci:layout:small", &format!("{}localhost/again:1", podman.storage())]);
        assert!(podman.run(["images"]).contains("localhost/again"));

        let containerd = machine.containerd();
        containerd.run(["images", "import", "small.tar"]);
        assert_eq!(containerd.run(["images", "ls", "-q"]), "docker.io/library/small:1\n");
        assert_eq!(
            containerd.run(["run", "--rm", "docker.io/library/small:1", "one", "/bin/echo", "hello"]),
            "hello\n"
        );
    }
}

#[test]
fn sshd_and_a_registry_answer_on_the_loopback() {
    for release in RELEASES {
        let machine = Machine::start(release);
        small_archive(&machine);
        let sshd = machine.sshd();
        assert_eq!(crate::support::peers::succeed(&mut sshd.ssh("echo hello")), "hello\n");
        let registry = machine.registry();
        machine.sh("umoci init --layout oci; umoci new --image oci:empty");
        let name = format!("docker://{}/empty:1", registry.address);
        machine.skopeo(["copy", "-q", "--dest-tls-verify=false", "oci:oci:empty", &name]);
        assert!(machine.skopeo(["inspect", "--tls-verify=false", &name]).contains("sha256:"));
    }
}

#[test]
fn sshd_can_be_reached_from_outside_its_machine() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    std::net::TcpStream::connect(("127.0.0.1", sshd.port)).unwrap();
}
