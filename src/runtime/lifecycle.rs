//! What commands do to containers. Each takes the container's lock while it changes something on disk; what a living
//! program has to do with goes through its monitor.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::cgroup::{Cgroup, Hierarchy};
use super::client;
use super::container::config::RestartPolicy;
use super::container::{ContainerDir, Containers, HostConfig, State, Status, name};
use super::error::RuntimeError;
use super::monitor::protocol::{Kill, Kind};
use super::{events, limits, network, overlay, remove, signals, spec, start, volumes};
use crate::base::{BoxFault, Ctx};

/// How long the kernel may take to end a process that has been killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Cleans up after a monitor that was lost: its control group, its state, and the container itself if it was `--rm`.
/// Gives whether the restart policy wants it back.
///
/// The state of one that is wanted back stays as it is, until its new monitor writes it: should this process be killed
/// before that, the next command does the same again.
pub fn recover(store_root: &Path, dir: &ContainerDir) -> Result<bool, RuntimeError> {
    if !dir.exists() {
        return clear(store_root, dir).map(|()| false);
    }
    if !is_lost(dir, &dir.recorded_state()?) {
        return Ok(false);
    }
    let _lock = dir.lock()?;
    // The lock was waited for: somebody may have done it meanwhile.
    if !is_lost(dir, &dir.recorded_state()?) {
        return Ok(false);
    }
    let container = dir.container()?;
    let mut state = dir.recorded_state()?;
    state.lost(&super::now());
    start::cgroup(&container).destroy()?;
    if container.host_config.auto_remove {
        remove::take_away(store_root, dir, &container, true)?;
        return Ok(false);
    }
    // One that was being stopped when its monitor was lost is stopped for every command but the one that follows a boot.
    let wanted = !state.stopped_by_user && container.restarts_after_boot(&state);
    if !wanted {
        dir.write_state(&state)?;
    }
    volumes::note(store_root, &container, false);
    events::record(store_root, &container, "die", &[("exitCode", "255")]);
    Ok(wanted)
}

/// Whether a container is not what its recorded state says: its monitor is gone.
pub fn is_lost(dir: &ContainerDir, recorded: &State) -> bool {
    (recorded.status.is_live() || recorded.status == Status::Removing) && !dir.monitor_lives()
}

/// Recovers a container, and starts it again if its policy says so. `boot`: also one that ended in order, as after the
/// machine's start.
pub fn bring_back(store_root: &Path, dir: &ContainerDir, boot: bool) -> Result<(), RuntimeError> {
    let mut wanted = recover(store_root, dir)?;
    if boot && dir.exists() && !wanted {
        let (container, state) = (dir.container()?, dir.state()?);
        wanted = state.status == Status::Exited && container.restarts_after_boot(&state);
    }
    if wanted { client::begin(start_monitor(store_root, dir)?).map(drop) } else { Ok(()) }
}

/// Clears away what a command left that was killed while it made or removed a container.
fn clear(store_root: &Path, dir: &ContainerDir) -> Result<(), RuntimeError> {
    let Some(_lock) = dir.try_lock()? else { return Ok(()) };
    if dir.exists() || dir.monitor_lives() {
        return Ok(());
    }
    forget(store_root, dir)
}

/// Takes away a container of which nothing is known but its ID.
fn forget(store_root: &Path, dir: &ContainerDir) -> Result<(), RuntimeError> {
    let store = overlay::store(store_root)?;
    store.remove_rw_layer(dir.id(), &Ctx::silent()).map_err(|error| RuntimeError::Other(error.into()))?;
    dir.remove()?;
    Containers::new(store_root).release_names(dir.id())
}

/// Recovers all containers whose monitors were lost, and starts again those whose policy says so. `boot`: those too
/// that ended in order, as after the machine's start. Gives what could not be done.
pub fn recover_all(store_root: &Path, boot: bool) -> Vec<RuntimeError> {
    let containers = Containers::new(store_root);
    let mut failures = Vec::new();
    let ids = containers.ids().unwrap_or_else(|error| {
        failures.push(error);
        Vec::new()
    });
    let lost = |id: &String| {
        let dir = containers.dir(id);
        dir.recorded_state().is_ok_and(|state| state.status.is_live()) && !dir.monitor_lives()
    };
    if boot || ids.iter().any(lost) {
        let cleaned = network::clean(store_root, |id| containers.dir(id).monitor_lives());
        failures.extend(cleaned.err());
    }
    containers.sweep();
    for id in ids {
        let dir = containers.dir(&id);
        match bring_back(store_root, &dir, boot) {
            // Another command was faster.
            Ok(()) | Err(RuntimeError::NoSuchContainer(_) | RuntimeError::State { .. }) => {}
            Err(_) if !dir.path().exists() => {}
            Err(error) => failures.push(error),
        }
    }
    failures
}

