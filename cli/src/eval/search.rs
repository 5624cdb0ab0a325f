//! Putting questions to `POST /v1/search`.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{dataset::Question, run_file::Run};
use crate::{
    client::{Api, ApiError},
    terminal::{Bar, string},
};

/// How often a request that the server is too full for is sent again.
const TRIES: u32 = 20;

/// Which search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSettings {
    /// Where to look.
    pub collection: String,
    /// `hybrid`, `vector` or `keyword`; the pipeline's own where absent.
    pub mode: Option<String>,
    /// The query pipeline; the server's default where absent.
    pub pipeline: Option<String>,
    /// How many documents are asked for.
    pub depth: usize,
}

/// What a search found for one question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranking {
    /// External ids and scores, the best first, each document once.
    pub documents: Vec<(String, f32)>,
    /// Titles of the first few, where they have any.
    pub titles: BTreeMap<String, String>,
    /// How long a search for as many passages as the pipeline gives took, from the request to the whole answer, in milliseconds; none where the
    /// ranking was read from a file.
    pub took_ms: Option<f64>,
    /// What could not take part.
    pub degraded: Vec<String>,
}

/// So many of the first documents are shown with their titles.
pub const SHOWN: usize = 3;

/// Asks every question that can be judged; what is found, in the order of the questions.
///
/// One question is asked before, and not counted: it finds what is wrong with the settings, and wakes what sleeps.
pub async fn rank(
    api: &Api,
    settings: &SearchSettings,
    questions: &[Question],
    concurrency: usize,
) -> anyhow::Result<Vec<Option<Ranking>>> {
    let judged = questions.iter().filter(|question| question.is_judged()).count();
    if let Some(first) = questions.iter().find(|question| question.is_judged()) {
        search(api, settings, first).await?;
    }
    let bar = std::cell::RefCell::new((Bar::count("searching", judged as u64), 0));
    let ranked = stream::iter(questions)
        .map(async |question| {
            if !question.is_judged() {
                return Ok(None);
            }
            let ranking = search(api, settings, question).await?;
            let (bar, done) = &mut *bar.borrow_mut();
            *done += 1;
            bar.set(*done, "");
            anyhow::Ok(Some(ranking))
        })
        .buffered(concurrency)
        .try_collect()
        .await?;
    let (bar, done) = bar.into_inner();
    bar.finish(&format!("searched for {done} questions in {:.1} s", bar.elapsed().as_secs_f64()));
    Ok(ranked)
}

/// Searches twice: first as anybody would, which is timed, and then as deep as rankings are measured.
async fn search(api: &Api, settings: &SearchSettings, question: &Question) -> anyhow::Result<Ranking> {
    let mut body = json!({"query": question.text, "collection": settings.collection});
    for (field, value) in [("mode", &settings.mode), ("pipeline", &settings.pipeline)] {
        if let Some(value) = value {
            body[field] = json!(value);
        }
    }
    let place = || format!("question {:?}", question.id);
    let took = patiently(async || {
        let begun = Instant::now();
        api.post::<Value>("/v1/search", &body).await?;
        Ok(begun.elapsed())
    })
    .await
    .with_context(place)?;
    body["top_k"] = json!(settings.depth);
    body["per_document"] = json!(1);
    let answer = patiently(async || api.post("/v1/search", &body).await).await.with_context(|| {
        format!("{} ({} documents were asked for; --depth asks for fewer)", place(), settings.depth)
    })?;
    let mut ranking = ranking(&answer).with_context(place)?;
    ranking.took_ms = Some(milliseconds(took));
    Ok(ranking)
}

/// Sends a request again while the server is too full for it.
pub(super) async fn patiently<T>(mut send: impl AsyncFnMut() -> Result<T, ApiError>) -> Result<T, ApiError> {
    let mut tries = 1;
    loop {
        match send().await {
            Err(ApiError::Refused { status: 429 | 503, retry_after, .. }) if tries < TRIES => {
                tokio::time::sleep(retry_after.unwrap_or(Duration::from_secs(1))).await;
                tries += 1;
            }
            sent => return sent,
        }
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// The documents of a search's passages, each where its best passage stands. (One passage of each document is asked for; should there be more,
/// the first counts.)
fn ranking(answer: &Value) -> anyhow::Result<Ranking> {
    let passages = answer["passages"].as_array().context("the answer has no passages")?;
    let mut ranking = Ranking::default();
    let mut seen = HashSet::new();
    for passage in passages {
        let id = string(passage, "external_id");
        if !seen.insert(id) {
            continue;
        }
        let title = string(passage, "title");
        if ranking.documents.len() < SHOWN && !title.is_empty() {
            ranking.titles.insert(id.to_owned(), title.to_owned());
        }
        #[allow(clippy::cast_possible_truncation)] // it was an f32 before it was written
        let score = passage["score"].as_f64().unwrap_or_default() as f32;
        ranking.documents.push((id.to_owned(), score));
    }
    ranking.degraded = texts(&answer["degraded"]);
    Ok(ranking)
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a run found for each question that can be judged; nothing for one that it does not have. And how many it does not have.
pub fn from_run(run: &Run, questions: &[Question], depth: usize) -> (Vec<Option<Ranking>>, usize) {
    let mut missing = 0;
    let rankings = questions
        .iter()
        .map(|question| {
            question.is_judged().then(|| {
                let found = run.get(&question.id);
                missing += usize::from(found.is_none());
                let documents = found.into_iter().flatten().take(depth).cloned().collect();
                Ranking { documents, ..Ranking::default() }
            })
        })
        .collect();
    (rankings, missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_stands_where_its_best_passage_does() {
        let passage =
            |id: &str, score: f64| json!({"external_id": id, "title": format!("T{id}"), "score": score});
        let answer = json!({
            "passages": [passage("b", 0.9), passage("a", 0.5), passage("b", 0.4), passage("c", 0.3), passage("d", 0.2)],
            "degraded": ["embedder"],
        });
        let ranking = ranking(&answer).unwrap();
        let ids: Vec<&str> = ranking.documents.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["b", "a", "c", "d"]);
        assert_eq!(ranking.titles.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(ranking.degraded, ["embedder"]);
        assert!(super::ranking(&json!({})).is_err());
    }

    #[test]
    fn a_question_that_a_run_does_not_have_found_nothing() {
        let question = |id: &str, judged: bool| Question {
            id: id.to_owned(),
            judgements: if judged { [("d".to_owned(), 1)].into() } else { [].into() },
            ..Question::default()
        };
        let run = Run::from([("a".to_owned(), vec![("d".to_owned(), 2.0), ("e".to_owned(), 1.0)])]);
        let (rankings, missing) =
            from_run(&run, &[question("a", true), question("b", true), question("c", false)], 1);
        assert_eq!(missing, 1);
        assert_eq!(rankings[0].as_ref().unwrap().documents, [("d".to_owned(), 2.0)]);
        assert!(rankings[1].as_ref().unwrap().documents.is_empty() && rankings[2].is_none());
    }
}
