//! Taking a container away.

use std::path::Path;

use super::container::{Container, ContainerDir, Containers, Status};
use super::error::RuntimeError;
use super::{events, overlay, start, volumes};
use crate::base::Ctx;

/// Takes away a container whose program has ended. The caller holds its lock, or is its monitor. Goes on past failures
/// and gives the first; what is left, a container that is [`Status::Dead`], is taken by the next attempt; one that is
/// `--rm` stays as it is: each command attempts it. With its anonymous volumes if they are to go.
pub fn take_away(
    store_root: &Path,
    dir: &ContainerDir,
    container: &Container,
    anonymous_volumes: bool,
) -> Result<(), RuntimeError> {
    let mut result = start::cgroup(container).destroy();
    let layer = overlay::store(store_root).and_then(|store| {
        store.remove_rw_layer(dir.id(), &Ctx::silent()).map_err(|error| RuntimeError::Other(error.into()))
    });
    result = result.and(layer);
    if anonymous_volumes {
        for mount in container.mounts.iter().filter(|mount| mount.kind == "volume" && mount.anonymous) {
            result = result.and(volumes::remove_unused(store_root, &mount.name, dir.id()));
        }
    }
    if result.is_ok() {
        result = dir.remove();
    }
    if !dir.exists() {
        Containers::new(store_root).release_name(dir.id(), &container.name);
        events::record(store_root, container, "destroy", &[]);
    } else if !container.host_config.auto_remove
        && let (Err(error), Ok(mut state)) = (&result, dir.recorded_state())
    {
        state.status = Status::Dead;
        state.error = error.to_string();
        // On a full disk it stays what it was, which can be taken away again as well.
        let _ = dir.write_state(&state);
    }
    result
}

/// Takes away a `--rm` container at its end.
pub fn ended(store_root: &Path, dir: &ContainerDir, container: &Container) -> Result<(), RuntimeError> {
    take_away(store_root, dir, container, true)
}
