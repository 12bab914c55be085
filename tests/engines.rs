//! docker, podman and containerd as the far side: a second release comes as the difference, and full layers are rebuilt
//! there from what the engine has.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ferry::transfer::remote::quote;
use serde_json::Value;

use crate::support::ferry;
use crate::support::peers::{Machine, RELEASES, Release};
use crate::support::site::Site;

/// `COMMAND HOST LINE` for a host that is this machine, with something in its environment and shims before its programs.
fn host(machine: &Machine, environment: &[(&str, &str)]) -> String {
    let mut command = machine.command("env");
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", machine.dir().join("shims").display());
    let cache = format!("XDG_CACHE_HOME={}", machine.dir().join("a 'cache'").display());
    command.args([path, cache]);
    command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
    command.args(["sh", "-c", "eval \"$1\""]);
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

fn shim(machine: &Machine, name: &str, script: &str) {
    let path = machine.dir().join("shims").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Sends a release to an engine; gives what the sender says about it.
fn send(near: &Site, machine: &Machine, ssh: &str, to: &str, image: &str) -> Value {
    let (root, binary) = (machine.dir().join("far root"), ferry());
    let words = ["send", "--json", "--to", to, "--ssh", ssh, "--remote-root", root.to_str().unwrap()];
    let out = near.command(&words).args(["--ferry-binary", binary.to_str().unwrap(), image, "far"]).output().unwrap();
    assert!(out.status.success(), "{to}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The ID of an image of a site.
fn id(near: &Site, image: &str) -> String {
    near.run(&["images", "--no-trunc", "-q", image]).trim().to_owned()
}

#[test]
fn docker_gets_the_difference_and_the_images_have_their_ids() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let docker = machine.dockerd();
        let near = Site::new(&machine, "near");
        (1..=3).for_each(|number| near.release(&machine, number));
        let ssh = host(&machine, &[("DOCKER_HOST", &docker.host)]);
        let first = send(&near, &machine, &ssh, "docker", "app:v1");
        assert!(first["wire"].as_u64().unwrap() > 500_000, "{first}");
        // One small file in a layer of its own making differs.
        let second = send(&near, &machine, &ssh, "auto", "app:v2");
        assert_eq!(second["to"], "docker", "{second}");
        assert!(second["wire"].as_u64().unwrap() < 20_000, "{release:?}: {second}");
        let again = send(&near, &machine, &ssh, "docker", "app:v2");
        assert!(again["wire"].as_u64().unwrap() < 4_000, "{release:?}: {again}");
        for image in ["app:v1", "app:v2"] {
            assert_eq!(docker.run(["image", "inspect", "--format", "{{.Id}}", image]).trim(), id(&near, image));
        }
        // Where its files cannot be read, whole layers are left out or sent.
        shim(
            &machine,
            "docker",
            "case \"$1\" in info) printf 'overlay2\\n/none\\n' ;; *) exec /usr/bin/docker \"$@\" ;; esac",
        );
        near.child(&machine, "app:v2", "child:v2");
        let blind = send(&near, &machine, &ssh, "docker", "child:v2");
        assert!(blind["wire"].as_u64().unwrap() < 20_000, "{release:?}: {blind}");
        let blind = send(&near, &machine, &ssh, "docker", "app:v3");
        assert!(blind["wire"].as_u64().unwrap() > 500_000, "{release:?}: {blind}");
        for image in ["child:v2", "app:v3"] {
            assert_eq!(docker.run(["image", "inspect", "--format", "{{.Id}}", image]).trim(), id(&near, image));
        }
    }
}

#[test]
fn podman_gets_the_difference_and_rebuilds_full_layers_from_its_own_store() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let podman = machine.podman();
        let near = Site::new(&machine, "near");
        (1..=2).for_each(|number| near.release(&machine, number));
        let real = podman.command(["\"$@\""]);
        let words: Vec<String> = real.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let at = words.iter().position(|word| word == "podman").unwrap();
        let options = words[at + 1..words.len() - 1].join(" ");
        shim(&machine, "podman", &format!("exec /usr/bin/podman {options} \"$@\""));
        let ssh = host(&machine, &[]);
        let first = send(&near, &machine, &ssh, "podman", "app:v1");
        assert!(first["wire"].as_u64().unwrap() > 500_000, "{first}");
        let second = send(&near, &machine, &ssh, "auto", "app:v2");
        assert_eq!(second["to"], "podman", "{second}");
        assert!(second["wire"].as_u64().unwrap() < 20_000, "{release:?}: {second}");
        for image in ["app:v1", "app:v2"] {
            let theirs = podman.run(["image", "inspect", "--format", "{{.Id}}", image]);
            assert_eq!(format!("sha256:{}", theirs.trim()), id(&near, image));
        }
        // Whoever has images in ferry's own store goes on there.
        assert_eq!(send(&near, &machine, &ssh, "ferry", "app:v1")["to"], "ferry");
        assert_eq!(send(&near, &machine, &ssh, "auto", "app:v2")["to"], "ferry");
    }
}

