//! `raglan destroy`: everything of one installation, gone from the servers.

use anyhow::bail;
use clap::Args;

use crate::{compose, config::Config};

/// Remove what this configuration's processes keep on PostgreSQL, RabbitMQ and Redis.
///
/// The schema with all jobs and documents, the queues, the keys. Stop the processes first. Blobs and Qdrant's collections are left where they are.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Say that this is meant.
    #[arg(long)]
    pub yes: bool,
}

pub async fn run(config: &Config, command: Destroy) -> anyhow::Result<()> {
    if !command.yes {
        bail!(
            "this removes the schema {:?} with all jobs and documents, the queues and keys that begin with {:?} and {:?}; \
             say so with --yes",
            config.postgres.schema,
            config.rabbitmq.prefix,
            config.redis.prefix
        );
    }
    compose::destroy(config).await?;
    crate::print_line("everything removed")
}
