//! Small images, made here, in every shape of archive that there is.

use std::io::Write;

use ferry::base::Digest;
use serde_json::{Value, json};

/// A tar under construction.
#[derive(Default, Clone)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(path, b'0', "", bytes)
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, b'2', target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, b'1', target, b"")
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(path, b'5', "", b"")
    }

    /// One entry; a name over 100 bytes gets a GNU long name before it.
    pub fn entry(mut self, path: &str, kind: u8, target: &str, bytes: &[u8]) -> Self {
        if path.len() > 100 {
            let long = [path.as_bytes(), b"\0"].concat();
            self = self.entry("././@LongLink", b'L', "", &long);
        }
        let mut block = [0; 512];
        let name = &path.as_bytes()[..path.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, if kind == b'5' { "0000755" } else { "0000644" });
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", bytes.len()));
        put(136, "14500000000");
        put(148, "        ");
        put(157, target);
        put(257, "ustar");
        put(263, "00");
        block[156] = kind;
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An image: its config and its layers' tars.
#[derive(Clone)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub names: Vec<&'static str>,
}

impl TestImage {
    /// An image of these layers for linux on `architecture`.
    pub fn new(architecture: &str, layers: &[Vec<u8>], names: &[&'static str]) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let history: Vec<Value> = layers
            .iter()
            .map(|_| json!({"created": "2024-01-18T22:31:19Z", "created_by": "/bin/sh -c make"}))
            .collect();
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-18T22:31:19.5Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        Self { config: config.to_string().into_bytes(), layers: layers.to_vec(), names: names.to_vec() }
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config)
    }
}

/// A layer with one file.
pub fn layer(path: &str, bytes: &[u8]) -> Vec<u8> {
    Tar::default().dir("etc/").file(path, bytes).finish()
}

/// Two images that share a layer; the first has a layer twice and two names.
pub fn pair() -> Vec<TestImage> {
    let (base, top, other) = (layer("etc/base", b"base"), layer("etc/top", &[7; 5000]), layer("etc/other", b"x"));
    vec![
        TestImage::new("amd64", &[base.clone(), top.clone(), base.clone()], &["one:1", "ghcr.io/a/one:latest"]),
        TestImage::new("amd64", &[base, other], &["two:2"]),
    ]
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

pub fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn manifest_json(items: &[Value]) -> Vec<u8> {
    serde_json::to_vec(items).unwrap()
}

fn tags(image: &TestImage) -> Value {
    if image.names.is_empty() { Value::Null } else { json!(image.names) }
}

/// `docker save` before 25: a directory a layer, a repeated one by symlink.
pub fn docker_24(images: &[TestImage]) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut items = Vec::new();
    let mut seen: Vec<(Digest, String)> = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let mut paths = Vec::new();
        for (at, layer) in image.layers.iter().enumerate() {
            let digest = Digest::of(layer);
            let v1 = Digest::of(format!("{number} {at}").as_bytes()).hex();
            let path = format!("{v1}/layer.tar");
            tar = tar.dir(&format!("{v1}/")).file(&format!("{v1}/VERSION"), b"1.0").file(&format!("{v1}/json"), b"{}");
            tar = match seen.iter().find(|(known, _)| *known == digest) {
                Some((_, first)) => tar.symlink(&path, &format!("../{first}")),
                None => tar.file(&path, layer),
            };
            seen.push((digest, path.clone()));
            paths.push(path);
        }
        let config = format!("{}.json", image.id().hex());
        tar = tar.file(&config, &image.config);
        items.push(json!({"Config": config, "RepoTags": tags(image), "Layers": paths}));
    }
    tar.file("manifest.json", &manifest_json(&items)).file("repositories", b"{}").finish()
}

/// podman and skopeo: everything at the top, legacy links beside it.
pub fn podman(images: &[TestImage]) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut items = Vec::new();
    for image in images {
        let mut paths = Vec::new();
        for layer in &image.layers {
            let path = format!("{}.tar", Digest::of(layer).hex());
            tar = tar
                .file(&path, layer)
                .symlink(&format!("{}/layer.tar", Digest::of(layer).short()), &format!("../{path}"));
            paths.push(path);
        }
        let config = format!("{}.json", image.id().hex());
        tar = tar.file(&config, &image.config);
        items.push(json!({"Config": config, "RepoTags": tags(image), "Layers": paths}));
    }
    tar.file("manifest.json", &manifest_json(&items)).finish()
}

