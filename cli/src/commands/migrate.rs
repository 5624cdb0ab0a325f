//! `raglan migrate`: the tables of the distributed shape.

use clap::Args;

use crate::{compose, config::Config};

/// Bring PostgreSQL's tables up to date. Processes of the version before go on working with them.
#[derive(Debug, Args)]
pub struct Migrate {}

pub async fn run(config: &Config) -> anyhow::Result<()> {
    compose::migrate(config).await?;
    crate::print_line(&format!("schema {:?} is up to date", config.postgres.schema))
}
