//! Embedders and re-rankers that run on servers of their own.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use raglan_backends::{
    embedder::remote::{EmbedDialect, RemoteEmbedder, RemoteEmbedderSettings},
    model_server::ServerSettings,
    models::ModelTokenizer,
    reranker::remote::{RemoteReranker, RemoteRerankerSettings, RerankDialect},
};
use raglan_pipeline::{
    ingestion::word_tokenizer::WordTokenizer,
    ports::{ModelError, Tokenize},
    secret::Secret,
};
use tokio::time::{Instant, sleep};
use tracing::info;
use url::Url;

use crate::config;

/// Between two tries to reach a server that does not answer yet.
const AGAIN: Duration = Duration::from_millis(500);

/// The embedder of a server, which may take `wait` to answer.
pub async fn remote_embedder(
    settings: &config::EmbeddingModel,
    wait: Duration,
) -> anyhow::Result<RemoteEmbedder> {
    let dialect = match settings.kind {
        config::EmbedderType::Tei => EmbedDialect::Tei,
        config::EmbedderType::Local | config::EmbedderType::Openai => EmbedDialect::OpenAi,
    };
    let tokenizer: Arc<dyn Tokenize> = match settings.tokenizer.clone() {
        Some(path) => {
            let load = move || ModelTokenizer::open(&path);
            Arc::new(tokio::task::spawn_blocking(load).await?.context("tokenizer")?)
        }
        None => Arc::new(WordTokenizer),
    };
    let mut server = server(settings.base_url.as_ref(), settings.api_key.as_ref(), settings.requests)?;
    server.timeout = Duration::from_secs(settings.timeout_s);
    let model = settings.model.clone().context("model: must be set")?;
    let usual = RemoteEmbedderSettings::new(server, dialect, model);
    let settings = RemoteEmbedderSettings {
        dimension: settings.dimension,
        max_tokens: settings.max_tokens,
        query_prefix: settings.query_prefix.clone().unwrap_or_default(),
        passage_prefix: settings.passage_prefix.clone().unwrap_or_default(),
        batch_texts: settings.batch_texts,
        batch_tokens: settings.batch_tokens.unwrap_or(usual.batch_tokens),
        ..usual
    };
    let deadline = Instant::now() + wait;
    let mut told = false;
    loop {
        let error = match RemoteEmbedder::open(settings.clone(), Arc::clone(&tokenizer)).await {
            Ok(embedder) => return Ok(embedder),
            Err(error) => error,
        };
        if !matches!(error, ModelError::TryLater { .. }) || Instant::now() + AGAIN >= deadline {
            return Err(error.into());
        }
        if !told {
            info!(%error, "embedding server does not answer yet; waiting for it");
            told = true;
        }
        sleep(AGAIN).await;
    }
}

/// The re-ranker of a server. Nothing is asked of it yet: without it, searches go on in the fused order.
pub fn remote_reranker(settings: &config::RerankerModel) -> anyhow::Result<RemoteReranker> {
    let dialect = match settings.kind {
        config::RerankerType::Cohere => RerankDialect::Cohere,
        config::RerankerType::Local | config::RerankerType::Tei => RerankDialect::Tei,
    };
    let mut server = server(settings.base_url.as_ref(), settings.api_key.as_ref(), settings.requests)?;
    server.timeout = Duration::from_millis(settings.timeout_ms);
    // A question waits: a failure that passes at once is made good, and nothing else.
    server.tries.attempts = 2;
    let model = settings.model.clone().context("model: must be set")?;
    let usual = RemoteRerankerSettings::new(server, dialect, model);
    Ok(RemoteReranker::new(RemoteRerankerSettings { batch_texts: settings.batch_texts, ..usual })?)
}

fn server(
    base_url: Option<&Url>,
    api_key: Option<&Secret>,
    requests: usize,
) -> anyhow::Result<ServerSettings> {
    let base_url = base_url.cloned().context("base_url: must be set")?;
    Ok(ServerSettings { api_key: api_key.cloned(), requests, ..ServerSettings::new(base_url) })
}
