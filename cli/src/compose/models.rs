//! The models of a process: fetched, loaded, or known to be missing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::Context;
use raglan_backends::{
    embedder::packed::{EmbedderSettings, PackedEmbedder},
    models::{
        BatchSettings, ModelFolder, ModelSource, ModelSpec, Precision, Progress, default_cache_dir, fetch,
    },
    reranker::packed::PackedReranker,
};
use raglan_pipeline::{
    decorators::breaker::{BreakerEmbedder, BreakerSettings, CircuitBreaker},
    ports::Reranker,
    retrieval::EmbedderSlot,
};
use tracing::{info, warn};

use crate::{config, terminal::Bar};

/// The models that a process runs.
pub struct Models {
    /// Makes vectors.
    pub embedder: EmbedderSlot,
    /// Re-ranks.
    pub reranker: Option<Arc<dyn Reranker>>,
}

/// Shows a download as a bar.
#[derive(Default)]
pub(super) struct Download(Mutex<Option<(Bar, String)>>);

impl Download {
    fn with(&self, act: impl FnOnce(&mut Option<(Bar, String)>)) {
        // A poisoned lock holds a bar that is as good as any other.
        act(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Progress for Download {
    fn start(&self, what: &str, total: Option<u64>) {
        self.with(|bar| *bar = Some((Bar::bytes(what, total), what.to_owned())));
    }

    fn advance(&self, done: u64) {
        self.with(|bar| {
            if let Some((bar, _)) = bar {
                bar.set(done, "");
            }
        });
    }

    fn finish(&self) {
        self.with(|bar| {
            if let Some((bar, what)) = bar.take() {
                bar.finish(&format!("{what}: {:.1} s", bar.elapsed().as_secs_f64()));
            }
        });
    }
}

/// The folder of the configured embedding model, fetched where it is not there yet. None where the configuration wants none.
pub async fn embedding_model(settings: &config::Models) -> anyhow::Result<Option<ModelFolder>> {
    let embedding = &settings.embedding;
    if embedding.path.is_none() && embedding.name == "none" {
        return Ok(None);
    }
    let source = match &embedding.path {
        Some(path) => ModelSource::Folder(path.clone()),
        None => ModelSource::Automatic,
    };
    let spec = match (&embedding.path, ModelSpec::find(&embedding.name)) {
        (_, Some(spec)) => spec,
        (Some(_), None) => ModelSpec::all_minilm_l6_v2(),
        (None, None) => {
            let known: Vec<String> = ModelSpec::built_in().into_iter().map(|spec| spec.name).collect();
            anyhow::bail!(
                "models.embedding.name: {:?} is not known; there are: {}, none",
                embedding.name,
                known.join(", ")
            )
        }
    };
    let cache = cache_dir(settings)?;
    let folder = fetch(&spec, &source, &cache, &Download::default(), settings.offline).await?;
    Ok(Some(folder))
}

pub(super) fn cache_dir(settings: &config::Models) -> anyhow::Result<PathBuf> {
    settings
        .cache_dir
        .clone()
        .or_else(|| default_cache_dir(std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")))
        .context("models.cache_dir: must be set, since neither HOME nor XDG_CACHE_HOME is")
}

impl Models {
    /// None at all, for a process that embeds nothing.
    pub fn none() -> Self {
        Self { embedder: EmbedderSlot::Off, reranker: None }
    }

    /// Loads what the configuration names. An embedding model that cannot be had is no reason not to start: search is by keywords then, and
    /// results say so. A re-ranker that is configured must load.
    pub async fn load(settings: &config::Models) -> anyhow::Result<Self> {
        let embedder = match embedding_model(settings).await {
            Ok(Some(folder)) => load_embedder(folder, &settings.embedding).await?,
            Ok(None) => EmbedderSlot::Off,
            Err(error) if settings.embedding.path.is_some() => return Err(error),
            Err(error) => {
                warn!("{error:#}");
                warn!(
                    "starting without an embedding model: search is by keywords alone until one can be had and the process is started again"
                );
                EmbedderSlot::Missing
            }
        };
        let reranker = match &settings.reranker.path {
            Some(path) => Some(load_reranker(path, settings).await?),
            None => None,
        };
        Ok(Self { embedder, reranker })
    }
}

fn batches(settings: &config::EmbeddingModel) -> BatchSettings {
    let defaults = BatchSettings { batch_tokens: settings.batch_tokens, ..BatchSettings::default() };
    if settings.threads == 0 { defaults } else { BatchSettings { workers: settings.threads, ..defaults } }
}

fn precision(configured: config::Precision) -> Precision {
    match configured {
        config::Precision::Int8 => Precision::Int8,
        config::Precision::F32 => Precision::F32,
    }
}

async fn load_embedder(
    folder: ModelFolder,
    settings: &config::EmbeddingModel,
) -> anyhow::Result<EmbedderSlot> {
    let batches = batches(settings);
    let settings = EmbedderSettings {
        precision: precision(settings.precision),
        query_prefix: settings.query_prefix.clone(),
        passage_prefix: settings.passage_prefix.clone(),
    };
    let load = move || PackedEmbedder::load(&folder, &settings, &batches);
    let embedder: Arc<dyn raglan_pipeline::ports::Embedder> =
        Arc::new(tokio::task::spawn_blocking(load).await??);
    let embedder_info = embedder.info();
    info!(model = embedder_info.model, dimension = embedder_info.dimension, "embedding model loaded");
    let breaker = CircuitBreaker::new("embedder", BreakerSettings::default());
    Ok(EmbedderSlot::Ready(Arc::new(BreakerEmbedder::new(embedder, breaker))))
}

async fn load_reranker(path: &Path, settings: &config::Models) -> anyhow::Result<Arc<dyn Reranker>> {
    let (path, batches) = (path.to_owned(), batches(&settings.embedding));
    let precision = precision(settings.reranker.precision);
    let load = move || PackedReranker::load(&ModelFolder::open(&path)?, precision, &batches);
    let reranker = tokio::task::spawn_blocking(load).await??;
    info!(model = reranker.model(), "re-ranker loaded");
    Ok(Arc::new(reranker))
}
