//! What the tests of the real binary share: [`Server`] starts it, [`Api`] talks to it, [`Sse`] and [`Socket`] follow its jobs,
//! [`Receiver`] takes its webhooks, and [`raglan`] runs its commands.
//!
//! Nothing here sleeps to let something happen: whatever is waited for is asked for until it is there, within [`BOUND`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a harness fails by panicking

mod api;
mod events;
mod own_servers;
mod process;
mod proxy;
mod receiver;
mod server;
mod shape;

use std::{io::Write, path::PathBuf, time::Duration};

pub use api::{Api, Reply, is_final};
pub use events::{ServerEvent, Socket, Sse, SseItem};
pub use own_servers::OwnServers;
pub use process::{Output, binary, python_script, raglan};
pub use proxy::{Proxy, Traffic};
pub use receiver::{Receiver, Response, Webhook};
pub use server::{ROLES, Server, ServerOptions, merge};
pub use shape::{Addresses, Shape};

/// How long anything may take before a test gives up. Far beyond what is usual, so that a slow machine breaks no test.
pub const BOUND: Duration = Duration::from_secs(150);

/// Between two looks at something that is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Asks until there is an answer; panics after [`BOUND`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, asking).await
}

/// What a future brings; panics after [`BOUND`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {BOUND:?}"),
    }
}

/// Says that a test (or a part of one) was left out and why, on its output and in the file that `RAGLAN_TEST_SKIPPED` names.
pub fn skip(name: &str, reason: &str) {
    println!("skipped {name}: {reason}");
    if let Some(path) = std::env::var_os("RAGLAN_TEST_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        // One write, so that tests that run at once do not mix their lines.
        file.write_all(format!("{name}: {}\n", reason.replace('\n', " ")).as_bytes()).unwrap();
    }
}

/// The Python that has the packages of `tests/python/requirements.txt`, where there is one.
#[must_use]
pub fn python() -> Option<PathBuf> {
    std::env::var_os("RAGLAN_TEST_PYTHON").map(PathBuf::from)
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
