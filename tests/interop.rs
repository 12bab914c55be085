//! What other tools saved goes through ferry's store and is loaded by other tools: IDs, names, history, and it runs.

use std::process::Command;

use crate::support::ferry;
use crate::support::peers::{Machine, RELEASES};

/// ferry with a store in the machine's directory.
fn run(machine: &Machine, store: &str, arguments: &[&str]) -> String {
    let output = Command::new(ferry())
        .args(arguments)
        .env("FERRY_ROOT", machine.dir().join(store))
        .current_dir(machine.dir())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ferry {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

const NAMES: [&str; 3] = ["small:1", "ghcr.io/a/small:latest", "two:2"];

/// Two images made by docker: `small:1`, which is `ghcr.io/a/small` too, and `two:2` with a layer more; as `docker.tar`.
/// Their IDs and histories as docker tells them.
fn docker_images(machine: &Machine) -> (String, String) {
    machine.sh(
        "mkdir -p root/bin; cp /bin/busybox root/bin/; for a in sh echo cat touch; do ln root/bin/busybox root/bin/$a; done
        tar -C root -cf root.tar .",
    );
    let docker = machine.dockerd();
    docker.run(["import", "-c", "CMD [\"/bin/echo\", \"hello\"]", "root.tar", "small:1"]);
    docker.run(["tag", "small:1", "ghcr.io/a/small:latest"]);
    docker.run(["run", "--net=none", "--name", "made", "small:1", "/bin/touch", "/new"]);
    docker.run(["commit", "-m", "a message", "-c", "CMD [\"/bin/cat\", \"/new\"]", "made", "two:2"]);
    let told = tell(&|arguments| docker.run(arguments));
    docker.run([&["save", "-o", "docker.tar"][..], &NAMES].concat());
    told
}

/// IDs and histories, by docker's own words.
fn tell(docker: &dyn Fn(&[&str]) -> String) -> (String, String) {
    let ids = NAMES.map(|name| docker(&["inspect", "-f", "{{.Id}} {{json .RepoTags}} {{json .RootFS.Layers}}", name]));
    let format = "{{.CreatedBy}}|{{.Comment}}|{{.Size}}";
    let history = NAMES.map(|name| docker(&["history", "--no-trunc", "--format", format, name]));
    (ids.concat(), history.concat())
}

#[test]
fn what_docker_saved_docker_podman_skopeo_and_containerd_take_from_ferry() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let (ids, history) = docker_images(&machine);
        let loaded = run(&machine, "store", &["load", "-i", "docker.tar"]);
        for name in NAMES {
            assert!(loaded.contains(&format!("Loaded image: {name}\n")), "{loaded}");
        }
        // ferry says the same about them as docker did.
        let own = tell(&|arguments| run(&machine, "store", arguments));
        assert_eq!(own.1, history, "{release:?}");
        for (mine, docker) in own.0.lines().zip(ids.lines()) {
            assert_eq!(mine.split(' ').next(), docker.split(' ').next());
        }
        run(&machine, "store", &[&["save", "-o", "ferry.tar"][..], &NAMES].concat());
        run(&machine, "store", &["save", "-o", "single.tar", "small:1"]);

        let docker = machine.dockerd_on(&machine.dir().join("fresh"));
        let loaded = docker.run(["load", "-i", "ferry.tar"]);
        assert_eq!(loaded.lines().count(), 3, "{loaded}");
        assert_eq!(tell(&|arguments| docker.run(arguments)), (ids.clone(), history.clone()), "{release:?}");
        assert_eq!(docker.run(["run", "--rm", "--net=none", "small:1"]), "hello\n");
        docker.run(["run", "--rm", "--net=none", "two:2"]);
        drop(docker);

        let podman = machine.podman();
        podman.run(["load", "-q", "-i", "ferry.tar"]);
        let listed = podman.run(["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
        for (name, line) in
            ["docker.io/library/small:1", "ghcr.io/a/small:latest", "docker.io/library/two:2"].iter().zip(ids.lines())
        {
            let id = line.split(' ').next().unwrap();
            assert!(listed.contains(&format!("{name} {id}\n")), "{release:?}: {listed}");
        }
        assert_eq!(podman.run_container("docker.io/library/small:1", &["/bin/echo", "hi"]), "hi\n");

        assert!(machine.skopeo(["inspect", "--raw", "oci-archive:single.tar"]).contains("schemaVersion"));
        machine.skopeo(["copy", "-q", "docker-archive:ferry.tar:docker.io/library/two:2", "dir:copied"]);

        let containerd = machine.containerd();
        containerd.run(["images", "import", "ferry.tar"]);
        let names = containerd.run(["images", "ls", "-q"]);
        assert_eq!(names, "docker.io/library/small:1\ndocker.io/library/two:2\nghcr.io/a/small:latest\n");
        let ran = containerd.run(["run", "--rm", "docker.io/library/small:1", "one", "/bin/echo", "hello"]);
        assert_eq!(ran, "hello\n");
    }
}

#[test]
fn what_podman_skopeo_and_containerd_saved_ferry_loads_with_names_and_ids() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let (ids, _) = docker_images(&machine);
        let id = |at: usize| ids.lines().nth(at).unwrap().split(' ').next().unwrap().to_owned();
        let check = |store: &str, archive: &str, name: &str, expected: &str| {
            let loaded = run(&machine, store, &["load", "-i", archive]);
            assert!(loaded.contains(&format!("Loaded image: {name}\n")), "{release:?} {archive}: {loaded}");
            let found = run(&machine, store, &["inspect", "-f", "{{.Id}}", name]);
            assert_eq!(found.trim(), expected, "{release:?} {archive}");
            assert_eq!(run(&machine, store, &["fsck", "--contents"]), "");
        };
        let podman = machine.podman();
        podman.run(["load", "-q", "-i", "docker.tar"]);
        let names = podman.run(["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let full = names.lines().find(|name| name.ends_with("/two:2")).unwrap().to_owned();
        podman.run(["save", "-q", "--format", "docker-archive", "-o", "podman.tar", &full]);
        podman.run(["save", "-q", "--format", "oci-archive", "-o", "podman-oci.tar", &full]);
        let name = full.parse::<ferry::image::Reference>().unwrap().to_string();
        check("from-podman", "podman.tar", &name, &id(2));
        // podman writes another config when it writes OCI.
        assert!(run(&machine, "from-podman-oci", &["load", "-i", "podman-oci.tar"]).contains(&name));

        // Not from docker.tar: skopeo 1.9 fails on its layers with "write too long".
        machine.skopeo(["copy", "-q", &format!("docker-archive:podman.tar:{full}"), "docker-archive:skopeo.tar:two:2"]);
        check("from-skopeo", "skopeo.tar", "two:2", &id(2));
        machine.skopeo(["copy", "-q", "docker-archive:docker.tar:two:2", "oci:layout:two:2"]);
        assert_eq!(run(&machine, "from-layout", &["load", "-i", "layout"]), "Loaded image: two:2\n");

        let containerd = machine.containerd();
        containerd.run(["images", "import", "docker.tar"]);
        containerd.run(["images", "export", "ctr.tar", "docker.io/library/two:2", "docker.io/library/small:1"]);
        check("from-ctr", "ctr.tar", "two:2", &id(2));
        check("from-ctr", "ctr.tar", "small:1", &id(0));
    }
}
