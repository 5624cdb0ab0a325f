//! Generation as a stage of a query job: the passages, the prompt, the stream, the citations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use tracing::warn;

use super::{
    citations::CitationFilter,
    prompt::{NOT_FOUND, Prompt, PromptBuilder},
};
use crate::{
    domain::{
        Degraded, EventType, FinishReason, Job, JobError, JobResult, Passage, QueryResult, QuerySpec,
        Retrieved, Usage,
    },
    lifecycle::Lifecycle,
    pipelines::{Pipelines, QueryPipeline},
    ports::{Generated, GenerationRequest, Generator, Namespace, Outcome, Place, Tokenize},
    retrieval::{Retriever, SearchRequest, answer_key, query_of, read},
    stage::{JobStage, StageContext, StageError, millis},
};

/// How long an answer stays in the cache. It is dropped earlier when documents change, since its key names their state.
const ANSWER_TTL: Duration = Duration::from_secs(3_600);

/// Writes the answers of query jobs.
pub struct GenerationStage {
    lifecycle: Arc<Lifecycle>,
    retriever: Arc<Retriever>,
    pipelines: Arc<Pipelines>,
    generators: BTreeMap<String, Arc<dyn Generator>>,
}

/// An answer, complete.
struct Answer {
    text: String,
    citations: Vec<crate::domain::Citation>,
    reason: FinishReason,
    usage: Usage,
    found: bool,
    degraded: Vec<Degraded>,
}

impl GenerationStage {
    /// The stage over these parts; `generators` by the names that query pipelines use.
    #[must_use]
    pub fn new(
        lifecycle: Arc<Lifecycle>,
        retriever: Arc<Retriever>,
        pipelines: Arc<Pipelines>,
        generators: BTreeMap<String, Arc<dyn Generator>>,
    ) -> Self {
        Self { lifecycle, retriever, pipelines, generators }
    }
}

#[async_trait]
impl JobStage for GenerationStage {
    /// A place with every generator that a pipeline names: which of them the next job needs is known only once it is taken.
    async fn place(&self) -> Place {
        let mut place = Place::default();
        for (name, generator) in &self.generators {
            if self.pipelines.query.values().any(|pipeline| pipeline.generate.generator == *name) {
                place = place.and(generator.place().await);
            }
        }
        place
    }

    async fn run(&self, job: &Job, context: &StageContext) -> Result<Outcome, StageError> {
        let (spec, pipeline) = query_of(job, &self.pipelines)?;
        let name = &pipeline.generate.generator;
        let generator = self.generators.get(name).ok_or_else(|| {
            let message =
                format!("the generator {name:?} of pipeline {:?} is not configured", spec.pipeline.as_str());
            StageError::Permanent(JobError::permanent("unknown_generator", message))
        })?;
        let mut retrieved = self.passages(job, spec, pipeline).await?;
        let begun = std::time::Instant::now();
        let data = json!({"status": job.status, "attempt": job.attempt, "model": generator.model()});
        context.events.say(EventType::Generating, data);
        let answer = answer(spec, pipeline, generator.as_ref(), &retrieved.passages, context).await?;
        retrieved.degraded.extend(answer.degraded);
        retrieved.degraded.sort_unstable();
        retrieved.degraded.dedup();
        let result = QueryResult {
            answer: answer.text,
            found: answer.found,
            citations: answer.citations,
            usage: answer.usage,
            model: generator.model().to_owned(),
            finish_reason: answer.reason,
            index_generation: retrieved.index_generation,
            cached: false,
            degraded: retrieved.degraded,
        };
        self.remember(job, spec, pipeline, &result).await;
        Ok(Outcome::Succeed { result: Box::new(JobResult::Query(result)), took_ms: Some(millis(begun)) })
    }
}

