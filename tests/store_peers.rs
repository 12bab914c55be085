//! The store and Docker's own: each opens what the other has filled.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use ferry::base::{Ctx, Digest};
use ferry::image::{Form, ImageSource};
use ferry::store::{Depth, Options, Store, StoreError};

use crate::store::{Memory, entry, entry_with_mode, layer};
use crate::support::ferry;
use crate::support::peers::{Machine, RELEASES, succeed};

/// The layers of a docker-archive of either shape, by digest.
fn layers_in(machine: &Machine, archive: &str) -> BTreeMap<Digest, usize> {
    let dir = machine.dir().join("unpacked");
    fs::create_dir(&dir).unwrap();
    succeed(Command::new("tar").arg("-C").arg(&dir).arg("-xf").arg(machine.dir().join(archive)));
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let mut layers = BTreeMap::new();
    for image in manifest.as_array().unwrap() {
        for layer in image["Layers"].as_array().unwrap() {
            let bytes = fs::read(dir.join(layer.as_str().unwrap())).unwrap();
            layers.insert(Digest::of(&bytes), bytes.len());
        }
    }
    fs::remove_dir_all(&dir).unwrap();
    layers
}

/// A layer with a program in it.
fn programs(machine: &Machine) -> Vec<u8> {
    machine.sh("cp /bin/busybox busybox");
    let busybox = fs::read(machine.dir().join("busybox")).unwrap();
    let mut tar = entry(b'5', "bin/", "", b"");
    tar.extend(entry_with_mode(b'0', 0o755, "bin/busybox", "", &busybox));
    for applet in ["bin/sh", "bin/cat", "bin/ls"] {
        tar.extend(entry_with_mode(b'1', 0o755, applet, "bin/busybox", b""));
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn copy(from: &Path, to: &Path) {
    succeed(Command::new("cp").arg("-a").arg(from).arg(to));
}

#[test]
fn dockerd_lists_runs_and_saves_what_ferry_stored() {
    for release in RELEASES {
        let machine = Machine::start(release);
        let root = machine.dir().join("store");
        let store = Store::open_or_create(&root, Options::default()).unwrap();
        let mut memory = Memory::default();
        let base = programs(&machine);
        let top = layer(&[("etc/motd", "welcome aboard\n"), ("etc/empty", "")]);
        let one = memory.image(&["one:1", "host:5000/team/one:2"], std::slice::from_ref(&base), true);
        let two = memory.image(&["two:1"], &[base.clone(), top.clone(), base.clone()], false);
        memory.load(&store, |_| {}).unwrap();
        copy(&root, &machine.dir().join("copy"));

        let docker = machine.dockerd_on(&machine.dir().join("copy"));
        let listed = docker.run(["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
        for line in [format!("one:1 {one}"), format!("host:5000/team/one:2 {one}"), format!("two:1 {two}")] {
            assert!(listed.lines().any(|listed| listed == line), "{line} is not in:\n{listed}");
        }
        let digest = memory.images[0].manifest.as_ref().unwrap().digest();
        let pinned = format!("one@{digest}");
        assert_eq!(docker.run(["inspect", "-f", "{{.Id}}", &pinned]).trim(), one.to_string());
        assert_eq!(docker.run(["run", "--rm", "--net=none", "two:1", "/bin/cat", "/etc/motd"]), "welcome aboard\n");
        docker.run(["save", "-o", "saved.tar", "one:1", "two:1"]);
        let saved = layers_in(&machine, "saved.tar");
        let expected: BTreeMap<Digest, usize> =
            [&base, &top].into_iter().map(|tar| (Digest::of(tar), tar.len())).collect();
        assert_eq!(saved, expected);
        docker.run(["rmi", "one:1", "host:5000/team/one:2", "two:1"]);
        docker.stop();

        // What dockerd removed is gone for ferry too, and what it did not know of is swept up.
        let store = Store::open(machine.dir().join("copy"), Options::default()).unwrap();
        let ctx = Ctx::silent();
        assert_eq!(store.images(&ctx).unwrap().len(), 0);
        let findings = store.fsck(Depth::Contents, &ctx).unwrap();
        assert!(!findings.is_empty() && findings.iter().all(|finding| finding.repair.is_some()), "{findings:?}");
        store.repair(&findings, &ctx).unwrap();
        assert_eq!(store.fsck(Depth::Contents, &ctx).unwrap(), []);
    }
}

#[test]
fn ferry_reads_what_dockerd_stored_and_stays_away_while_it_runs() {
    for release in RELEASES {
        let machine = Machine::start(release);
        fs::write(machine.dir().join("base.tar"), programs(&machine)).unwrap();
        let docker = machine.dockerd();
        let root = docker.data_root.clone();
        docker.run(["import", "base.tar", "base:1"]);
        docker.run([
            "run",
            "--name=made",
            "--net=none",
            "base:1",
            "/bin/sh",
            "-c",
            "mkdir -p /data; echo changed >/data/file; ln -f /data/file /data/again; rm -f /bin/ls",
        ]);
        docker.run(["commit", "made", "base:2"]);
        docker.run(["save", "-o", "saved.tar", "base:2"]);
        let expected = layers_in(&machine, "saved.tar");
        let ctx = Ctx::silent();
        assert!(matches!(
            Store::open_or_create(&root, Options::default()),
            Err(StoreError::DaemonRuns { daemon: "dockerd", .. })
        ));
        let running = Store::open(&root, Options::default()).unwrap();
        assert!(matches!(running.remove("base:1", true, false, &[], &ctx), Err(StoreError::DaemonRuns { .. })));
        assert_eq!(running.images(&ctx).unwrap().len(), 2, "reading is harmless");
        let load = Command::new(ferry())
            .arg("--root")
            .arg(&root)
            .args(["load", "-i", "saved.tar"])
            .current_dir(machine.dir())
            .output();
        let load = load.unwrap();
        let error = String::from_utf8_lossy(&load.stderr).into_owned();
        assert!(error.contains("is in use by a running dockerd (it holds ") && error.lines().count() == 1, "{error}");
        assert_eq!(load.status.code(), Some(7));
        assert!(!root.join("ferry").exists());
        docker.stop();

        let store = Store::open(&root, Options::default()).unwrap();
        let image = store.resolve("base:2").unwrap();
        let source = store.source(&[image], &ctx).unwrap();
        let mut got = BTreeMap::new();
        for layer in &source.images()[0].layers {
            let mut bytes = Vec::new();
            source.open_layer(layer, Form::Tar).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(layer.size, Some(bytes.len() as u64));
            got.insert(Digest::of(&bytes), bytes.len());
        }
        assert_eq!(got, expected);
        assert_eq!(fs::read_dir(root.join("ferry/contents/sha256")).unwrap().count(), 2, "what was proven is noted");
        drop(source);
        assert!(matches!(store.remove("base:1", false, false, &[], &ctx), Err(StoreError::ReferenceInUse { .. })));
        assert_eq!(store.remove("base:2", false, false, &[], &ctx).unwrap().len(), 3);
        assert_eq!(store.fsck(Depth::Contents, &ctx).unwrap(), []);

        // And dockerd takes it back.
        let docker = machine.dockerd_on(&root);
        assert_eq!(docker.run(["images", "-q"]).lines().count(), store.images(&ctx).unwrap().len());
        docker.run(["start", "-a", "made"]);
        docker.stop();
    }
}

#[test]
fn stores_of_other_kinds_are_refused_with_the_way_out() {
    let machine = Machine::start(RELEASES[1]);
    let root = machine.dir().join("vfs");
    fs::create_dir_all(&root).unwrap();
    machine.sh("printf '{\"storage-driver\":\"vfs\"}' >vfs.json; printf '{\"features\":{\"containerd-snapshotter\":true}}' >c8d.json");
    let start = |config: &str, name: &str| {
        let script = format!(
            "dockerd --config-file {config} -H unix://$PWD/{name}.sock --bridge=none --iptables=false \
             --ip6tables=false --data-root $PWD/{name} --exec-root /run/{name} --pidfile /run/{name}.pid \
             >{name}.log 2>&1 & daemon=$!; export DOCKER_HOST=unix://$PWD/{name}.sock; \
             until docker info >/dev/null 2>&1; do kill -0 $daemon; done; \
             docker import busybox.tar t:1; kill $daemon; wait $daemon || true"
        );
        machine.sh(&script);
        machine.dir().join(name)
    };
    machine.sh("tar -C /bin -cf busybox.tar busybox");
    let error = Store::open(start("vfs.json", "vfs"), Options::default()).unwrap_err();
    assert!(matches!(&error, StoreError::Driver { driver, .. } if driver == "vfs"), "{error}");
    assert!(error.to_string().contains("docker save"), "{error}");
    let error = Store::open(start("c8d.json", "c8d"), Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::ContainerdStore(_)), "{error}");
    assert!(error.to_string().contains("docker save"), "{error}");
    let output = Command::new(ferry()).args(["--root", "c8d", "images"]).current_dir(machine.dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(10), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn dockerd_rebuilds_strange_layers_from_what_ferry_stored() {
    // Each prints a tar of what the script laid out in the directory `x`.
    let table = [
        (
            "every kind of file",
            "mknod x/c c 1 3; mknod x/b b 7 0; mkfifo x/p; ln -s nowhere x/l; echo a >x/a; ln x/a x/z; \
          chmod 4755 x/a; mkdir -m 1777 x/t; chown 3000000:4000000 x/a; tar -C x --format=pax -cf - .",
        ),
        (
            "whiteouts and opaque directories",
            "mkdir x/d; touch x/.wh.gone x/d/.wh..wh..opq x/d/.wh.also; echo n >x/d/new; \
          tar -C x -cf - .",
        ),
        (
            "the same path twice",
            "echo one >x/a; tar -C x -cf t.tar ./a; echo second >x/a; tar -C x -rf t.tar ./a; \
          ln x/a x/b; tar -C x -rf t.tar ./b ./a; cat t.tar",
        ),
        (
            "a file that becomes a directory",
            "echo one >x/a; tar -C x -cf t.tar ./a; rm x/a; mkdir x/a; echo in >x/a/f; \
          tar -C x -rf t.tar ./a; cat t.tar",
        ),
        (
            "sparse files of GNU tar",
            "truncate -s 1M x/s; printf end >>x/s; printf start | dd of=x/s conv=notrunc status=none; \
          tar -C x --sparse --format=gnu -cf - .",
        ),
        ("sparse files of PAX 1.0", "truncate -s 1M x/s; printf end >>x/s; tar -C x --sparse --format=pax -cf - ."),
        (
            "long names",
            "d=x/$(printf 'n%.0s' $(seq 120)); mkdir -p $d/$d/$d; echo a >$d/$d/$d/f; \
          tar -C x --format=gnu -cf - . ; rm -r $d",
        ),
        ("names that are not text", "echo a >\"x/$(printf '\\377\\200')\"; echo b >\"x/<&>\"; tar -C x -cf - ."),
        (
            "attributes and capabilities",
            "cp /bin/busybox x/b; setcap cap_net_raw+ep x/b; setfattr -n user.a -v v x/b; \
          tar -C x --xattrs --xattrs-include='*' --format=pax -cf - .",
        ),
        (
            "times before 1970 and with nanoseconds",
            "touch -d '1950-01-02 03:04:05.123456789' x/a; touch -d '2001-01-01 00:00:00.5' x/b; \
          tar -C x --format=pax -cf - .",
        ),
        ("bytes after the end", "echo a >x/a; tar -C x -cf - .; printf 'more bytes'; head -c 3000 /dev/zero"),
        (
            "absolute and dotted names",
            "mkdir x/d; echo a >x/d/a; tar -C x --transform 's,^./d/a,/d/../d/./a,' -Pcf - ./d/a",
        ),
        ("nothing at all", "tar -cf - -T /dev/null"),
    ];
    for release in RELEASES {
        let machine = Machine::start(release);
        let root = machine.dir().join("store");
        let store = Store::open_or_create(&root, Options::default()).unwrap();
        let mut memory = Memory::default();
        let mut expected: BTreeMap<Digest, &str> = BTreeMap::new();
        for (at, (what, script)) in table.iter().enumerate() {
            machine.sh(&format!("rm -rf x; mkdir x; {{ {script}; }} >strange.tar"));
            let tar = fs::read(machine.dir().join("strange.tar")).unwrap();
            expected.insert(Digest::of(&tar), what);
            memory.image(&[&format!("strange:{at}")], &[tar], false);
        }
        if let Err(error) = memory.load(&store, |_| {}) {
            panic!("{error}");
        }
        assert_eq!(store.fsck(Depth::Contents, &Ctx::silent()).unwrap(), []);
        let docker = machine.dockerd_on(&root);
        let names: Vec<String> = (0..table.len()).map(|at| format!("strange:{at}")).collect();
        let mut arguments = vec!["save", "-o", "saved.tar"];
        arguments.extend(names.iter().map(String::as_str));
        docker.run(arguments);
        let saved = layers_in(&machine, "saved.tar");
        for (digest, what) in &expected {
            assert!(saved.contains_key(digest), "dockerd rebuilds another tar of {what}");
        }
    }
}
