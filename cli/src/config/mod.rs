//! The configuration: a commented default file in the binary, a file of the user's, environment variables, in this order.

#[cfg(test)]
mod containers;
mod generators;
mod load;
mod model;
mod models;

pub use generators::*;
pub use load::{load, redacted};
pub use model::*;
pub use models::*;

/// The default configuration with its comments, as `raglan config` prints it.
pub const DEFAULTS: &str = include_str!("default.yaml");