/// crane: compressed blobs by their own names, the config by its full digest.
pub fn crane(images: &[TestImage]) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut items = Vec::new();
    for image in images {
        let mut paths = Vec::new();
        for layer in &image.layers {
            let blob = gzip(layer);
            let path = format!("{}.tar.gz", Digest::of(&blob).hex());
            tar = tar.file(&path, &blob);
            paths.push(path);
        }
        let config = image.id().to_string();
        tar = tar.file(&config, &image.config);
        items.push(json!({"Config": config, "RepoTags": tags(image), "Layers": paths}));
    }
    tar.file("manifest.json", &manifest_json(&items)).finish()
}

/// The blobs of an OCI layout, its index entries, and what `manifest.json` says of its images.
pub struct Layout {
    pub blobs: Vec<Vec<u8>>,
    pub entries: Vec<Value>,
    pub items: Vec<Value>,
}

/// Compresses a layer and says how its media type ends.
type Pack = dyn Fn(&[u8]) -> (Vec<u8>, &'static str);

pub fn layout(images: &[TestImage], pack: &Pack) -> Layout {
    let mut layout = Layout { blobs: Vec::new(), entries: Vec::new(), items: Vec::new() };
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    for image in images {
        let mut layers = Vec::new();
        let mut paths = Vec::new();
        for layer in &image.layers {
            let (blob, suffix) = pack(layer);
            layers.push(json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": Digest::of(&blob).to_string(),
                "size": blob.len(),
            }));
            paths.push(path(&blob));
            layout.blobs.push(blob);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": image.id().to_string(),
                "size": image.config.len(),
            },
            "layers": layers,
            "annotations": {"kept": "as it came"},
        });
        let manifest = manifest.to_string().into_bytes();
        let descriptor = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&manifest).to_string(),
            "size": manifest.len(),
        });
        for name in &image.names {
            let mut named = descriptor.clone();
            let full = name.parse::<ferry::image::Reference>().unwrap().full();
            let tag = full.rsplit(':').next().unwrap().to_owned();
            named["annotations"] = json!({"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag});
            layout.entries.push(named);
        }
        if image.names.is_empty() {
            layout.entries.push(descriptor);
        }
        layout.items.push(json!({"Config": path(&image.config), "RepoTags": tags(image), "Layers": paths}));
        layout.blobs.push(image.config.clone());
        layout.blobs.push(manifest);
    }
    layout
}

impl Layout {
    /// The layout's files.
    pub fn tar(&self) -> Tar {
        let mut tar = Tar::default().dir("blobs/").dir("blobs/sha256/");
        let mut seen = Vec::new();
        for blob in &self.blobs {
            let digest = Digest::of(blob);
            if !seen.contains(&digest) {
                tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), blob);
                seen.push(digest);
            }
        }
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        tar.file("index.json", index.to_string().as_bytes()).file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
    }
}

/// `docker save` of 25 and later: both documents, layers uncompressed.
pub fn docker_25(images: &[TestImage]) -> Vec<u8> {
    let layout = layout(images, &|layer| (layer.to_vec(), ""));
    layout.tar().file("manifest.json", &manifest_json(&layout.items)).finish()
}

/// `ctr image export`: both documents, layers as their registry has them.
pub fn containerd(images: &[TestImage]) -> Vec<u8> {
    let layout = layout(images, &|layer| (gzip(layer), "+gzip"));
    layout.tar().file("manifest.json", &manifest_json(&layout.items)).finish()
}

/// An oci-archive.
pub fn oci(images: &[TestImage]) -> Vec<u8> {
    layout(images, &|layer| (gzip(layer), "+gzip")).tar().finish()
}

/// An oci-archive with zstd layers.
pub fn oci_zstd(images: &[TestImage]) -> Vec<u8> {
    layout(images, &|layer| (zstd(layer), "+zstd")).tar().finish()
}

/// Every shape with its name.
pub type Shape = (&'static str, fn(&[TestImage]) -> Vec<u8>);
pub const SHAPES: &[Shape] = &[
    ("docker 24", docker_24),
    ("docker 25", docker_25),
    ("containerd", containerd),
    ("podman", podman),
    ("crane", crane),
    ("oci", oci),
    ("oci zstd", oci_zstd),
];
