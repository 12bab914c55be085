//! `ferry inspect`.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};

use super::render::template::Template;
use super::trust::AccessArgs;
use super::{Global, container, exit, output};
use crate::base::{BoxFault, Fault};
use crate::bundle::carry;
use crate::bundle::volume::VolumeSet;
use crate::ops::describe::{self, Carried};
use crate::ops::{inspect, open};
use crate::runtime;
use crate::runtime::container::Containers;
use crate::store::Store;

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
    /// Show a container's sizes as well: SizeRw and SizeRootFs
    #[arg(short, long)]
    size: bool,
    /// Only things of this kind
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    #[command(flatten)]
    access: AccessArgs,
}

/// What there is to be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

/// `ferry container inspect`.
pub fn containers_only(args: InspectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    tell(InspectArgs { kind: Some(Kind::Container), ..args }, global, container::failed)
}

/// `ferry image inspect`.
pub fn images_only(args: InspectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    tell(InspectArgs { kind: Some(Kind::Image), ..args }, global, exit::report)
}

/// Shows what is there, then tells what is not.
pub fn run(args: InspectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    tell(args, global, exit::report)
}

fn tell(args: InspectArgs, global: &Global, fail: fn(&dyn Fault) -> ExitCode) -> Result<ExitCode, BoxFault> {
    let store = global.store()?;
    let containers = container::containers(global);
    let find = |name: &str| find(name, &args, &store, &containers, global);
    show(&args.names, args.format.as_deref(), find, fail)
}

/// Shows the documents of `names` as one array, or each by a Go template; those that are not there are told by `fail`.
pub fn show(
    names: &[String],
    format: Option<&str>,
    find: impl Fn(&str) -> Result<Value, BoxFault>,
    fail: impl Fn(&dyn Fault) -> ExitCode,
) -> Result<ExitCode, BoxFault> {
    let template = match format {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let mut documents = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match find(name) {
            Ok(document) => documents.push(document),
            Err(fault) => code = fail(&*fault),
        }
    }
    match template {
        None if format.is_some() => output::line(Value::Array(documents).to_string())?,
        None => output::line(pretty(&Value::Array(documents)))?,
        Some(template) => {
            for document in documents {
                output::line(output::clean(&template.render_document(&runtime::inspect::for_template(document))?))?;
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

/// As docker: a container of the name comes before an image, that before a network, that before a volume. What is told
/// when there is none is told of containers and images.
fn find(
    name: &str,
    args: &InspectArgs,
    store: &Store,
    containers: &Containers,
    global: &Global,
) -> Result<Value, BoxFault> {
    let may = |kind| args.kind.is_none_or(|only| only == kind);
    let mut failure = None;
    if may(Kind::Container) {
        match containers.find(name) {
            Ok(dir) => {
                let mut document = runtime::inspect::document(&global.root, &dir)?;
                if args.size {
                    let own = container::prune::size(global, &dir);
                    let image = dir.container()?.image;
                    let below = store.image(&image).map_or(0, |image| image.size);
                    document["SizeRw"] = json!(own);
                    document["SizeRootFs"] = json!(own.saturating_add(below));
                }
                return Ok(document);
            }
            Err(error) => failure = Some(BoxFault::from(error)),
        }
    }
    if may(Kind::Image) {
        match store.resolve(name) {
            Ok(image) => return inspect::image(store, &image),
            Err(error) => failure = Some(error.into()),
        }
    }
    if args.kind.is_none() && open::is_bundle(Path::new(name)) {
        return bundle(Path::new(name), &args.access, global);
    }
    if may(Kind::Network) {
        match super::network::named(name, global) {
            Ok(document) => return Ok(document),
            Err(error) if args.kind.is_some() => failure = Some(error.into()),
            Err(_) => {}
        }
    }
    if may(Kind::Volume) {
        match runtime::volumes::find(&global.root, name) {
            Ok(volume) => return Ok(super::volume::document(&volume)),
            Err(error) if args.kind.is_some() => failure = Some(error.into()),
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| runtime::RuntimeError::NoSuchContainer(name.to_owned()).into()))
}

/// JSON with four spaces, as docker indents.
fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // A value that is JSON already always serializes, and serde_json writes UTF-8.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8_lossy(&bytes).into_owned()
}
