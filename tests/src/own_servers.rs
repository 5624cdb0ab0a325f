//! PostgreSQL, RabbitMQ and Redis that a test may kill.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{Addresses, repository};

/// Servers of the test's own, started by `scripts/services --own`. Dropped, they are stopped and their data is removed.
#[derive(Debug)]
pub struct OwnServers {
    folder: TempDir,
    addresses: Addresses,
}

impl OwnServers {
    /// Starts them.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn start() -> Self {
        // PostgreSQL may run as another user, who must get in.
        let open = std::fs::Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().prefix("raglan-servers-").permissions(open).tempdir().unwrap();
        let mut own = Self { folder, addresses: Addresses::default() };
        let output = own.run(&["--own", "start"]);
        let mut said: BTreeMap<&str, String> = output
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            // As bash quotes it.
            .map(|(name, value)| (name, value.replace('\\', "")))
            .collect();
        let mut address = |name| said.remove(name).unwrap_or_else(|| panic!("{name} is not among\n{output}"));
        own.addresses = Addresses {
            postgres: address("RAGLAN_TEST_POSTGRES_URL"),
            amqp: address("RAGLAN_TEST_AMQP_URL"),
            redis: address("RAGLAN_TEST_REDIS_URL"),
        };
        own
    }

    /// Where they are.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// SIGKILL of `postgres`, `rabbitmq` or `redis`.
    pub fn kill(&self, name: &str) {
        self.run(&["kill", name]);
    }

    /// Starts one again that was killed, at its old address.
    pub fn revive(&self, name: &str) {
        self.run(&["revive", name]);
    }

    /// RabbitMQ's own program; what it prints.
    #[must_use]
    pub fn rabbitmqctl(&self, arguments: &[&str]) -> String {
        self.run(&[&["rabbitmqctl"], arguments].concat())
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(repository().join("scripts/services"))
            .args(arguments)
            .env("RAGLAN_SERVICES_DIR", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "scripts/services {arguments:?}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }
}

impl Drop for OwnServers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would hide the first.
            let _ = Command::new(repository().join("scripts/services"))
                .arg("stop")
                .env("RAGLAN_SERVICES_DIR", self.folder.path())
                .output();
        } else {
            self.run(&["stop"]);
        }
    }
}
