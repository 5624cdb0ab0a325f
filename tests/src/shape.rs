//! The two shapes that the same tests run over.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

/// How the parts are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Everything in one process.
    Embedded,
    /// `raglan api` and `raglan worker`, over PostgreSQL, RabbitMQ and Redis.
    Distributed,
}

impl Shape {
    /// What `RAGLAN_TEST_SHAPE` says; embedded where it says nothing.
    ///
    /// # Panics
    /// Where it says something else.
    #[must_use]
    pub fn of_this_run() -> Self {
        match std::env::var("RAGLAN_TEST_SHAPE").as_deref() {
            Err(_) | Ok("embedded") => Self::Embedded,
            Ok("distributed") => Self::Distributed,
            Ok(other) => panic!("RAGLAN_TEST_SHAPE is embedded or distributed, not {other}"),
        }
    }
}

/// Where the servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// PostgreSQL.
    pub postgres: String,
    /// RabbitMQ.
    pub amqp: String,
    /// Redis.
    pub redis: String,
}

impl Default for Addresses {
    /// What the variables of `scripts/services` say, else the usual places on this machine.
    fn default() -> Self {
        let address =
            |variable: &str, usual: &str| std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
        Self {
            postgres: address("RAGLAN_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres"),
            amqp: address("RAGLAN_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
            redis: address("RAGLAN_TEST_REDIS_URL", "redis://127.0.0.1:6379"),
        }
    }
}

/// What one test has on the servers: a schema, queues and keys of its own.
#[derive(Debug)]
pub(crate) struct Servers {
    name: String,
    addresses: Addresses,
}

impl Servers {
    /// Signs webhooks.
    pub(crate) const SIGNING_SECRET: &str = "whsec_dGVzdHMgc2lnbiB3aXRoIHRoaXMgc2VjcmV0";

    /// Names that nobody else has, on these servers.
    pub(crate) fn new(addresses: Addresses) -> Self {
        Self { name: format!("test_{}", uuid::Uuid::new_v4().simple()), addresses }
    }

    /// The settings that lead to them.
    pub(crate) fn config(&self) -> Value {
        let Addresses { postgres, amqp, redis } = &self.addresses;
        json!({
            "postgres": {"url": postgres, "schema": self.name, "connections": 4},
            // Each lane is four times three queues to declare; what lanes are for is tested with the broker.
            "rabbitmq": {"url": amqp, "prefix": self.name, "lanes": 1},
            "redis": {"url": redis, "prefix": self.name},
            "webhooks": {"signing_secrets": [Self::SIGNING_SECRET]},
        })
    }
}

/// Removes what a test has left on the servers.
pub(crate) fn clear(config: &Path, folder: &Path) {
    let removed = Command::new(crate::binary())
        .args(["destroy", "--yes", "--config"])
        .arg(config)
        .current_dir(folder)
        .output();
    match removed {
        Ok(output) if output.status.success() => {}
        other => println!("what the test left on the servers was not removed: {other:?}"),
    }
}
