pub mod base{}
