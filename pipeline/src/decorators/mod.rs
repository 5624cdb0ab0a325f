//! What is wrapped around a port, whatever is behind it: retries, circuit breakers, faults for tests. Written once here, so that no
//! backend has its own.

pub mod breaker;
pub mod coalesce;
mod failure;
pub mod faults;
pub mod retry;
#[cfg(test)]
mod stubs;

pub use failure::{Advice, Failure};
