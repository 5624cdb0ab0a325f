//! The runner that takes messages from queues and does their work, with leases, heartbeats, retries and draining; and the
//! roles that a process can play.

mod consume;
mod job;
mod roles;
mod webhook;

pub use consume::Pool;
pub use job::{JobWorker, WorkerSettings};
pub use roles::{Role, Running, WorkerParts, start};
