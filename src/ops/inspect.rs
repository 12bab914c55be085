//! `ferry inspect` of an image: docker's document about it.

use serde_json::{Map, Value, json};

use crate::base::BoxFault;
use crate::image::Reference;
use crate::store::{Store, StoredImage};

/// Docker's document about an image.
pub fn image(store: &Store, image: &StoredImage) -> Result<Value, BoxFault> {
    // What ferry has no field for is shown as it stands in the config.
    let raw: Map<String, Value> = serde_json::from_slice(image.config.raw()).unwrap_or_default();
    let fields = image.config.fields();
    let names = |digests: bool| -> Vec<String> {
        image.names.iter().filter(|name| name.digest().is_some() == digests).map(Reference::to_string).collect()
    };
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| document.insert(name.to_owned(), value);
    put("Id", Value::from(image.id().to_string()));
    put("RepoTags", Value::from(names(false)));
    put("RepoDigests", Value::from(names(true)));
    put("Parent", Value::from(image.parent.map(|parent| parent.to_string()).unwrap_or_default()));
    put("Comment", Value::from(text("comment")));
    put("Created", Value::from(text("created")));
    put("DockerVersion", Value::from(text("docker_version")));
    put("Author", Value::from(text("author")));
    put("Config", raw.get("config").cloned().unwrap_or(Value::Null));
    put("Architecture", Value::from(fields.architecture.as_str()));
    if let Some(variant) = &fields.variant {
        put("Variant", Value::from(variant.as_str()));
    }
    put("Os", Value::from(image.config.platform().os));
    put("Size", Value::from(image.size));
    put("VirtualSize", Value::from(image.size));
    put("GraphDriver", json!({"Data": directories(store, image)?, "Name": "overlay2"}));
    let layers: Vec<String> = image.config.diff_ids().iter().map(ToString::to_string).collect();
    put("RootFS", json!({"Type": "layers", "Layers": layers}));
    put("Manifests", image.manifests.iter().map(|digest| Value::from(digest.to_string())).collect());
    Ok(Value::Object(document))
}

/// Where the layers lie, as docker's overlay2 driver says it.
fn directories(store: &Store, image: &StoredImage) -> Result<Value, BoxFault> {
    let layers = store.layers(&image.config)?;
    let Some((top, lower)) = layers.split_last() else { return Ok(Value::Null) };
    let path = |name: &str| store.layout().cache_dir(&top.cache_id).join(name).display().to_string();
    let mut data = json!({"MergedDir": path("merged"), "UpperDir": path("diff"), "WorkDir": path("work")});
    if !lower.is_empty() {
        let lower: Vec<String> =
            lower.iter().rev().map(|layer| store.layout().diff_dir(&layer.cache_id).display().to_string()).collect();
        data["LowerDir"] = Value::from(lower.join(":"));
    }
    Ok(data)
}
