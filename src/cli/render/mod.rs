//! How lists and objects are shown: docker's tables, `--format json` and Go templates.

pub mod human;
pub mod list;
mod parse;
mod run;
pub mod template;
