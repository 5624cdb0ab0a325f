//! `raglan worker`: roles of the distributed shape.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};
use raglan_workers::Role;

use super::node::{self, Node};
use crate::config::Config;

/// Run one or more worker roles over PostgreSQL, RabbitMQ and Redis.
#[derive(Debug, Args)]
pub struct Worker {
    /// What this process does.
    #[arg(required = true, value_name = "ROLE")]
    pub roles: Vec<RoleName>,
    /// Where this machine's indexes are kept, instead of the configured folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where to answer /healthz, /readyz and /metrics, instead of the configured address; port 0 takes a free one.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// Finds passages for questions.
    Retrieval,
    /// Writes answers.
    Generation,
    /// Takes documents in.
    Ingestion,
    /// Sends webhooks.
    Webhook,
    /// Brings back what crashes left, and clears what has had its time. At least one process must do this.
    Maintenance,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Retrieval => Self::Retrieval,
            RoleName::Generation => Self::Generation,
            RoleName::Ingestion => Self::Ingestion,
            RoleName::Webhook => Self::Webhook,
            RoleName::Maintenance => Self::Maintenance,
        }
    }
}

pub async fn run(mut config: Config, command: Worker) -> anyhow::Result<()> {
    if let Some(data_dir) = command.data_dir {
        config.data_dir = data_dir;
    }
    let mut roles: Vec<Role> = command.roles.into_iter().map(Role::from).collect();
    roles.sort_unstable();
    roles.dedup();
    let listen = command.listen.or(config.workers.listen);
    node::run(Node { config, roles, api: false, listen }).await
}
