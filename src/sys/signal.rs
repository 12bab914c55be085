//! Signals that end a command.

use std::sync::OnceLock;

use crate::base::Cancel;

static CANCEL: OnceLock<Cancel> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP throw `cancel`; a second one ends the process at once, as users expect who
/// press Ctrl-C twice. Only the first call has an effect.
pub fn cancel_on_interrupt(cancel: Cancel) {
    extern "C" fn throw(signal: libc::c_int) {
        if let Some(cancel) = CANCEL.get() {
            cancel.cancel();
        }
        // SAFETY: signal is async-signal-safe and SIG_DFL is a valid disposition.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    if CANCEL.set(cancel).is_err() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler does only what a handler may: an atomic store and signal(2). The structure is zeroed,
        // which is valid for sigaction, before its fields are set. No SA_RESTART: blocked reads return.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = throw as *const () as usize;
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}
