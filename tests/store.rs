//! The store: what is brought in is there, whole and exact, whatever happens on the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;

use ferry::base::{BoxFault, Class, Ctx, Digest};
use ferry::image::manifest::media_type;
use ferry::image::{
    ChainId, Descriptor, DiffId, Form, Image, ImageConfig, ImageId, ImageSink, ImageSource, Layer, Manifest, Reference,
};
use ferry::store::{
    Conflict, ContainerUse, Depth, FindingKind, LoadOptions, LoadReport, Options, Origin, PruneOptions, Removed, Store,
    StoreError,
};

use crate::support::images;

/// A tar entry with a header as GNU tar writes it.
pub fn entry(kind: u8, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
    entry_with_mode(kind, if kind == b'5' { 0o755 } else { 0o644 }, path, link, data)
}

/// A tar entry with these permission bits.
pub fn entry_with_mode(kind: u8, mode: u32, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    header[136..148].copy_from_slice(b"14000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A layer of regular files.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = entry(b'5', "etc/", "", b"");
    for (path, text) in files {
        tar.extend(entry(b'0', path, "", text.as_bytes()));
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Images in memory.
#[derive(Default)]
pub struct Memory {
    pub images: Vec<Image>,
    tars: BTreeMap<DiffId, Vec<u8>>,
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// What was read.
    read: Mutex<Vec<DiffId>>,
}

impl Memory {
    /// An image of these layers; `compressed` with originals and a manifest, as from a registry.
    pub fn image(&mut self, names: &[&str], tars: &[Vec<u8>], compressed: bool) -> ImageId {
        let diff_ids: Vec<DiffId> = tars.iter().map(|tar| DiffId(Digest::of(tar))).collect();
        let text = serde_json::json!({
            "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| serde_json::json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        let config = ImageConfig::parse(serde_json::to_vec(&text).unwrap()).unwrap();
        let mut layers = Vec::new();
        for (tar, diff_id) in tars.iter().zip(diff_ids) {
            let original = compressed.then(|| {
                let blob = gzip(tar);
                let descriptor = Descriptor::of(media_type::OCI_LAYER_GZIP, &blob);
                self.blobs.insert(descriptor.digest, blob);
                descriptor
            });
            self.tars.insert(diff_id, tar.clone());
            layers.push(Layer { diff_id, size: Some(tar.len() as u64), original });
        }
        let manifest = compressed.then(|| {
            let originals = layers.iter().map(|layer| layer.original.clone().unwrap()).collect();
            Manifest::build(Descriptor::of(media_type::OCI_CONFIG, config.raw()), originals)
        });
        let id = config.id();
        let names = names.iter().map(|text| name(text)).collect();
        self.images.push(Image { names, config, manifest, layers });
        id
    }

    /// A layer's bytes.
    pub fn tar(&self, diff_id: &DiffId) -> &[u8] {
        &self.tars[diff_id]
    }

    pub fn load(&self, store: &Store, change: impl FnOnce(&mut LoadOptions)) -> Result<LoadReport, BoxFault> {
        let mut options = LoadOptions { threads: 2, ..LoadOptions::default() };
        change(&mut options);
        store.sink(options).take(self, &self.images, &Ctx::silent())
    }
}

impl ImageSource for Memory {
    fn origin(&self) -> String {
        "memory".into()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        self.read.lock().unwrap().push(layer.diff_id);
        let bytes = match (&layer.original, form) {
            (Some(original), Form::Original) => &self.blobs[&original.digest],
            _ => &self.tars[&layer.diff_id],
        };
        Ok(Box::new(bytes.as_slice()))
    }
}

/// A store in a directory of its own.
struct Place {
    store: Store,
    _dir: tempfile::TempDir,
}

fn place() -> Place {
    // Not below /tmp: overlay trees need a file system with trusted attributes and devices.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open_or_create(dir.path().join("store"), Options::default()).unwrap();
    Place { store, _dir: dir }
}

/// All paths below a directory with what they are: to see that nothing has changed. Locks are no content.
pub fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let what = if kind.is_dir() {
                todo.push(path.clone());
                "directory".into()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().to_string_lossy().into_owned()
            } else if kind.is_file() {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                "special".into()
            };
            found.insert(path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), what);
        }
    }
    found.retain(|path, _| !path.ends_with("lock"));
    found
}

pub fn clean(store: &Store) {
    let findings = store.fsck(Depth::Contents, &Ctx::silent()).unwrap();
    assert_eq!(findings.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
}

pub fn tar_of(store: &Store, id: &ImageId, at: usize) -> Vec<u8> {
    let source = store.source(&[store.image(id).unwrap()], &Ctx::silent()).unwrap();
    let layer = &source.images()[0].layers[at];
    let mut bytes = Vec::new();
    source.open_layer(layer, Form::Tar).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_is_loaded_is_listed_found_and_comes_back_bit_for_bit() {
    let place = place();
    let mut memory = Memory::default();
    let base = layer(&[("etc/a", "one"), ("etc/b", "")]);
    let top = layer(&[("etc/c", "three"), ("etc/d", "four")]);
    let one = memory.image(&["one:1", "one:also"], std::slice::from_ref(&base), false);
    let two = memory.image(&["two:1"], &[base.clone(), top.clone()], true);
    let report = memory.load(&place.store, |_| {}).unwrap();
    assert_eq!(report.committed.unwrap().images.len(), 2);
    let ctx = Ctx::silent();
    for text in ["one:1", "one:also", "docker.io/library/one:1", &one.to_string(), &one.0.hex(), &one.0.short()] {
        assert_eq!(place.store.resolve(text).unwrap().id(), one, "{text}");
    }
    let digest = memory.images[1].manifest.as_ref().unwrap().digest();
    for text in [format!("two@{digest}"), format!("two:1@{digest}")] {
        assert_eq!(place.store.resolve(&text).unwrap().id(), two, "{text}");
    }
    for text in ["three", "one", "one:2", "zz", &format!("one@{digest}"), &"0".repeat(64)] {
        assert!(matches!(place.store.resolve(text), Err(StoreError::NoImage(_))), "{text}");
    }
    let images = place.store.images(&ctx).unwrap();
    assert_eq!(images.len(), 2);
    let stored = images.iter().find(|image| image.id() == two).unwrap();
    assert_eq!((stored.size, stored.names.len()), (12, 2));
    assert_eq!(tar_of(&place.store, &one, 0), base);
    assert_eq!(tar_of(&place.store, &two, 1), top);
    clean(&place.store);

    let source = place.store.source(std::slice::from_ref(stored), &ctx).unwrap();
    let image = &source.images()[0];
    assert_eq!(image.manifest, memory.images[1].manifest);
    let original = image.layers[1].original.clone().unwrap();
    let mut blob = Vec::new();
    source.open_layer(&image.layers[1], Form::Original).unwrap().read_to_end(&mut blob).unwrap();
    assert_eq!(blob, memory.blobs[&original.digest]);
}

/// Runs ferry on the store `store` in `dir`: what it prints, and what it complains of.
fn ferry(dir: &Path, arguments: &[&str]) -> (String, String) {
    let mut command = std::process::Command::new(crate::support::ferry());
    let output = command.args(["--root", "store"]).args(arguments).current_dir(dir).output().unwrap();
    let (out, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "ferry {arguments:?}: {errors}");
    (out, errors)
}

/// An OCI layout in which one image has a manifest for each of its names, and the digests of these.
fn several_manifests(names: &[&'static str]) -> (Vec<u8>, Vec<Digest>) {
    let mut whole = images::Layout { blobs: vec![], entries: vec![], items: vec![] };
    let mut digests = Vec::new();
    for (at, name) in names.iter().enumerate() {
        // The time in its header makes another blob of the same layer.
        let pack = move |layer: &[u8]| {
            let header = flate2::GzBuilder::new().mtime(1 + at as u32);
            let mut encoder = header.write(Vec::new(), flate2::Compression::fast());
            encoder.write_all(layer).unwrap();
            (encoder.finish().unwrap(), "+gzip")
        };
        let image = images::TestImage::new("amd64", &[layer(&[("etc/a", "a")])], &[name]);
        let one = images::layout(&[image], &pack);
        digests.push(one.entries[0]["digest"].as_str().unwrap().parse().unwrap());
        whole.blobs.extend(one.blobs);
        whole.entries.extend(one.entries);
    }
    (whole.tar().finish(), digests)
}

/// The manifests in an archive, by name; every blob of each is read and proven.
fn manifests_in(path: &Path) -> BTreeMap<String, Digest> {
    let options = ferry::archive::OpenOptions { spool: path.parent().unwrap().into(), ..Default::default() };
    let source = ferry::archive::open(ferry::archive::Input::Path(path.into()), &options, &Ctx::silent()).unwrap();
    let mut found = BTreeMap::new();
    for image in source.images() {
        let manifest = image.manifest.as_ref().unwrap();
        for (layer, named) in image.layers.iter().zip(manifest.layers()) {
            let mut blob = Vec::new();
            source.open_layer(layer, Form::Original).unwrap().read_to_end(&mut blob).unwrap();
            assert_eq!(Digest::of(&blob), named.digest);
        }
        found.extend(image.names.iter().map(|name| (name.to_string(), manifest.digest())));
    }
    found
}

#[test]
fn each_name_of_an_image_goes_out_with_the_manifest_it_came_with() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |file: &str| dir.path().join(file);
    let run = |arguments: &[&str]| ferry(dir.path(), arguments).0;
    let (archive, digests) = several_manifests(&["single:2", "single:3", "single:4"]);
    fs::write(at("in.tar"), &archive).unwrap();
    let [two, three, four] = digests[..] else { panic!("three manifests") };
    let came = manifests_in(&at("in.tar"));
    assert_eq!(
        came,
        [("single:2", two), ("single:3", three), ("single:4", four)].map(|(n, d)| (n.to_owned(), d)).into()
    );
    run(&["load", "-i", "in.tar"]);
    for (name, digest) in &came {
        run(&["save", "--output-format", "oci", "-o", "one.tar", name]);
        assert_eq!(manifests_in(&at("one.tar")), [(name.clone(), *digest)].into());
    }
    run(&["tag", "single:4", "copy:1"]);
    let save = |names: &[&str]| {
        run(&[&["save", "--output-format", "oci", "-o", "out.tar"], names].concat());
        manifests_in(&at("out.tar"))
    };
    let mut expected = came.clone();
    expected.insert("copy:1".into(), four);
    assert_eq!(save(&["single", "copy"]), expected);

    let listed = run(&["images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]);
    for (name, digest) in &came {
        assert!(listed.lines().any(|line| line == format!("{name} {digest}")), "{listed}");
    }
    let document: serde_json::Value = serde_json::from_str(&run(&["inspect", "single:2"])).unwrap();
    let pins = document[0]["RepoDigests"].as_array().unwrap();
    assert!(digests.iter().all(|digest| pins.contains(&format!("single@{digest}").into())), "{pins:?}");

    // Without manifests it is one image with three tags.
    run(&["save", "--output-format", "docker", "-o", "docker.tar", "single"]);
    let listing = std::process::Command::new("tar").arg("-xOf").arg(at("docker.tar")).arg("manifest.json").output();
    let items: serde_json::Value = serde_json::from_slice(&listing.unwrap().stdout).unwrap();
    let [item] = &items.as_array().unwrap()[..] else { panic!("{items}") };
    assert_eq!(item["RepoTags"].as_array().unwrap().len(), 3, "{items}");

    // A name that is moved stands for what it was moved to; one that is taken away leaves nothing behind.
    run(&["tag", "single:2", "single:4"]);
    assert_eq!(save(&["single:4"])["single:4"], two);
    run(&["rmi", "single:3"]);
    let notes = fs::read_to_string(at("store/ferry/names.json")).unwrap();
    assert!(notes.contains("single:4") && !notes.contains("single:3"), "{notes}");
    run(&["load", "-i", "in.tar"]);
    assert_eq!(save(&["single"]), came);
    run(&["fsck", "--contents"]);

    // A store of a ferry that took no notes: one of the manifests goes out, and nothing is found to be wrong.
    fs::remove_file(at("store/ferry/names.json")).unwrap();
    assert!(save(&["single"]).values().all(|digest| digests.contains(digest)));
    run(&["fsck", "--contents"]);
}

#[test]
fn a_digest_in_a_name_is_believed_when_it_is_proven_and_stays_provable() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let write = |file: &str, bytes: &[u8]| fs::write(dir.path().join(file), bytes).unwrap();
    let run = |arguments: &[&str]| ferry(dir.path(), arguments);
    let (archive, digests) = several_manifests(&["single:2"]);
    let pin = format!("single@{}", digests[0]);
    let liar = images::TestImage::new("amd64", &[layer(&[("etc/a", "another")])], &[]);
    let mut lie = images::layout(&[liar], &|layer| (gzip(layer), "+gzip"));
    lie.entries[0]["annotations"] = serde_json::json!({"io.containerd.image.name": format!("docker.io/library/{pin}")});
    write("lie.tar", &lie.tar().finish());
    let (_, errors) = run(&["load", "-i", "lie.tar"]);
    assert!(errors.contains(&format!("the name {pin} is left out")), "{errors}");
    assert!(!run(&["images", "--digests"]).0.contains(&digests[0].to_string()));
    // The lie is in nobody's way.
    write("in.tar", &archive);
    run(&["load", "-i", "in.tar"]);
    let id = |name: &str| run(&["inspect", "--format", "{{.Id}}", name]).0;
    assert_eq!(id(&pin), id("single:2"));

    // An index goes with the name that is pinned to it, as often as that is passed on.
    let index = std::cell::Cell::new(None);
    let name = |digest: Digest| {
        index.set(Some(digest));
        format!("docker.io/library/multi@{digest}")
    };
    write("multi.tar", &crate::archive::multi_arch(&["amd64", "arm64", "s390x"], &name));
    run(&["load", "--platform", "arm64", "-i", "multi.tar"]);
    let pinned = format!("multi@{}", index.get().unwrap());
    let listed = run(&["images", "--digests", "--format", "{{.Repository}}@{{.Digest}}", "multi"]).0;
    assert!(listed.lines().any(|line| line == pinned), "{listed}");
    let before = id(&pinned);
    for again in ["second.tar", "third.tar"] {
        run(&["save", "--output-format", "oci", "-o", again, &pinned]);
        run(&["rmi", "-f", &before.trim()[..19]]);
        let (_, errors) = run(&["load", "-i", again]);
        assert_eq!((id(&pinned), errors.contains("left out")), (before.clone(), false), "{errors}");
    }
    run(&["fsck", "--contents"]);
    run(&["rmi", "-f", &before.trim()[..19]]);
    run(&["fsck", "--contents"]);
}

#[test]
fn a_layer_is_read_once_however_often_it_is_needed_and_not_at_all_when_it_is_there() {
    let place = place();
    let mut memory = Memory::default();
    let (a, b) = (layer(&[("etc/a", "a")]), layer(&[("etc/b", "b")]));
    let twice = memory.image(&["twice"], &[a.clone(), b.clone(), a.clone()], false);
    let other = memory.image(&["other"], &[b.clone(), a.clone()], false);
    let report = memory.load(&place.store, |_| {}).unwrap();
    assert_eq!(memory.read.lock().unwrap().len(), 2);
    assert_eq!(report.plan.layers.iter().filter(|layer| layer.from == Origin::Source).count(), 2);
    assert_eq!(report.committed.unwrap().layers.len(), 5);
    assert_eq!(tar_of(&place.store, &twice, 2), a);
    assert_eq!(tar_of(&place.store, &other, 0), b);
    memory.read.lock().unwrap().clear();
    let again = memory.load(&place.store, |_| {}).unwrap();
    assert!(memory.read.lock().unwrap().is_empty() && again.plan.layers.is_empty());

    let mut third = Memory::default();
    let c = layer(&[("etc/c", "c")]);
    third.image(&["third"], &[c, a], false);
    third.load(&place.store, |_| {}).unwrap();
    assert_eq!(third.read.lock().unwrap().len(), 1, "a layer on another base is taken from the store");
    clean(&place.store);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let place = place();
    let mut memory = Memory::default();
    let tar = layer(&[("etc/a", "a")]);
    memory.image(&["one"], std::slice::from_ref(&tar), false);
    let before = snapshot(place.store.root());
    let report = memory.load(&place.store, |options| options.dry_run = true).unwrap();
    assert!(report.committed.is_none());
    assert_eq!((report.plan.layers.len(), report.plan.bytes()), (1, tar.len() as u64));
    assert_eq!(report.plan.names[0].name, name("one:latest"));
    assert_eq!(snapshot(place.store.root()), before);
}

#[test]
fn input_that_is_not_what_it_says_leaves_the_store_as_it_was() {
    let good = layer(&[("etc/a", "a")]);
    let other = layer(&[("etc/b", "b")]);
    type Change = fn(&mut Memory);
    let table: [(&str, bool, Class, Change); 8] = [
        ("another layer", false, Class::Integrity, |m| *m.tars.values_mut().next().unwrap() = layer(&[("etc/x", "")])),
        ("a cut layer", false, Class::Malformed, |m| m.tars.values_mut().next().unwrap().truncate(700)),
        ("another blob", true, Class::Integrity, |m| {
            let blob = gzip(&layer(&[("etc/x", "")]));
            *m.blobs.values_mut().next().unwrap() = blob;
        }),
        ("a cut blob", true, Class::Integrity, |m| m.blobs.values_mut().next().unwrap().truncate(20)),
        ("a blob with more after it", true, Class::Integrity, |m| m.blobs.values_mut().next().unwrap().push(0)),
        ("a missing layer", false, Class::Malformed, |m| m.images[0].layers.truncate(1)),
        ("another image's manifest", true, Class::Malformed, |m| {
            m.images[0].manifest = Some(Manifest::build(Descriptor::of(media_type::OCI_CONFIG, b"{}"), vec![]));
        }),
        ("a name that could be an ID", false, Class::Usage, |m| m.images[0].names = vec![name("sha256:abc")]),
    ];
    for (what, compressed, class, change) in table {
        let place = place();
        let before = snapshot(place.store.root());
        let mut memory = Memory::default();
        memory.image(&["one"], &[good.clone(), other.clone()], compressed);
        change(&mut memory);
        let error = memory.load(&place.store, |_| {}).unwrap_err();
        assert_eq!(error.class(), class, "{what}: {error}");
        assert_eq!(snapshot(place.store.root()), before, "{what}");
    }
}

#[test]
fn a_name_that_another_image_has_is_treated_as_the_user_wants() {
    let (old, new) = (layer(&[("etc/a", "old")]), layer(&[("etc/a", "new")]));
    for (policy, expected) in [(Conflict::Replace, Some(true)), (Conflict::Keep, Some(false)), (Conflict::Fail, None)] {
        let place = place();
        let mut first = Memory::default();
        let old = first.image(&["app:1"], std::slice::from_ref(&old), false);
        first.load(&place.store, |_| {}).unwrap();
        let mut second = Memory::default();
        let new = second.image(&["app:1", "app:2"], std::slice::from_ref(&new), false);
        let before = snapshot(place.store.root());
        let result = second.load(&place.store, |options| options.on_conflict = policy);
        match expected {
            Some(replaced) => {
                let names = result.unwrap().committed.unwrap().names;
                assert_eq!((names[0].before, names[0].applied), (Some(old), replaced));
                assert_eq!(place.store.resolve("app:1").unwrap().id(), if replaced { new } else { old });
                assert_eq!(place.store.resolve("app:2").unwrap().id(), new);
                assert!(place.store.image(&old).is_ok(), "the other image stays");
            }
            None => {
                assert_eq!(result.unwrap_err().class(), Class::Conflict);
                assert_eq!(snapshot(place.store.root()), before);
            }
        }
    }
    let place = place();
    let mut both = Memory::default();
    both.image(&["app:1"], &[old], false);
    both.image(&["app:1"], &[new], false);
    let error = both.load(&place.store, |_| {}).unwrap_err();
    assert!(error.to_string().contains("is given to two images"), "{error}");
}

#[test]
fn loads_at_the_same_time_all_succeed() {
    let place = place();
    let base: Vec<(String, String)> = (0..200).map(|n| (format!("etc/{n}"), format!("content {n}"))).collect();
    let base: Vec<(&str, &str)> = base.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (base, root) = (&base, place.store.root());
            scope.spawn(move || {
                let mut memory = Memory::default();
                let own = format!("own {n}");
                memory.image(&[&format!("app:{n}")], &[layer(base), layer(&[("etc/own", &own)])], n % 2 == 0);
                let store = Store::open_or_create(root, Options::default()).unwrap();
                memory.load(&store, |_| {}).unwrap();
            });
        }
    });
    assert_eq!(place.store.images(&Ctx::silent()).unwrap().len(), 4);
    clean(&place.store);
}

#[test]
fn removal_follows_dockers_rules() {
    let ctx = Ctx::silent();
    let place = place();
    let store = &place.store;
    let mut memory = Memory::default();
    let (base, a, b) = (layer(&[("etc/base", "1")]), layer(&[("etc/a", "22")]), layer(&[("etc/b", "333")]));
    let one = memory.image(&["one:1", "one:2"], &[base.clone(), a.clone()], true);
    let two = memory.image(&["two:1", "other:1"], &[base.clone(), b.clone()], false);
    memory.load(store, |_| {}).unwrap();
    let digest = memory.images[0].manifest.as_ref().unwrap().digest();
    let remove = |text: &str, force| store.remove(text, force, false, &[], &ctx);
    let untagged = |text: &str| Removed::Untagged(name(text));

    assert!(matches!(remove("three", false), Err(StoreError::NoImage(_))));
    assert_eq!(remove("one:2", false).unwrap(), [untagged("one:2")]);
    let user = |running| [ContainerUse { container: "c".repeat(64), image: one, running }];
    assert!(matches!(store.remove("one:1", false, false, &user(false), &ctx), Err(StoreError::ReferenceInUse { .. })));
    assert!(matches!(
        store.remove(&one.0.short(), true, false, &user(true), &ctx),
        Err(StoreError::InUse { forcible: false, .. })
    ));
    let chain = ChainId::chain(memory.images[0].config.diff_ids().iter().copied());
    assert_eq!(
        remove("one:1", false).unwrap(),
        [untagged("one:1"), untagged(&format!("one@{digest}")), Removed::Image(one), Removed::Layer(chain[1])]
    );
    assert!(matches!(remove(&two.0.short(), false), Err(StoreError::InUse { forcible: true, .. })));
    let removed = remove(&two.0.short(), true).unwrap();
    assert_eq!(removed[..3], [untagged("other:1"), untagged("two:1"), Removed::Image(two)]);
    assert_eq!(removed.len(), 5);
    assert_eq!(store.images(&ctx).unwrap().len(), 0);
    for empty in ["overlay2/l", "image/overlay2/layerdb/sha256", "ferry/blobs/sha256", "ferry/contents/sha256"] {
        assert_eq!(fs::read_dir(store.root().join(empty)).unwrap().count(), 0, "{empty}");
    }
    clean(store);
}

#[test]
fn a_containers_writable_layer_is_dockers_and_keeps_the_layers_below_it() {
    let ctx = Ctx::silent();
    let place = place();
    let store = &place.store;
    let mut memory = Memory::default();
    let id = memory.image(&["one"], &[layer(&[("etc/a", "a")]), layer(&[("etc/b", "b")])], false);
    memory.load(store, |_| {}).unwrap();
    let container = "ab".repeat(32);
    let rw = store.create_rw_layer(&container, &id, &ctx).unwrap();
    assert_eq!(rw, store.rw_layer(&container).unwrap());
    assert!(matches!(store.create_rw_layer(&container, &id, &ctx), Err(StoreError::ContainerExists(_))));
    let lowers: Vec<_> = rw.lower_option.split(':').map(|l| fs::canonicalize(rw.base.join(l)).unwrap()).collect();
    let mut expected = vec![rw.init.clone().unwrap().upper];
    expected.extend(store.lower_dirs(&id).unwrap());
    assert_eq!(lowers, expected);
    for dir in [&rw.upper, &rw.work] {
        assert!(dir.is_dir());
    }
    assert!(matches!(store.remove("one", false, false, &[], &ctx), Err(StoreError::ReferenceInUse { .. })));
    let all = PruneOptions { all: true, filter: &|_| true, containers: &[], dry_run: false };
    assert_eq!(store.prune(&all, &ctx).unwrap().removed, []);
    assert_eq!(store.remove("one", true, false, &[], &ctx).unwrap().len(), 2, "no layer goes");
    assert!(lowers.iter().all(|dir| dir.is_dir()));
    store.remove_rw_layer(&container, &ctx).unwrap();
    store.remove_rw_layer(&container, &ctx).unwrap();
    let options = PruneOptions { all: false, filter: &|_| true, containers: &[], dry_run: false };
    assert_eq!(store.prune(&options, &ctx).unwrap().reclaimed, 2);
    clean(store);
    for bad in ["", "../x", "a/b", ".hidden"] {
        assert!(store.create_rw_layer(bad, &id, &ctx).is_err(), "{bad}");
    }
}

#[test]
fn prune_takes_what_nothing_uses_and_df_says_how_much_that_is() {
    let ctx = Ctx::silent();
    let place = place();
    let store = &place.store;
    let mut memory = Memory::default();
    let base = layer(&[("etc/base", "12345")]);
    let named = memory.image(&["named"], std::slice::from_ref(&base), false);
    let nameless = memory.image(&[], &[base.clone(), layer(&[("etc/a", "123")])], true);
    memory.load(store, |_| {}).unwrap();
    let usage = store.usage(&ctx).unwrap();
    let of = |id| usage.images.iter().find(|u| u.image.id() == id).map(|u| (u.shared, u.unique)).unwrap();
    assert_eq!((of(named), of(nameless)), ((5, 0), (5, 3)));
    assert_eq!((usage.layers.count, usage.layers.bytes, usage.originals.count), (2, 8, 2));
    let prune = |all, dry_run| {
        let options = PruneOptions { all, filter: &|_| true, containers: &[], dry_run };
        store.prune(&options, &ctx).unwrap()
    };
    assert_eq!(prune(false, true).candidates.len(), 1);
    assert_eq!(store.images(&ctx).unwrap().len(), 2);
    assert_eq!(prune(false, false).removed[0], Removed::Image(nameless));
    assert_eq!(store.images(&ctx).unwrap().len(), 1);
    assert_eq!(prune(true, false).removed.len(), 3);
    assert_eq!(store.usage(&ctx).unwrap().layers.count, 0);
    clean(store);
}

#[test]
fn fsck_names_every_damage_and_repairs_what_loses_nothing() {
    type Damage = fn(&Path, &Store, ImageId);
    fn cache_dir(store: &Store, id: ImageId, at: usize) -> std::path::PathBuf {
        store.lower_dirs(&id).unwrap()[at].parent().unwrap().to_owned()
    }
    fn layers(root: &Path) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(root.join("image/overlay2/layerdb/sha256")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
    fn any(dir: std::path::PathBuf) -> std::path::PathBuf {
        fs::read_dir(dir).unwrap().next().unwrap().unwrap().path()
    }
    // What is done, what is found, whether repair makes it good.
    let table: [(Damage, &[FindingKind], bool); 26] = [
        (|root, _, _| fs::write(root.join("ferry/names.json"), "{").unwrap(), &[FindingKind::NameNotesDamaged], true),
        (
            |root, _, _| fs::remove_file(any(any(root.join("ferry/manifests/sha256")))).unwrap(),
            &[FindingKind::NameManifestMissing],
            true,
        ),
        (
            |_, store, id| fs::write(store.layout().image_index(&id, &Digest::of(b"index")), "x").unwrap(),
            &[FindingKind::ManifestDamaged],
            true,
        ),
        (
            |root, _, _| fs::write(root.join("image/overlay2/repositories.json"), "{").unwrap(),
            &[FindingKind::NamesUnreadable],
            false,
        ),
        (
            |root, _, id| {
                let text = format!(r#"{{"Repositories":{{"a":{{"A:":"{id}"}}}}}}"#);
                fs::write(root.join("image/overlay2/repositories.json"), text).unwrap();
            },
            &[FindingKind::NameMalformed],
            true,
        ),
        (
            |root, _, _| {
                let text = format!(r#"{{"Repositories":{{"a":{{"a:1":"sha256:{}"}}}}}}"#, "0".repeat(64));
                fs::write(root.join("image/overlay2/repositories.json"), text).unwrap();
            },
            &[FindingKind::NameDangling],
            true,
        ),
        (|_, store, id| fs::write(store.layout().config(&id), "{}").unwrap(), &[FindingKind::ConfigDamaged], false),
        (
            |root, _, _| fs::remove_file(layers(root)[0].join("size")).unwrap(),
            &[FindingKind::LayerMetadataDamaged],
            false,
        ),
        (
            |root, _, _| {
                let diff = layers(root)[0].join("diff");
                fs::write(diff, format!("sha256:{}", "0".repeat(64))).unwrap();
            },
            &[FindingKind::LayerChainWrong, FindingKind::OriginalsUnused, FindingKind::BlobUnused],
            false,
        ),
        (
            |root, _, _| fs::remove_file(layers(root)[0].join("tar-split.json.gz")).unwrap(),
            &[FindingKind::LayerTarSplitMissing],
            false,
        ),
        (
            |_, store, id| fs::remove_dir_all(cache_dir(store, id, 0).join("diff")).unwrap(),
            &[FindingKind::LayerTreeMissing, FindingKind::LinkDangling],
            false,
        ),
        (
            |_, store, id| fs::remove_file(cache_dir(store, id, 1).join("link")).unwrap(),
            &[FindingKind::LayerLinkDamaged],
            true,
        ),
        (|root, _, _| fs::remove_file(any(root.join("overlay2/l"))).unwrap(), &[FindingKind::LinkMissing], true),
        (
            |root, _, _| std::os::unix::fs::symlink("../x/diff", root.join("overlay2/l/ABC")).unwrap(),
            &[FindingKind::LinkDangling],
            true,
        ),
        (
            |_, store, id| fs::write(cache_dir(store, id, 0).join("lower"), "l/X").unwrap(),
            &[FindingKind::LowerWrong],
            true,
        ),
        (
            |root, _, _| {
                let dir = root.join("image/overlay2/layerdb/sha256").join(format!("{}-1-removing", "0".repeat(64)));
                fs::create_dir(dir).unwrap();
            },
            &[FindingKind::LayerHalfRemoved],
            true,
        ),
        (
            |root, _, _| fs::create_dir_all(root.join("overlay2").join("e".repeat(64)).join("diff")).unwrap(),
            &[FindingKind::TreeUnused],
            true,
        ),
        (
            |root, _, _| fs::create_dir_all(root.join("image/overlay2/layerdb/tmp/write-set-1")).unwrap(),
            &[FindingKind::LayerTemporary],
            true,
        ),
        (
            |root, _, _| fs::create_dir_all(root.join("ferry/staging/1/overlay2/x")).unwrap(),
            &[FindingKind::StagingAbandoned],
            true,
        ),
        (
            |root, _, _| {
                fs::create_dir(root.join("ferry/staging/1")).unwrap();
                fs::write(root.join("ferry/staging/1/journal.json"), "{\"layers\"").unwrap();
            },
            &[FindingKind::StagingDamaged],
            true,
        ),
        (
            |root, _, _| fs::create_dir_all(root.join("image/overlay2/layerdb/mounts/c")).unwrap(),
            &[FindingKind::ContainerLayerDamaged],
            false,
        ),
        (|root, _, _| fs::write(any(root.join("ferry/blobs/sha256")), "x").unwrap(), &[FindingKind::BlobDamaged], true),
        (
            |root, _, _| fs::write(root.join("ferry/blobs/sha256").join("f".repeat(64)), "x").unwrap(),
            &[FindingKind::BlobUnused],
            true,
        ),
        (
            |root, _, _| fs::write(any(any(root.join("ferry/manifests/sha256"))), "{}").unwrap(),
            &[FindingKind::ManifestDamaged],
            true,
        ),
        (
            |root, _, _| fs::write(any(root.join("ferry/contents/sha256")), "x").unwrap(),
            &[FindingKind::ContentsDamaged],
            true,
        ),
        (
            |_, store, id| fs::write(cache_dir(store, id, 0).join("diff/etc/b"), "X").unwrap(),
            &[FindingKind::LayerAltered],
            false,
        ),
    ];
    let ctx = Ctx::silent();
    for (damage, expected, repaired) in table {
        let place = place();
        let mut memory = Memory::default();
        let id = memory.image(&["one"], &[layer(&[("etc/a", "a")]), layer(&[("etc/b", "b")])], true);
        memory.load(&place.store, |_| {}).unwrap();
        damage(place.store.root(), &place.store, id);
        // However damaged it is, it can be opened, or nobody could look.
        let store = Store::open(place.store.root(), place.store.options()).unwrap();
        let findings = store.fsck(Depth::Contents, &ctx).unwrap();
        let kinds: Vec<FindingKind> = findings.iter().map(|finding| finding.kind).collect();
        assert!(expected.iter().all(|kind| kinds.contains(kind)), "{expected:?}: {findings:?}");
        assert_eq!(findings.iter().all(|finding| finding.repair.is_some()), repaired, "{findings:?}");
        let failed = place.store.repair(&findings, &ctx).unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        if repaired {
            clean(&place.store);
        }
    }
}

#[test]
fn the_documentation_lists_every_finding_of_fsck() {
    let page = fs::read_to_string(crate::support::checkout().join("docs/format/store.md")).unwrap();
    for kind in FindingKind::ALL {
        let row = format!("| `{}` | {} |", kind.slug(), kind.meaning().trim());
        assert!(page.contains(&row), "docs/format/store.md lacks: {row}");
    }
}

#[test]
fn a_load_that_died_is_undone_or_finished_by_the_next() {
    use ferry::store::Transaction;
    let ctx = Ctx::silent();
    let place = place();
    let mut memory = Memory::default();
    memory.image(&["one"], &[layer(&[("etc/a", "a")])], false);
    // A transaction that is forgotten keeps its directory but not, once its lock is closed, its owner.
    let transaction: Transaction<'_> = place.store.begin(&ctx).unwrap();
    let tar = layer(&[("etc/a", "a")]);
    transaction.add_layer(None, None, &mut tar.as_slice(), &ctx).unwrap();
    let staging = place.store.root().join("ferry/staging");
    let dir = fs::read_dir(&staging).unwrap().next().unwrap().unwrap().path();
    let copy = staging.join("copy");
    let mut copier = std::process::Command::new("cp");
    assert!(copier.arg("-a").arg(&dir).arg(&copy).status().unwrap().success());
    assert!(place.store.fsck(Depth::Metadata, &ctx).unwrap().iter().all(|f| f.kind == FindingKind::StagingAbandoned));
    memory.load(&place.store, |_| {}).unwrap();
    assert!(dir.exists() && !copy.exists(), "the living keep theirs, the dead do not");
    drop(transaction);
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
    clean(&place.store);
}
