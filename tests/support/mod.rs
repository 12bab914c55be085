//! What the tests share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry::base::progress::{Event, Progress};
use ferry::base::{Cancel, Ctx};

pub mod bench;
pub mod containers;
pub mod images;
pub mod peers;
pub mod site;

/// The ferry that cargo built for the tests.
pub fn ferry() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ferry"))
}

/// The checkout's root directory.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shipped binary as `make static` leaves it.
pub fn static_ferry() -> PathBuf {
    let path = checkout().join("target/static/ferry");
    assert!(path.exists(), "{} is missing: run make static", path.display());
    path
}

/// Asks `ready` again and again until it says yes.
///
/// # Panics
/// When it has not done so within a minute; the panic names `what`.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < deadline, "still waiting after a minute for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What long operations warn of.
#[derive(Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// For an operation, and where its warnings are kept.
    pub fn kept() -> (Ctx, Arc<Self>) {
        let warnings = Arc::new(Self::default());
        (Ctx::new(warnings.clone(), Cancel::new()), warnings)
    }

    /// Those there are by now.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}
