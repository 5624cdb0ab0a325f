//! `raglan models pull`: fetches the configured models, for machines that will have no network later.

use clap::Subcommand;

use crate::{
    compose::{embedding_model, language_model},
    config::{Config, Generator},
    terminal::Stderr,
};

/// Look after models.
#[derive(Debug, Subcommand)]
pub enum Models {
    /// Fetch the configured embedding model, and the language models that are named by a hub, now.
    Pull {
        /// Print the folder as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(config: &Config, models: Models) -> anyhow::Result<()> {
    let Models::Pull { json } = models;
    let folder = embedding_model(&config.models).await?;
    let mut language_models = Vec::new();
    for generator in &config.generators {
        if let Generator::Candle(settings) = generator {
            language_models.push((&settings.model, language_model(&settings.model, &config.models).await?));
        }
    }
    if folder.is_none() {
        Stderr::new().line("the configuration wants no embedding model");
    }
    if json {
        let mut found = match &folder {
            Some(folder) => serde_json::json!({"model": folder.name(), "path": folder.path()}),
            None => serde_json::json!({"model": null}),
        };
        if !language_models.is_empty() {
            let listed =
                language_models.iter().map(|(model, path)| serde_json::json!({"model": model, "path": path}));
            found["language_models"] = listed.collect();
        }
        return crate::print_json(&found);
    }
    if let Some(folder) = folder {
        crate::print_line(&format!("{} is in {}", folder.name(), folder.path().display()))?;
    }
    for (model, path) in language_models {
        crate::print_line(&format!("{model} is in {}", path.display()))?;
    }
    Ok(())
}
