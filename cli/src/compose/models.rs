//! The models of a process: fetched, loaded, or known to be missing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use raglan_backends::{
    embedder::local::{EmbedderSettings, LocalEmbedder},
    models::{
        BatchSettings, GpuPrecision, ModelFolder, ModelSource, ModelSpec, Placement, Precision, Progress,
        default_cache_dir, fetch,
    },
    reranker::local::LocalReranker,
};
use raglan_pipeline::{
    decorators::breaker::{BreakerEmbedder, BreakerReranker, BreakerSettings, CircuitBreaker},
    ports::{Embedder, Reranker},
    retrieval::EmbedderSlot,
};
use tracing::{info, warn};

use super::{remote_embedder, remote_reranker};
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

/// The folder of the configured embedding model, fetched where it is not there yet. None where the configuration wants none in this process.
pub async fn embedding_model(settings: &config::Models) -> anyhow::Result<Option<ModelFolder>> {
    let embedding = &settings.embedding;
    let none = embedding.path.is_none() && embedding.name == "none";
    if none || embedding.kind != config::EmbedderType::Local {
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

    /// Loads what the configuration names. A local embedding model that cannot be fetched is no reason not to start: search is by keywords then, and
    /// results say so. Everything else that is configured must be there; a server may take `wait_s` to answer.
    pub async fn load(settings: &config::Models, wait_s: u64) -> anyhow::Result<Self> {
        let (embedder, reranker) = tokio::join!(embedder(settings, wait_s), reranker(settings));
        Ok(Self { embedder: embedder?, reranker: reranker? })
    }
}

async fn embedder(settings: &config::Models, wait_s: u64) -> anyhow::Result<EmbedderSlot> {
    let embedding = &settings.embedding;
    let embedder = if embedding.kind == config::EmbedderType::Local {
        match embedding_model(settings).await {
            Ok(Some(folder)) => local_embedder(folder, embedding).await?,
            Ok(None) => return Ok(EmbedderSlot::Off),
            Err(error) if embedding.path.is_some() => return Err(error),
            Err(error) => {
                warn!("{error:#}");
                warn!(
                    "starting without an embedding model: search is by keywords alone until one can be had and the process is started again"
                );
                return Ok(EmbedderSlot::Missing);
            }
        }
    } else {
        let embedder = remote_embedder(embedding, Duration::from_secs(wait_s)).await;
        Arc::new(embedder.context("models.embedding")?)
    };
    let info = embedder.info();
    info!(model = info.model, dimension = info.dimension, "embedding model loaded");
    let breaker = CircuitBreaker::new("embedder", BreakerSettings::default());
    Ok(EmbedderSlot::Ready(Arc::new(BreakerEmbedder::new(embedder, breaker))))
}

async fn reranker(settings: &config::Models) -> anyhow::Result<Option<Arc<dyn Reranker>>> {
    let reranker: Arc<dyn Reranker> = match (settings.reranker.kind, &settings.reranker.path) {
        (config::RerankerType::Local, None) => return Ok(None),
        (config::RerankerType::Local, Some(path)) => local_reranker(path, settings).await?,
        _ => Arc::new(remote_reranker(&settings.reranker).context("models.reranker")?),
    };
    info!(model = reranker.model(), "re-ranker loaded");
    let breaker = CircuitBreaker::new("reranker", BreakerSettings::default());
    Ok(Some(Arc::new(BreakerReranker::new(reranker, breaker))))
}

fn batches(settings: &config::EmbeddingModel, placement: Placement) -> BatchSettings {
    let mut batches = BatchSettings::of(placement);
    batches.batch_tokens = settings.batch_tokens.unwrap_or(batches.batch_tokens);
    if settings.threads > 0 && matches!(placement, Placement::Cpu(_)) {
        batches.workers = settings.threads;
    }
    batches
}

/// The configuration has made sure that device and numbers fit each other.
pub fn placement(device: config::ModelDevice, precision: Option<config::Precision>) -> Placement {
    use config::Precision::{F16, F32, Int8};
    match (device, precision) {
        (config::ModelDevice::Cpu, None | Some(Int8 | F16)) => Placement::Cpu(Precision::Int8),
        (config::ModelDevice::Cpu, Some(F32)) => Placement::Cpu(Precision::F32),
        (config::ModelDevice::Cuda(number), Some(F32)) => Placement::Cuda(number, GpuPrecision::F32),
        (config::ModelDevice::Cuda(number), None | Some(Int8 | F16)) => {
            Placement::Cuda(number, GpuPrecision::F16)
        }
    }
}

async fn local_embedder(
    folder: ModelFolder,
    settings: &config::EmbeddingModel,
) -> anyhow::Result<Arc<dyn Embedder>> {
    let placement = placement(settings.device, settings.precision);
    let batches = batches(settings, placement);
    let settings = EmbedderSettings {
        placement,
        query_prefix: settings.query_prefix.clone(),
        passage_prefix: settings.passage_prefix.clone(),
    };
    let load = move || LocalEmbedder::load(&folder, &settings, &batches);
    Ok(Arc::new(tokio::task::spawn_blocking(load).await?.context("models.embedding")?))
}

async fn local_reranker(path: &Path, settings: &config::Models) -> anyhow::Result<Arc<dyn Reranker>> {
    let placement = placement(settings.reranker.device, settings.reranker.precision);
    let (path, batches) = (path.to_owned(), batches(&settings.embedding, placement));
    let load = move || LocalReranker::load(&ModelFolder::open(&path)?, placement, &batches);
    Ok(Arc::new(tokio::task::spawn_blocking(load).await?.context("models.reranker")?))
}
