//! What writes the answers: made, or loaded, before work is taken.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use raglan_backends::{
    generator::{
        ExtractiveGenerator, ExtractiveSettings, OpenAiGenerator, OpenAiSettings, SimulatedGenerator,
        SimulatedSettings, candle::CandleGenerator,
    },
    models::{Repository, fetch_repository},
};
use raglan_pipeline::ports::Generator;
use tracing::{info, warn};

use super::models::{Download, cache_dir};
use crate::{
    compose::Models,
    config::{self, Config},
};

/// The configured generators by their names.
pub(super) async fn generators(
    config: &Config,
    models: &Models,
) -> anyhow::Result<BTreeMap<String, Arc<dyn Generator>>> {
    let mut made: BTreeMap<String, Arc<dyn Generator>> = BTreeMap::new();
    for settings in &config.generators {
        made.insert(settings.name().to_owned(), generator(settings, config, models).await?);
    }
    Ok(made)
}

async fn generator(
    settings: &config::Generator,
    config: &Config,
    models: &Models,
) -> anyhow::Result<Arc<dyn Generator>> {
    Ok(match settings {
        config::Generator::Extractive(_) => {
            Arc::new(ExtractiveGenerator::new(models.embedder.clone(), ExtractiveSettings::default()))
        }
        config::Generator::Openai(given) => {
            let mut settings = OpenAiSettings::new(given.base_url.clone(), given.model.clone());
            settings.api_key.clone_from(&given.api_key);
            settings.context_tokens = given.context_tokens.or(settings.context_tokens);
            for (slot, seconds) in [
                (&mut settings.connect_timeout, given.connect_timeout_s),
                (&mut settings.first_token_timeout, given.first_token_timeout_s),
                (&mut settings.idle_timeout, given.idle_timeout_s),
            ] {
                *slot = seconds.map_or(*slot, Duration::from_secs);
            }
            Arc::new(OpenAiGenerator::new(settings)?)
        }
        config::Generator::Simulated(given) => Arc::new(SimulatedGenerator::new(SimulatedSettings {
            tokens: given.tokens,
            tokens_per_s: given.tokens_per_s,
            first_token_ms: given.first_token_ms,
        })),
        config::Generator::Candle(given) => Arc::new(candle(given, config).await?),
    })
}

async fn candle(given: &config::Candle, config: &Config) -> anyhow::Result<CandleGenerator> {
    let at = || format!("generators.{}", given.name);
    let folder = language_model(&given.model, &config.models).await.with_context(at)?;
    let loading = CandleGenerator::load(given.settings(&folder), Arc::new(Download::default()));
    let generator = loading.await.with_context(at)?;
    let info = generator.info();
    info!(
        model = given.model,
        device = info.device,
        dtype = info.dtype,
        weight_bytes = info.weight_bytes,
        cache_bytes = info.cache_bytes,
        context_tokens = info.limits.longest(),
        "language model loaded"
    );
    if config.workers.generation < info.limits.sequences {
        warn!(
            generation = config.workers.generation,
            max_sequences = info.limits.sequences,
            "workers.generation is below max_sequences: the engine never runs as many texts at once as it could"
        );
    }
    Ok(generator)
}

/// Where a language model's files are: a folder or file of this machine, or a repository of the hub, which is fetched.
pub(crate) async fn language_model(model: &str, settings: &config::Models) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let Some(repository) = Repository::parse(model) else {
        anyhow::bail!(
            "there is no folder or .gguf file {model}, and it is no name of a hub's repository (owner/name)"
        );
    };
    let cache = cache_dir(settings)?;
    Ok(fetch_repository(&repository, &cache, Arc::new(Download::default()), settings.offline).await?)
}
