//! Retrieval as a stage of a query job: the cache, the search, the stash.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{Retriever, SearchRequest};
use crate::{
    domain::{
        CacheMode, EventType, Job, JobError, JobResult, JobSpec, QueryResult, QuerySpec, Retrieved, Stage,
        Tenant, now,
    },
    lifecycle::Lifecycle,
    pipelines::{Pipelines, QueryPipeline},
    ports::{Cache, Namespace, Outcome},
    stage::{JobStage, StageContext, StageError, millis},
    submit::delta,
    view,
};

/// Finds the passages of a query job.
pub struct RetrievalStage {
    lifecycle: Arc<Lifecycle>,
    retriever: Arc<Retriever>,
    pipelines: Arc<Pipelines>,
}

impl RetrievalStage {
    /// The stage over these parts.
    #[must_use]
    pub fn new(lifecycle: Arc<Lifecycle>, retriever: Arc<Retriever>, pipelines: Arc<Pipelines>) -> Self {
        Self { lifecycle, retriever, pipelines }
    }
}

#[async_trait]
impl JobStage for RetrievalStage {
    async fn run(&self, job: &Job, context: &StageContext) -> Result<Outcome, StageError> {
        let (spec, pipeline) = query_of(job, &self.pipelines)?;
        let begun = Instant::now();
        context.events.say(EventType::Retrieving, json!({"status": job.status, "attempt": job.attempt}));
        if spec.cache == CacheMode::Use
            && let Some(result) = self.cached(job, spec, pipeline).await
        {
            let took_ms = None;
            return Ok(Outcome::Succeed { result: Box::new(JobResult::Query(result)), took_ms });
        }
        let searched = self.retriever.search(pipeline, &SearchRequest::of(job, spec)).await?;
        stash(self.lifecycle.as_ref(), job, &searched.retrieved).await?;
        context.events.say(EventType::Retrieved, view::retrieved_json(&searched.retrieved));
        Ok(Outcome::Advance {
            to: Stage::Generation,
            due_at: now() + delta(self.lifecycle.settings.republish_after),
            took_ms: millis(begun),
        })
    }
}

impl RetrievalStage {
    async fn cached(&self, job: &Job, spec: &QuerySpec, pipeline: &QueryPipeline) -> Option<QueryResult> {
        let key = answer_key(&job.tenant, spec, pipeline, &self.retriever.index_generation());
        let bytes = read(self.lifecycle.cache.as_ref(), Namespace::Answers, &key).await?;
        let mut result: QueryResult = serde_json::from_slice(&bytes).ok()?;
        result.cached = true;
        metrics::counter!("raglan_answers_cached_total").increment(1);
        Some(result)
    }
}

/// The question of a job with the pipeline that answers it.
pub(crate) fn query_of<'a>(
    job: &'a Job,
    pipelines: &'a Pipelines,
) -> Result<(&'a QuerySpec, &'a QueryPipeline), StageError> {
    let JobSpec::Query(spec) = &job.spec else {
        return Err(StageError::Permanent(JobError::permanent("wrong_stage", "the job is not a question")));
    };
    // Accepted under another configuration, perhaps.
    let pipeline = pipelines.query.get(&spec.pipeline).ok_or_else(|| {
        let message = format!("there is no query pipeline {:?} any more", spec.pipeline.as_str());
        StageError::Permanent(JobError::permanent("unknown_pipeline", message))
    })?;
    Ok((spec, pipeline))
}

/// The key of an answer in the cache: everything that decides the answer, the state of the documents included.
#[must_use]
pub fn answer_key(
    tenant: &Tenant,
    spec: &QuerySpec,
    pipeline: &QueryPipeline,
    index_generation: &str,
) -> String {
    let question = spec.query.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = json!([
        tenant,
        spec.collection,
        question,
        spec.filter,
        spec.top_k,
        spec.generation,
        pipeline,
        index_generation
    ]);
    format!("{:x}", Sha256::digest(parts.to_string().as_bytes()))
}

/// Stores the passages for the generation stage. Nothing can go on without them, so an error is an error here.
pub(crate) async fn stash(lifecycle: &Lifecycle, job: &Job, retrieved: &Retrieved) -> Result<(), StageError> {
    let bytes = serde_json::to_vec(retrieved)
        .map_err(|error| StageError::Permanent(JobError::permanent("internal", error.to_string())))?;
    let ttl = lifecycle.settings.passages_ttl;
    if let Err(error) =
        lifecycle.cache.put(Namespace::Passages, &job.id.to_string(), Bytes::from(bytes), ttl).await
    {
        // Generation retrieves again where it finds none.
        warn!(job_id = %job.id, %error, "passages not stashed");
    }
    Ok(())
}

/// A value of the cache; one that is down counts as a miss.
pub(crate) async fn read(cache: &dyn Cache, namespace: Namespace, key: &str) -> Option<Bytes> {
    match cache.get(namespace, key).await {
        Ok(value) => value,
        Err(error) => {
            warn!(namespace = namespace.as_str(), %error, "cache not read");
            None
        }
    }
}