/// Starts a container's monitor, which waits to be told how to attach and to begin.
pub fn start_monitor(store_root: &Path, dir: &ContainerDir) -> Result<UnixStream, RuntimeError> {
    let _lock = dir.lock()?;
    let container = dir.container()?;
    dir.settled()?.require(Status::can_start, "start", &container.name)?;
    if container.host_config.init == Some(true) {
        start::note_program(dir)?;
    }
    client::start_monitor(store_root, dir)
}

/// Sends a signal. The one that kills is waited for, as docker does.
pub fn kill(dir: &ContainerDir, signal: i32) -> Result<(), RuntimeError> {
    let container = dir.container()?;
    dir.state()?.require(Status::can_kill, "kill", &container.name)?;
    let end = signal == 9 || signal == signals::stop_signal(&container);
    let sent = send(dir, Kill { signal, end, keep: false });
    sent.or_else(|error| gone_meanwhile(dir, Status::can_kill, "kill", &container.name, error))?;
    if signal == 9 {
        client::wait_for_end(dir, Some(KILL_PATIENCE))?;
        dir.wait_for_monitor()?;
    }
    Ok(())
}

/// What to say when a monitor could not be asked, or has refused: `error`, unless the container has ended or was taken
/// away meanwhile.
fn gone_meanwhile(
    dir: &ContainerDir,
    allowed: fn(Status) -> bool,
    verb: &'static str,
    name: &str,
    error: RuntimeError,
) -> Result<(), RuntimeError> {
    let state = dir.settled();
    if !dir.exists() {
        return Err(RuntimeError::NoSuchContainer(name.to_owned()));
    }
    state?.require(allowed, verb, name)?;
    Err(error)
}

fn send(dir: &ContainerDir, kill: Kill) -> Result<(), RuntimeError> {
    let kill = serde_json::to_vec(&kill).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    client::ask(dir, Kind::Kill, &kill)
}

/// Asks the program to stop, and kills it when it has not within `timeout` (`None`: however long it takes). Nothing
/// happens to a container that does not run. `keep`: it stays although it is `--rm`, to be started again.
pub fn stop(
    store_root: &Path,
    dir: &ContainerDir,
    signal: Option<i32>,
    timeout: Option<Duration>,
    keep: bool,
) -> Result<(), RuntimeError> {
    let container = dir.container()?;
    let state = dir.state()?;
    if !state.status.is_live() {
        return Ok(());
    }
    let signal = signal.unwrap_or_else(|| signals::stop_signal(&container));
    if state.status == Status::Paused {
        client::ask(dir, Kind::Unpause, &[])?;
    }
    let asked = send(dir, Kill { signal, end: true, keep });
    if asked.is_err() && !dir.monitor_lives() {
        return Ok(());
    }
    asked?;
    if client::wait_for_end(dir, timeout)?.is_none() {
        let _ = send(dir, Kill { signal: 9, end: true, keep });
        if client::wait_for_end(dir, Some(KILL_PATIENCE))?.is_none() {
            return Err(RuntimeError::Conflict(format!("container {} does not end, even killed", container.name)));
        }
    }
    dir.wait_for_monitor()?;
    events::record(store_root, &container, "stop", &[]);
    Ok(())
}

/// Takes a container away; `force` kills its program first. Its monitor is gone before anything is.
pub fn rm(store_root: &Path, dir: &ContainerDir, force: bool, volumes: bool) -> Result<(), RuntimeError> {
    let gone = |error: &RuntimeError| matches!(error, RuntimeError::NoSuchContainer(_));
    let container = match dir.container() {
        Err(error) if force && gone(&error) => return Ok(()),
        Err(RuntimeError::Malformed(_)) if force => return rm_unreadable(store_root, dir),
        container => container?,
    };
    if !force {
        dir.settled()?.require(Status::can_remove, "remove", &container.name)?;
    }
    let deadline = Instant::now() + KILL_PATIENCE;
    let _lock = loop {
        if force && dir.monitor_lives() {
            end(dir);
        }
        let lock = match dir.lock() {
            Err(error) if gone(&error) => return Ok(()),
            lock => lock?,
        };
        if !dir.exists() {
            // It was `--rm`, or another command was faster.
            return Ok(());
        }
        // With the lock held nobody starts it; somebody (`restart`) may have meanwhile.
        match dir.settled()?.require(Status::can_remove, "remove", &container.name) {
            Ok(()) => break lock,
            Err(_) if force && Instant::now() < deadline => {}
            Err(error) => return Err(error),
        }
    };
    remove::take_away(store_root, dir, &container, volumes)
}

/// Kills a container's program and waits for its end. Whether there is one the caller looks for itself.
fn end(dir: &ContainerDir) {
    // One that is just starting its program hears it as soon as that runs.
    let _ = send(dir, Kill { signal: 9, end: true, keep: false });
    let _ = client::wait_for_end(dir, Some(KILL_PATIENCE));
}