#[test]
fn containerd_gets_the_difference_and_rebuilds_full_layers_from_its_content_store() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let containerd = machine.containerd();
        let near = Site::new(&machine, "near");
        (1..=2).for_each(|number| near.release(&machine, number));
        let ssh = host(&machine, &[("CONTAINERD_ADDRESS", "/run/ctr.sock")]);
        let first = send(&near, &machine, &ssh, "containerd", "app:v1");
        assert!(first["wire"].as_u64().unwrap() > 500_000, "{first}");
        let second = send(&near, &machine, &ssh, "containerd", "app:v2");
        assert!(second["wire"].as_u64().unwrap() < 20_000, "{release:?}: {second}");
        // A layer that it has is named, and not given again.
        near.child(&machine, "app:v2", "child:v2");
        let third = send(&near, &machine, &ssh, "containerd", "child:v2");
        assert!(third["wire"].as_u64().unwrap() < 20_000, "{release:?}: {third}");
        for image in ["app:v1", "app:v2", "child:v2"] {
            let name = format!("docker.io/library/{image}");
            let listed = containerd.run(["images", "ls", "-q"]);
            assert!(listed.lines().any(|line| line == name), "{listed}");
            let config = id(&near, image);
            assert!(containerd.run(["content", "ls", "-q"]).contains(&config), "{image}");
            assert!(
                containerd.run(["images", "check"]).lines().any(|l| l.starts_with(&name) && l.contains("complete"))
            );
        }
    }
}

#[test]
fn k3s_gets_the_difference_where_its_own_containerd_keeps_its_images() {
    for (release, shimmed) in RELEASES.into_iter().zip([true, false]) {
        let machine = Machine::start(release);
        let address = "/run/k3s/containerd/containerd.sock";
        let containerd = machine.containerd_at(address, "k8s.io");
        if shimmed {
            // As k3s's one binary has it: a ctr that knows both.
            shim(&machine, "k3s", &format!("shift; exec /usr/bin/ctr -a {address} -n k8s.io \"$@\""));
        }
        let near = Site::new(&machine, "near");
        (1..=2).for_each(|number| near.release(&machine, number));
        let ssh = host(&machine, &[]);
        let first = send(&near, &machine, &ssh, "k3s", "app:v1");
        assert!(first["wire"].as_u64().unwrap() > 500_000, "{first}");
        let second = send(&near, &machine, &ssh, "k3s", "app:v2");
        assert!(second["wire"].as_u64().unwrap() < 20_000, "{release:?}: {second}");
        for image in ["app:v1", "app:v2"] {
            let name = format!("docker.io/library/{image}");
            let complete = |line: &str| line.starts_with(&name) && line.contains("complete");
            assert!(containerd.run(["images", "check"]).lines().any(complete), "{release:?}: {image}");
            assert!(containerd.run(["content", "ls", "-q"]).contains(&id(&near, image)), "{image}");
        }
    }
}

