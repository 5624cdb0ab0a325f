//! `raglan models pull`: fetches the configured models, for machines that will have no network later.

use clap::Subcommand;

use crate::{compose::embedding_model, config::Config, terminal::Stderr};

/// Look after models.
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Fetch the configured embedding model now.
    Pull {
        /// Print the folder as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(config: &Config, models: Models) -> anyhow::Result<()> {
    let Models::Pull { json } = models;
    let folder = embedding_model(&config.models).await?;
    let Some(folder) = folder else {
        Stderr::new().line("the configuration wants no embedding model in this process");
        return if json { crate::print_json(&serde_json::json!({"model": null})) } else { Ok(()) };
    };
    if json {
        return crate::print_json(&serde_json::json!({"model": folder.name(), "path": folder.path()}));
    }
    crate::print_line(&format!("{} is in {}", folder.name(), folder.path().display()))
}
