//! Compressed layers made again: what docker pushed comes back bit for bit.

use std::fs;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;

use ferry::base::Ctx;
use ferry::bundle::Bundle;
use ferry::bundle::volume::{SetReader, VolumeSet};
use ferry::layer::replay::{detect, rebuild};

use crate::support::peers::{Machine, RELEASES};
use crate::support::{checkout, ferry};

#[test]
fn layers_that_docker_pushed_are_rebuilt_bit_for_bit() {
    for release in RELEASES {
        let m = Machine::start(release);
        let (docker, registry) = (m.dockerd(), m.registry());
        // Text, machine code, and what no compressor gets smaller; more than many windows of it.
        let tar = m.dir().join("in.tar");
        let mut made = Command::new("tar");
        made.arg("-cPf").arg(&tar).args(["/bin/bash", "-C"]).arg(checkout()).args(["src", "tests"]);
        assert!(made.status().unwrap().success());
        docker.run(["import", tar.to_str().unwrap(), "replay:1"]);
        let name = format!("{}/replay:1", registry.address);
        docker.run(["tag", "replay:1", &name]);
        docker.run(["push", &name]);
        let pulled = m.dir().join("pulled");
        m.skopeo(["copy", "--src-tls-verify=false", &format!("docker://{name}"), &format!("dir:{}", pulled.display())]);
        let mut blobs = fs::read_dir(&pulled).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let blob = blobs.find(|blob| blob.starts_with(&[0x1f, 0x8b])).unwrap();
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut plain).unwrap();
        let ctx = Ctx::silent();
        let recipe = detect(&mut &blob[..], &mut &plain[..], &ctx).unwrap().expect("docker's own compressor");
        let mut again = Vec::new();
        rebuild(recipe, &mut &plain[..], &mut again, &ctx).unwrap();
        assert!(again == blob);
    }
}

/// ferry in the machine's directory.
fn run(m: &Machine, arguments: &[&str]) {
    let output = Command::new(ferry()).args(arguments).current_dir(m.dir()).output().unwrap();
    assert!(output.status.success(), "ferry {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn manifests_of_docker_and_podman_come_out_of_a_bundle_with_the_digests_they_went_in_with() {
    for release in RELEASES {
        let m = Machine::start(release);
        let (docker, registry, podman) = (m.dockerd(), m.registry(), m.podman());
        let mut tar = Command::new("tar");
        tar.arg("-cPf").arg(m.dir().join("in.tar")).arg("-C").arg(checkout()).args(["src", "-C", "/", "bin/busybox"]);
        assert!(tar.status().unwrap().success());
        let name = |program: &str| format!("{}/{program}:1", registry.address);
        // An image of three layers: two are what is put into a container and committed.
        let make = |program: &str, d: &dyn Fn(&[&str])| {
            d(&["import", "in.tar", "made:1"]);
            for (from, part, to) in [("made:1", "docs", "made:2"), ("made:2", "tests", &*name(program))] {
                d(&["create", "--name", part, from, "true"]);
                d(&["cp", checkout().join(part).to_str().unwrap(), &format!("{part}:/{part}")]);
                d(&["commit", part, to]);
            }
        };
        make("docker", &|words| drop(docker.run(words)));
        docker.run(["push", &name("docker")]);
        make("podman", &|words| drop(podman.run(words)));
        podman.run(["push", "--tls-verify=false", &name("podman")]);
        for program in ["docker", "podman"] {
            let from = format!("docker://{}", name(program));
            m.skopeo(["copy", "--src-tls-verify=false", &from, &format!("oci:{program}:{}", name(program))]);
            run(&m, &["convert", program, &format!("{program}.ferry")]);
            run(&m, &["convert", "--output-format", "oci", &format!("{program}.ferry"), &format!("{program}.tar")]);
            m.sh(&format!("mkdir {program}.back; tar -C {program}.back -xf {program}.tar"));
            let digest = |layout: &str| {
                let index = fs::read(m.dir().join(layout).join("index.json")).unwrap();
                let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
                index["manifests"][0]["digest"].as_str().unwrap().to_owned()
            };
            assert_eq!(digest(&format!("{program}.back")), digest(program), "{release:?}, {program}");
            // And in the registry again it is the manifest of that digest.
            let back = format!("docker://{}-back", name(program));
            m.skopeo(["copy", "--dest-tls-verify=false", &format!("oci:{program}.back"), &back]);
            let told = m.skopeo(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &back]);
            assert_eq!(told.trim(), digest(program), "{release:?}, {program}");
            let bundle = VolumeSet::open(&[m.dir().join(format!("{program}.ferry"))]).unwrap();
            let bundle = Bundle::open(Arc::new(SetReader::new(bundle).unwrap()), program).unwrap();
            assert_eq!(bundle.index().layers.len(), 3, "{release:?}, {program}");
            let replayed = bundle.index().layers.iter().filter(|layer| layer.replay.is_some()).count();
            assert_eq!(replayed, bundle.index().layers.len(), "{release:?}, {program}");
        }
    }
}
