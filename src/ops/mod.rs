//! One use case a file: what a command does, without the command line. Nothing here prints or knows a terminal.

pub mod base;
pub mod bundle_diff;
pub mod carried;
pub mod commit;
pub mod describe;
pub mod extract;
pub mod glob;
pub mod history;
pub mod import;
pub mod inspect;
pub mod ledger;
pub mod list;
pub mod load;
pub mod media;
pub mod open;
pub mod save;
pub mod tree_path;
pub mod receipt;
pub mod repair;
pub mod uses;
pub mod verify;
pub mod send;