impl GenerationStage {
    /// The passages that retrieval stashed; where they have gone, they are retrieved again.
    async fn passages(
        &self,
        job: &Job,
        spec: &QuerySpec,
        pipeline: &QueryPipeline,
    ) -> Result<Retrieved, StageError> {
        let stashed = read(self.lifecycle.cache.as_ref(), Namespace::Passages, &job.id.to_string()).await;
        if let Some(retrieved) = stashed.and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(retrieved);
        }
        warn!(job_id = %job.id, "passages gone before generation; retrieving again");
        let mut retrieved = self.retriever.search(pipeline, &SearchRequest::of(job, spec)).await?.retrieved;
        crate::retrieval::stash(&self.lifecycle, job, &retrieved).await?;
        retrieved.degraded.push(Degraded::PassagesEvicted);
        Ok(retrieved)
    }

    /// Keeps an answer for the same question over the same documents. One that something was missing from, or that chance had a part in, is not kept.
    async fn remember(&self, job: &Job, spec: &QuerySpec, pipeline: &QueryPipeline, result: &QueryResult) {
        if !result.degraded.is_empty() || spec.generation.temperature > 0.0 {
            return;
        }
        let key = answer_key(&job.tenant, spec, pipeline, &result.index_generation);
        let Ok(bytes) = serde_json::to_vec(result) else { return };
        if let Err(error) =
            self.lifecycle.cache.put(Namespace::Answers, &key, Bytes::from(bytes), ANSWER_TTL).await
        {
            warn!(job_id = %job.id, %error, "answer not cached");
        }
    }
}

async fn answer(
    spec: &QuerySpec,
    pipeline: &QueryPipeline,
    generator: &dyn Generator,
    passages: &[Passage],
    context: &StageContext,
) -> Result<Answer, StageError> {
    // Without a source no generator can know anything: a model asked all the same would make something up.
    if passages.is_empty() {
        context.events.say_text(NOT_FOUND);
        return Ok(Answer {
            text: NOT_FOUND.to_owned(),
            citations: Vec::new(),
            reason: FinishReason::Stop,
            usage: Usage::default(),
            found: false,
            degraded: Vec::new(),
        });
    }
    let answer_tokens = spec.generation.max_tokens as usize;
    let room = generator.context_tokens().map_or(usize::MAX, |most| most.saturating_sub(answer_tokens));
    let budget = pipeline.generate.max_prompt_tokens.min(room);
    let prompt = prompt(generator.tokenizer(), budget, &spec.query, passages).await?;
    let passages = &passages[..prompt.included];
    let request = GenerationRequest {
        question: spec.query.clone(),
        passages: passages.into(),
        system: prompt.system,
        user: prompt.user,
        options: spec.generation.clone(),
    };
    let mut stream = generator.generate(request, context.cancel.clone()).await.map_err(failed)?;
    let mut filter = CitationFilter::new(passages.len());
    while let Some(next) = stream.next().await {
        match next.map_err(failed)? {
            Generated::Delta(text) => say(context, &filter.push(&text)),
            Generated::End { reason, usage, found, degraded } => {
                let (rest, cited) = filter.finish(passages);
                say(context, &rest);
                let (text, citations) = (cited.answer, cited.citations);
                return Ok(Answer { text, citations, reason, usage, found, degraded });
            }
        }
    }
    let error = JobError::retryable("generation_failed", "the generator stopped without an end");
    Err(StageError::Retry { error, after: None })
}

fn say(context: &StageContext, text: &str) {
    if !text.is_empty() {
        context.events.say_text(text);
    }
}

/// The prompt within its budget. A tokeniser takes its time over it, and does so on a thread that may be kept; an estimate is quick.
async fn prompt(
    tokenizer: Option<Arc<dyn Tokenize>>,
    budget: usize,
    question: &str,
    passages: &[Passage],
) -> Result<Prompt, StageError> {
    let Some(tokenizer) = tokenizer else {
        return PromptBuilder::new(Some(budget), None).build(question, passages).map_err(failed);
    };
    let (question, passages) = (question.to_owned(), passages.to_vec());
    let build =
        move || PromptBuilder::new(Some(budget), Some(tokenizer.as_ref())).build(&question, &passages);
    let built = tokio::task::spawn_blocking(build).await.map_err(|error| StageError::Retry {
        error: JobError::retryable("internal", format!("the prompt was not built: {error}")),
        after: None,
    })?;
    built.map_err(failed)
}

fn failed(error: crate::ports::ModelError) -> StageError {
    StageError::from_model(error, "generation_failed")
}
