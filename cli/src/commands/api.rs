//! `raglan api`: the HTTP API of the distributed shape.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::node::{self, Node};
use crate::config::Config;

/// Run the HTTP API over PostgreSQL, RabbitMQ and Redis.
#[derive(Debug, Args)]
pub struct Api {
    /// Where this machine's indexes are kept, instead of the configured folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// Where to listen, instead of the configured address; port 0 takes a free one.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
}

pub async fn run(mut config: Config, command: Api) -> anyhow::Result<()> {
    if let Some(data_dir) = command.data_dir {
        config.data_dir = data_dir;
    }
    let listen = Some(config.server.listen);
    node::run(Node { config, roles: Vec::new(), api: true, listen }).await
}
