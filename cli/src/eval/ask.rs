//! Putting questions to `POST /v1/queries`, and waiting for their answers.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    dataset::Question,
    metrics::text,
    search::{milliseconds, patiently, texts},
};
use crate::{
    client::{Api, ApiError},
    terminal::{Bar, string},
};

/// How long a request waits for the end of its job before it is sent again, in seconds.
const WAIT_S: u64 = 30;

/// How questions are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskSettings {
    /// Where to look.
    pub collection: String,
    /// The query pipeline; the server's default where absent.
    pub pipeline: Option<String>,
}

/// What came of one question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The text, without the markers of its citations.
    pub text: String,
    /// Whether the documents were said to hold an answer.
    pub found: bool,
    /// External ids of the cited documents, in the order of their markers.
    pub cited: Vec<String>,
    /// From the request to the end of the job, in milliseconds.
    pub took_ms: f64,
    /// What wrote it.
    pub model: String,
    /// What could not take part.
    pub degraded: Vec<String>,
    /// Why there is no answer, where the job did not succeed.
    pub failed: Option<String>,
}

/// Asks every question, never from the cache; the answers in the order of the questions. A job that fails is an answer that was not found.
pub async fn ask(
    api: &Api,
    settings: &AskSettings,
    questions: &[Question],
    concurrency: usize,
) -> anyhow::Result<Vec<Option<Answer>>> {
    let bar = std::cell::RefCell::new((Bar::count("asking", questions.len() as u64), 0));
    let answers = stream::iter(questions)
        .map(async |question| {
            let answer = ask_one(api, settings, question)
                .await
                .map_err(|error| anyhow::Error::new(error).context(format!("question {:?}", question.id)))?;
            let (bar, done) = &mut *bar.borrow_mut();
            *done += 1;
            bar.set(*done, "");
            anyhow::Ok(Some(answer))
        })
        .buffered(concurrency)
        .try_collect()
        .await?;
    let (bar, done) = bar.into_inner();
    bar.finish(&format!("asked {done} questions in {:.1} s", bar.elapsed().as_secs_f64()));
    Ok(answers)
}

async fn ask_one(api: &Api, settings: &AskSettings, question: &Question) -> Result<Answer, ApiError> {
    let mut body = json!({"query": question.text, "collection": settings.collection, "cache": "bypass"});
    if let Some(pipeline) = &settings.pipeline {
        body["pipeline"] = json!(pipeline);
    }
    let (mut job, begun) = patiently(async || {
        let begun = Instant::now();
        let request = api.request(Method::POST, "/v1/queries").header("prefer", format!("wait={WAIT_S}"));
        Ok((api.send::<Value>(request.json(&body)).await?, begun))
    })
    .await?;
    while !matches!(string(&job, "status"), "succeeded" | "failed" | "cancelled" | "expired") {
        let path = format!("/v1/jobs/{}?wait={WAIT_S}", string(&job, "job_id"));
        job = patiently(async || api.get(&path).await).await?;
    }
    Ok(Answer { took_ms: milliseconds(begun.elapsed()), ..answer(&job) })
}

fn answer(job: &Value) -> Answer {
    let status = string(job, "status");
    if status != "succeeded" {
        let reason = job["error"]["message"].as_str().unwrap_or("it has no error");
        return Answer { failed: Some(format!("{status}: {reason}")), ..Answer::default() };
    }
    let result = &job["result"];
    let citations = result["citations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let markers = citations.iter().filter_map(|citation| citation["marker"].as_u64());
    Answer {
        text: text::without_markers(string(result, "answer"), markers).trim().to_owned(),
        found: result["found"] == true,
        cited: citations.iter().map(|citation| string(citation, "external_id").to_owned()).collect(),
        took_ms: 0.0,
        model: string(result, "model").to_owned(),
        degraded: texts(&result["degraded"]),
        failed: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_and_one_that_failed_is_no_answer() {
        let job = json!({"status": "succeeded", "result": {
            "answer": "It is blue [1]. See [3].", "found": true, "model": "extractive", "degraded": [],
            "citations": [{"marker": 1, "external_id": "a"}, {"marker": 2, "external_id": "b"}],
        }});
        let read = answer(&job);
        assert_eq!(read.text, "It is blue. See [3].");
        assert!(read.found && read.failed.is_none());
        assert_eq!(read.cited, ["a", "b"]);
        let job = json!({"status": "failed", "error": {"message": "no model"}, "result": null});
        assert_eq!(answer(&job).failed.as_deref(), Some("failed: no model"));
        assert!(!answer(&job).found);
    }
}
