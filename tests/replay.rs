//! Compressed layers made again: what docker pushed comes back bit for bit.

use std::fs;
use std::io::Read;
use std::process::Command;

use ferry::base::Ctx;
use ferry::layer::replay::{detect, rebuild};

use crate::support::checkout;
use crate::support::peers::{Machine, RELEASES};

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
