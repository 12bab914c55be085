//! `inspect` against docker's: what a script may ask for is there.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::containers::Host;
use crate::support::ferry;
use crate::support::peers::{Machine, Release};

/// All paths of keys in a document.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn every_key_of_dockers_inspect_is_in_ours() {
    let host = Host::new();
    let machine = Machine::start(Release::Debian13);
    let docker = machine.dockerd();
    let programs = [
        format!("docker -H {}", docker.host),
        format!("{} --root {}", ferry().display(), machine.dir().join("store").display()),
    ];
    let [theirs, ours] = programs.map(|d| {
        let script = format!(
            "d() {{ {d} \"$@\"; }}; busybox ip link set lo up
             d import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin' {} i >/dev/null; d network create net >/dev/null
             d create --name one i sleep 1000 >/dev/null
             d run -d --name two --network net -p 127.0.0.1:8123:80 -v /tmp:/host -v kept:/kept --tmpfs /scratch \
                 --health-cmd true --health-interval 100ms --device /dev/null --ulimit nofile=100 --restart on-failure:3 \
                 i sleep 1000 >/dev/null
             until [ \"$(d inspect -f '{{{{.State.Health.Status}}}}' two)\" = healthy ]; do :; done
             d inspect one two; d rm -f one two >/dev/null; d network rm net >/dev/null; d volume rm kept >/dev/null",
            host.path("image.tar").display()
        );
        let output = machine.command("bash").args(["-c", &script]).output().unwrap();
        let document: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let mut found = BTreeSet::new();
        keys(&document, "", &mut found);
        found
    });
    let missing: Vec<_> = theirs.difference(&ours).collect();
    assert!(missing.is_empty(), "docker's inspect has, and ours has not: {missing:#?}");
}