/// Takes away a container whose settings cannot be read.
fn rm_unreadable(store_root: &Path, dir: &ContainerDir) -> Result<(), RuntimeError> {
    if dir.monitor_lives() {
        end(dir);
        dir.wait_for_monitor()?;
    }
    let _lock = dir.lock()?;
    Cgroup::at(Hierarchy::detect(), &Path::new(spec::CGROUPS).join(dir.id())).destroy()?;
    forget(store_root, dir)
}

/// Reads a container's files, which takes a while. What `read` gives is all of them only if nobody has taken the container
/// away meanwhile: that is an error. `verb` is what it is done for.
pub fn reading<T>(
    dir: &ContainerDir,
    verb: &'static str,
    read: impl FnOnce() -> Result<T, BoxFault>,
) -> Result<T, BoxFault> {
    let name = dir.container()?.name;
    dir.state()?.require(Status::can_read, verb, &name)?;
    let found = read();
    // Whoever takes it away holds its lock, or is its monitor, which says so first.
    match dir.lock() {
        Ok(_lock) if dir.state()?.status.can_read() => found,
        Ok(_) | Err(RuntimeError::NoSuchContainer(_)) => {
            Err(RuntimeError::Conflict(format!("container {name} was removed while its files were read")).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Freezes or thaws.
pub fn pause(dir: &ContainerDir, frozen: bool) -> Result<(), RuntimeError> {
    let name = dir.container()?.name;
    let state = dir.state()?;
    let (allowed, verb): (fn(Status) -> bool, _) =
        if frozen { (Status::can_pause, "pause") } else { (Status::can_unpause, "unpause") };
    state.require(allowed, verb, &name)?;
    if frozen && !start::cgroup(&dir.container()?).exists() {
        return Err(RuntimeError::Unsupported(format!(
            "container {name} cannot be paused: it has no control group, for this user may make none"
        )));
    }
    let asked = client::ask(dir, if frozen { Kind::Pause } else { Kind::Unpause }, &[]);
    asked.or_else(|error| gone_meanwhile(dir, allowed, verb, &name, error))
}

/// Gives a container another name.
pub fn rename(store_root: &Path, dir: &ContainerDir, new: &str) -> Result<(), RuntimeError> {
    let new = name::check(new)?;
    let _lock = dir.lock()?;
    let mut container = dir.container()?;
    let old = container.name.clone();
    if old == new {
        return Err(RuntimeError::usage("renaming a container with the same name as its current name"));
    }
    let containers = Containers::new(store_root);
    containers.take_name(dir.id(), new)?;
    new.clone_into(&mut container.name);
    if let Err(error) = dir.write_container(&container) {
        containers.release_name(dir.id(), new);
        return Err(error);
    }
    containers.release_name(dir.id(), &old);
    if dir.monitor_lives() {
        client::ask(dir, Kind::Reload, &[])?;
    }
    events::record(store_root, &container, "rename", &[("oldName", &format!("/{old}"))]);
    Ok(())
}

/// Changes limits, of a running program at once, and the restart policy. Of `limits` nothing but limits counts; what is 0 or
/// empty stays.
pub fn update(
    store_root: &Path,
    dir: &ContainerDir,
    limits: &HostConfig,
    restart: Option<&RestartPolicy>,
) -> Result<(), RuntimeError> {
    limits::check(limits)?;
    let _lock = dir.lock()?;
    let mut container = dir.container()?;
    let host = &mut container.host_config;
    if let Some(policy) = restart.filter(|policy| !policy.name.is_empty()) {
        policy.check()?;
        if host.auto_remove && policy.name != "no" {
            return Err(RuntimeError::usage(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy.clone_from(policy);
    }
    limits::update(host, limits)?;
    let host = &container.host_config;
    if dir.state()?.status.has_process() {
        let mut resources = spec::resources(host)?;
        if let Some(resources) = resources.as_object_mut() {
            resources.remove("devices");
        }
        let malformed = |error: serde_json::Error| RuntimeError::Malformed(error.to_string());
        start::cgroup(&container).set(&serde_json::from_value(resources).map_err(malformed)?)?;
    }
    dir.write_container(&container)?;
    if dir.monitor_lives() {
        client::ask(dir, Kind::Reload, &[])?;
    }
    events::record(store_root, &container, "update", &[]);
    Ok(())
}

/// Waits for the end of a container's program and gives its exit code; of one that does not run, the last one.
pub fn wait(dir: &ContainerDir) -> Result<i32, RuntimeError> {
    let state: State = dir.state()?;
    if !state.status.is_live() {
        return Ok(state.exit_code);
    }
    Ok(client::wait_for_end(dir, None)?.unwrap_or(255))
}
