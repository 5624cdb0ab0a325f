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

/// Where Qdrant answers (gRPC), where one does.
#[cfg(feature = "qdrant")]
pub(crate) fn qdrant_url() -> Option<String> {
    std::env::var("RAGLAN_TEST_QDRANT_URL").ok()
}

/// A bucket of S3-compatible storage, where there is one: `http://access_key:secret_key@host:port/bucket`.
#[cfg(feature = "s3")]
pub(crate) fn s3_url() -> Option<String> {
    std::env::var("RAGLAN_TEST_S3_URL").ok()
}

/// The Python that has the packages of `tests/python/requirements.txt`, where there is one.
#[cfg(feature = "s3")]
pub(crate) fn python() -> Option<std::path::PathBuf> {
    std::env::var_os("RAGLAN_TEST_PYTHON").map(std::path::PathBuf::from)
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
