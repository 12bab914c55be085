//! Docker's commands that ferry has no counterpart for, and the way to the same end.

use clap::Error;
use clap::error::{ContextKind, ContextValue};

/// What to do instead of the command that such an error does not know, if docker knows it.
pub fn instead(error: &Error) -> Option<String> {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let way = match verb.as_str() {
        "pull" | "search" => {
            "ferry has no registry client; where the registry can be reached `skopeo copy docker://NAME \
             oci-archive:FILE:NAME` or `docker save`, then `ferry load -i FILE` here"
        }
        "push" => {
            "ferry has no registry client; `ferry save -o FILE IMAGE`, then where the registry can be reached \
             `skopeo copy oci-archive:FILE docker://NAME`"
        }
        "login" | "logout" => {
            "ferry has no registry client, so there is nothing to log in to; images come by `ferry load` and `ferry fetch`"
        }
        "build" | "buildx" | "builder" => {
            "ferry builds nothing from a Dockerfile; `ferry load` what was built elsewhere, `ferry commit` a container, or \
             `ferry import` a root file system"
        }
        "compose" => {
            "ferry reads no compose files; `ferry network create NET`, then `ferry run -d --network NET --name SERVICE \
             --restart always IMAGE` for each service"
        }
        _ => return None,
    };
    Some(format!("{verb}: {way}"))
}
