//! What clients ask of the monitor while the program runs.

use super::Monitor;
use super::hub::Request;
use super::protocol::{Connect, Failure, Kill, Kind, frame, frame_of};
use crate::runtime::container::Status;
use crate::runtime::error::{RuntimeError, While};
use crate::runtime::{events, network, start};

impl Monitor {
    /// Does what a client asks for, and tells it.
    pub(super) fn answer(&mut self, request: &Request) {
        let result = match request.kind {
            Kind::Kill => self.kill(&request.payload),
            Kind::Pause => self.freeze(true),
            Kind::Unpause => self.freeze(false),
            Kind::Reload => self.reload(),
            Kind::Connect => self.connect(&request.payload),
            Kind::Disconnect => self.disconnect(&request.payload),
            _ => return,
        };
        let answer = match result {
            Ok(()) => frame(Kind::Done, &[]),
            Err(error) => frame_of(Kind::Failed, &Failure { code: 1, message: error.to_string() }),
        };
        self.hub.send(request.client, &answer);
    }

    fn kill(&mut self, payload: &[u8]) -> Result<(), RuntimeError> {
        let kill: Kill = serde_json::from_slice(payload).map_err(|e| RuntimeError::Malformed(e.to_string()))?;
        self.keep |= kill.keep;
        self.signalled = true;
        // Docker's rule: without a stop signal of its own whatever is sent to a container is meant to end it.
        let last = kill.end || self.container.config.stop_signal.is_none();
        self.last |= last;
        if kill.end {
            self.state.stopped_by_user = true;
            self.restarting = false;
            self.write_state();
        }
        self.signal(kill.signal).trying(format!("send signal {}", kill.signal))?;
        events::record(&self.store_root, &self.container, "kill", &[("signal", &kill.signal.to_string())]);
        if last { self.thaw() } else { Ok(()) }
    }

    /// A frozen program would hear a signal only once it is thawed, even the one that kills (cgroups v1 at least).
    pub(super) fn thaw(&mut self) -> Result<(), RuntimeError> {
        if self.state.status == Status::Paused { self.freeze(false) } else { Ok(()) }
    }

    fn freeze(&mut self, frozen: bool) -> Result<(), RuntimeError> {
        let name = &self.container.name;
        if frozen {
            self.state.require(Status::can_pause, "pause", name)?;
        } else {
            self.state.require(Status::can_unpause, "unpause", name)?;
        }
        start::cgroup(&self.container).freeze(frozen)?;
        self.state.status = if frozen { Status::Paused } else { Status::Running };
        if let Some(checks) = self.running.as_mut().and_then(|running| running.checks.as_mut()) {
            checks.stop();
        }
        self.write_state();
        events::record(&self.store_root, &self.container, if frozen { "pause" } else { "unpause" }, &[]);
        Ok(())
    }

    fn connect(&mut self, payload: &[u8]) -> Result<(), RuntimeError> {
        let wanted: Connect = serde_json::from_slice(payload).map_err(|e| RuntimeError::Malformed(e.to_string()))?;
        let result = network::connect_to(&self.store_root, &self.dir, &self.container, &mut self.state, &wanted);
        self.write_state();
        result
    }

    fn disconnect(&mut self, payload: &[u8]) -> Result<(), RuntimeError> {
        let name = String::from_utf8_lossy(payload);
        let result = network::disconnect_from(&self.store_root, &self.dir, &self.container, &mut self.state, &name);
        self.write_state();
        result
    }

    fn reload(&mut self) -> Result<(), RuntimeError> {
        let before = std::mem::replace(&mut self.container, self.dir.container()?);
        if before.name == self.container.name {
            return Ok(());
        }
        let result = network::rename(&self.store_root, &self.container, &mut self.state);
        self.write_state();
        result
    }
}
