//! How lists and objects are shown: docker's tables, `--format json` and Go templates.

mod data;
pub mod functions;
pub mod human;
pub mod list;
mod parse;
mod printf;
mod run;
pub mod template;
mod token;
