//! A client of Raglan's own HTTP API, for the commands that talk to a running server.

mod events;
mod http;

pub use events::{Follower, ServerEvent};
pub use http::{Api, ApiError, Connection};