#[test]
fn podman_of_an_ordinary_user_gets_the_difference_too() {
    for release in RELEASES {
        let machine = Machine::start(release);
        fs::set_permissions(machine.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = machine.dir().display();
        machine.sh(&format!(
            "useradd -m op; echo op:200000:65536 >/etc/subuid; cp /etc/subuid /etc/subgid
            install -d -o op /run/user/op op op/config op/config/containers op/cache
            printf '[storage]\ndriver = \"overlay\"\nrunroot = \"/run/user/op/run\"\\ngraphroot = \"{dir}/op/storage\"\n' \
                >op/config/containers/storage.conf"
        ));
        let mut command = machine.command("runuser");
        command.args(["-u", "op", "--", "env", "HOME=/home/op", "XDG_RUNTIME_DIR=/run/user/op"]);
        command.args([format!("XDG_CONFIG_HOME={dir}/op/config"), format!("XDG_CACHE_HOME={dir}/op/cache")]);
        let mut words = vec![command.get_program().to_string_lossy().into_owned()];
        words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
        let as_op = |line: &str| {
            let mut command = std::process::Command::new(&words[0]);
            crate::support::peers::succeed(command.args(&words[1..]).args(["sh", "-c", line]))
        };
        let ssh = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ") + " sh -c 'eval \"$1\"'";
        let near = Site::new(&machine, "near");
        (1..=2).for_each(|number| near.release(&machine, number));
        let send = |to: &str, image: &str| {
            let mut command = near.command(&["send", "--json", "--to", to, "--ssh", &ssh]);
            let out = command.args(["--ferry-binary", ferry().to_str().unwrap(), image, "far"]).output().unwrap();
            assert!(out.status.success(), "{release:?}: {}", String::from_utf8_lossy(&out.stderr));
            let told: Value = serde_json::from_slice(&out.stdout).unwrap();
            assert_eq!(told["to"], "podman", "{release:?}: {told}");
            told["wire"].as_u64().unwrap()
        };
        // docker and containerd have clients there and no daemon.
        assert!(send("auto", "app:v1") > 500_000);
        let second = send("podman", "app:v2");
        assert!(second < 20_000, "{release:?}: {second}");
        for image in ["app:v1", "app:v2"] {
            let theirs = as_op(&format!("podman image inspect --format '{{{{.Id}}}}' {image}"));
            assert_eq!(format!("sha256:{}", theirs.trim()), id(&near, image));
        }
        // Containers can be made of them, owners and all.
        assert!(as_op("podman create --net none app:v2 /x").trim().len() == 64);
    }
}

#[test]
fn a_directory_gets_archives_that_are_whole_and_the_line_only_what_changed() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    (1..=2).for_each(|number| near.release(&machine, number));
    let folder = machine.dir().join("it's \"here\"");
    let (ssh, to) = (host(&machine, &[]), format!("dir:{}", folder.display()));
    let first = send(&near, &machine, &ssh, &to, "app:v1");
    assert!(first["wire"].as_u64().unwrap() > 500_000, "{first}");
    let second = send(&near, &machine, &ssh, &to, "app:v2");
    assert!(second["wire"].as_u64().unwrap() < 20_000, "{second}");
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["app_v1.tar", "app_v2.tar"]);
    let third = Site::new(&machine, "third");
    for name in names {
        third.run(&["load", "-i", folder.join(name).to_str().unwrap()]);
    }
    assert_eq!(third.images(), near.images());
    // An engine that is not there is one error.
    let root = machine.dir().join("far root");
    shim(&machine, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    let words = ["send", "--to", "docker", "--ssh", &ssh, "--remote-root", root.to_str().unwrap()];
    let mut command = near.command(&words);
    let out = command.args(["--ferry-binary", ferry().to_str().unwrap(), "app:v2", "far"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("Cannot connect to the Docker daemon"), "{said}");
}
