//! What the runtime promises, held against docker, runc, crashes, hostile images and ordinary users.

mod attacks;
mod boot;
mod endurance;
mod keys;
mod lifecycle;
mod rootless;
mod services;
mod tutorial;
