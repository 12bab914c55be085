//! The way out of an error, where there is one that a flag or another command gives.

use std::error::Error;

use crate::archive::ArchiveError;
use crate::base::{BoxFault, Fault};
use crate::bundle::BundleError;
use crate::bundle::seal::SealError;
use crate::layer::compression::WindowTooLarge;
use crate::store::StoreError;
use crate::transfer::RemoteError;
use crate::transfer::bootstrap::BootstrapError;

/// What the user can do about a failure.
pub fn of(fault: &dyn Fault) -> Option<&'static str> {
    let mut next: Option<&(dyn Error + 'static)> = Some(fault);
    while let Some(error) = next {
        if let Some(hint) = one(error) {
            return Some(hint);
        }
        next = error.source();
    }
    None
}

fn one(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return one(error.get_ref()?);
    }
    // What went through a reader.
    if let Some(fault) = error.downcast_ref::<BoxFault>() {
        return one(&**fault);
    }
    if error.is::<WindowTooLarge>() {
        return Some("--max-window accepts larger windows, at the price of as much memory");
    }
    if let Some(error) = error.downcast_ref::<ArchiveError>() {
        return match error {
            ArchiveError::NotAnArchive { reason, .. } if reason.contains("root file system") => {
                Some("`ferry import` makes an image of a root file system")
            }
            ArchiveError::Platform { .. } | ArchiveError::AmbiguousPlatform { .. } => {
                Some("choose one of them with --platform")
            }
            ArchiveError::Spool { .. } => Some("--spool-dir names another directory"),
            _ => None,
        };
    }
    if let Some(SealError::Passphrase(_)) = error.downcast_ref::<SealError>() {
        return Some("where there is no terminal to ask on, the environment variable FERRY_PASSPHRASE gives it");
    }
    if let Some(BundleError::BaseMissing { .. }) = error.downcast_ref::<BundleError>() {
        return Some(
            "`ferry extract` and `ferry convert` can take what is missing from another bundle: --input-base names it",
        );
    }
    if let Some(error) = error.downcast_ref::<RemoteError>() {
        return match error {
            RemoteError::UnknownHostKey { .. } => Some("--accept-new trusts a host that is seen for the first time"),
            RemoteError::HostKeyChanged { .. } => {
                Some("if the host was made anew, `ssh-keygen -R HOST` forgets its old key")
            }
            RemoteError::Login { .. } => Some("--ssh COMMAND logs in by any means that the command has"),
            RemoteError::Command { code: 255, .. } => {
                Some("255 is ssh's own: try `ssh HOST true`; --ssh COMMAND logs in by any means that the command has")
            }
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<BootstrapError>() {
        return match error {
            BootstrapError::Architecture { .. } | BootstrapError::NotStatic(_) => {
                Some("--ferry-binary names a static ferry for that host")
            }
            BootstrapError::Absent { .. } => Some("without --no-upload it is copied there"),
            _ => None,
        };
    }
    match error.downcast_ref::<StoreError>()? {
        StoreError::InUse { forcible: true, .. } | StoreError::ReferenceInUse { .. } => {
            Some("-f removes it all the same")
        }
        StoreError::Damaged { .. } => {
            Some("`ferry fsck` lists what is damaged; with --repair it does what loses nothing")
        }
        StoreError::NameTaken { .. } => Some("--on-conflict says what becomes of names that are taken"),
        _ => None,
    }
}
