//! The models: whether a folder holds one, whether a server answers as it should.

use std::time::{Duration, Instant};

use raglan_backends::models::{ModelFolder, ModelSpec, Placement};
use raglan_pipeline::{
    domain::EmbedPurpose,
    ports::{Embedder, ModelError, Reranker},
};

use super::{Report, State};
use crate::{
    compose::{embedding_model, placement, remote_embedder, remote_reranker},
    config::{self, EmbedderType, RerankerType},
};

const EMBEDDING: &str = "models.embedding";
const RERANKER: &str = "models.reranker";

/// What embeds.
pub(super) async fn embedding(settings: &config::Models, report: &mut Report) {
    let embedding = &settings.embedding;
    if embedding.kind != EmbedderType::Local {
        return embedding_server(embedding, report).await;
    }
    match embedding_model(settings).await {
        Ok(Some(folder)) => {
            let known = if ModelSpec::find(folder.name()).is_some() { "known" } else { "given by path" };
            let detail =
                format!("{} ({known}), {}, on {}", folder.name(), folder.path().display(), embedding.device);
            local(EMBEDDING, detail, placement(embedding.device, embedding.precision), report).await;
        }
        Ok(None) => report.add(EMBEDDING, State::Ok, "none: keyword search alone"),
        Err(error) if embedding.path.is_some() => {
            report.add(EMBEDDING, State::Problem, format!("{error:#}"));
        }
        Err(error) => report.add(EMBEDDING, State::Warning, format!("{error:#}")),
    }
}

/// A local model that is there, and whether it can run where it is to run.
async fn local(part: &str, detail: String, placement: Placement, report: &mut Report) {
    match tokio::task::spawn_blocking(move || placement.check()).await {
        Ok(Ok(())) => report.add(part, State::Ok, detail),
        Ok(Err(error)) => report.add(part, State::Problem, error.to_string()),
        Err(error) => report.add(part, State::Problem, error.to_string()),
    }
}

async fn embedding_server(settings: &config::EmbeddingModel, report: &mut Report) {
    let embedder = match remote_embedder(settings, Duration::ZERO).await {
        Ok(embedder) => embedder,
        Err(error) => return report.add(EMBEDDING, State::Problem, format!("{error:#}")),
    };
    let begun = Instant::now();
    // With a dimension, it opens without its server.
    match embedder.embed(vec!["check".to_owned()], EmbedPurpose::Query).await {
        Ok(_) => {
            let (info, took) = (embedder.info(), begun.elapsed().as_millis());
            let detail = format!("{} answers in {took} ms, {} numbers a vector", info.model, info.dimension);
            report.add(EMBEDDING, State::Ok, detail);
        }
        Err(error) => report.add(EMBEDDING, severity(&error), error.to_string()),
    }
}

/// What re-ranks.
pub(super) async fn reranker(settings: &config::RerankerModel, report: &mut Report) {
    match (settings.kind, settings.path.clone()) {
        (RerankerType::Local, None) => report.add(RERANKER, State::Ok, "none: the fused order stands"),
        (RerankerType::Local, Some(path)) => {
            match tokio::task::spawn_blocking(move || ModelFolder::open(&path)).await {
                Ok(Ok(folder)) => {
                    let detail =
                        format!("{}, {}, on {}", folder.name(), folder.path().display(), settings.device);
                    local(RERANKER, detail, placement(settings.device, settings.precision), report).await;
                }
                Ok(Err(error)) => report.add(RERANKER, State::Problem, error.to_string()),
                Err(error) => report.add(RERANKER, State::Problem, error.to_string()),
            }
        }
        _ => reranking_server(settings, report).await,
    }
}

async fn reranking_server(settings: &config::RerankerModel, report: &mut Report) {
    let reranker = match remote_reranker(settings) {
        Ok(reranker) => reranker,
        Err(error) => return report.add(RERANKER, State::Problem, format!("{error:#}")),
    };
    let begun = Instant::now();
    match reranker.score("check", vec!["check".to_owned()]).await {
        Ok(_) => {
            let detail = format!("{} answers in {} ms", reranker.model(), begun.elapsed().as_millis());
            report.add(RERANKER, State::Ok, detail);
        }
        Err(error) => report.add(RERANKER, severity(&error), error.to_string()),
    }
}

/// What may pass is a warning: processes start without the server.
fn severity(error: &ModelError) -> State {
    if matches!(error, ModelError::TryLater { .. }) { State::Warning } else { State::Problem }
}
