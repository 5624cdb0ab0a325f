//! Where the tests find their servers, and how they say that one is not there.

use std::io::Write;

/// The address of a server for tests: the variable, else the usual address on this machine.
fn address(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

#[cfg(feature = "postgres")]
pub(crate) fn postgres_url() -> String {
    address("RAGLAN_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
}

#[cfg(feature = "rabbitmq")]
pub(crate) fn amqp_url() -> String {
    address("RAGLAN_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
}

#[cfg(feature = "redis")]
pub(crate) fn redis_url() -> String {
    address("RAGLAN_TEST_REDIS_URL", "redis://127.0.0.1:6379")
}

/// Says that a test was left out and why, on its output and in the file that `RAGLAN_TEST_SKIPPED` names.
pub(crate) fn skipped(test: &str, why: &str) {
    println!("skipped {test}: {why}");
    if let Some(path) = std::env::var_os("RAGLAN_TEST_SKIPPED") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // One write, so that tests that run at once do not mix their lines.
        file.write_all(format!("{test}: {}\n", why.replace('\n', " ")).as_bytes()).unwrap();
    }
}
