//! `ferry inspect`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::render::template::Template;
use super::{Global, container, exit, output};
use crate::base::BoxFault;
use crate::ops::inspect;
use crate::runtime;

/// Show all there is to know about containers and images
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
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
            Err(_) => store.resolve(name).map_err(BoxFault::from).and_then(|image| inspect::image(&store, &image)),
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

/// JSON with four spaces, as docker indents.
pub fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    // A value that is JSON already always serializes, and serde_json writes UTF-8.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8_lossy(&bytes).into_owned()
}
