//! `ferry inspect`.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::render::template::Template;
use super::trust::AccessArgs;
use super::{Global, container, exit, output};
use crate::base::BoxFault;
use crate::bundle::carry;
use crate::bundle::volume::VolumeSet;
use crate::ops::describe::{self, Carried};
use crate::ops::{inspect, open};
use crate::runtime;

/// Show all there is to know about containers, images and bundles
///
/// Of a bundle it says which layer is kept how, and how many of its bytes are the layer's own and shared with others.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Names or IDs, or paths of bundles
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
}

/// Shows what is there, then tells what is not.
pub fn run(args: InspectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let store = global.store()?;
    let containers = container::containers(global);
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.names {
        // As docker: a container of the name comes before an image.
        let document = match containers.find(name) {
            Ok(dir) => runtime::inspect::document(&global.root, &dir).map_err(BoxFault::from),
            Err(_) => match store.resolve(name) {
                Ok(image) => inspect::image(&store, &image),
                Err(_) if open::is_bundle(Path::new(name)) => bundle(Path::new(name), &args.access, global),
                Err(error) => Err(error.into()),
            },
        };
        match document {
            Ok(document) => documents.push(document),
            Err(fault) => code = exit::report(&*fault),
        }
    }
    match template {
        None if args.format.is_some() => output::line(Value::Array(documents).to_string())?,
        None => output::line(pretty(&Value::Array(documents)))?,
        Some(template) => {
            for document in &documents {
                output::line(output::clean(&template.render(document)?))?;
            }
        }
    }
    Ok(code)
}

/// The document of a bundle.
fn bundle(path: &Path, access: &AccessArgs, global: &Global) -> Result<Value, BoxFault> {
    let set = VolumeSet::open(&[path.to_owned()])?;
    let mut carried = Carried {
        set: set.id().to_string(),
        root: set.root().to_string(),
        volumes: set.volumes(),
        encrypted: set.encrypted(),
        signatures: set.signatures().len(),
        signed_by: Vec::new(),
    };
    let opened = carry::open(set, &access.access(true, false, std::env::temp_dir())?, &global.ctx)?;
    carried.signed_by = opened.signed_by;
    describe::describe(&opened.source, &carried)
}

/// JSON with four spaces, as docker indents.
pub fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // A value that is JSON already always serializes, and serde_json writes UTF-8.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8_lossy(&bytes).into_owned()
}
