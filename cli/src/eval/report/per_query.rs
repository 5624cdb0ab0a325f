//! A line of JSON for each question and system.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Evaluation, System};
use crate::eval::metrics::{ranking::Judgements, text::words};

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    question: &'a str,
    system: &'a str,
    judgements: &'a Judgements,
    answers: &'a [String],
    unanswerable: bool,
    held_out: bool,
    measures: BTreeMap<&'a str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ranking: Option<Vec<Ranked<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answered<'a>>,
}

#[derive(Serialize)]
struct Ranked<'a> {
    document: &'a str,
    score: f32,
}

#[derive(Serialize)]
struct Answered<'a> {
    text: &'a str,
    found: bool,
    words: usize,
    cited: &'a [String],
    model: &'a str,
    degraded: &'a [String],
    failed: Option<&'a str>,
    took_ms: f64,
}

/// JSON lines: each question in its order, by each system.
pub fn per_query(evaluation: &Evaluation) -> anyhow::Result<String> {
    let mut lines = String::new();
    for (at, _) in evaluation.questions.iter().enumerate() {
        for system in &evaluation.systems {
            lines.push_str(&serde_json::to_string(&row(evaluation, system, at))?);
            lines.push('\n');
        }
    }
    Ok(lines)
}

fn row<'a>(evaluation: &'a Evaluation, system: &'a System, at: usize) -> Row<'a> {
    let question = &evaluation.questions[at];
    let ranking = system.rankings.get(at).and_then(Option::as_ref);
    let answer = system.answers.get(at).and_then(Option::as_ref);
    let value =
        |measure: &'a crate::eval::measures::Measure| Some((measure.key.as_str(), measure.values[at]?));
    Row {
        id: &question.id,
        question: &question.text,
        system: &system.label,
        judgements: &question.judgements,
        answers: &question.answers,
        unanswerable: question.unanswerable,
        held_out: question.held_out,
        measures: system.measures.iter().filter_map(value).collect(),
        ranking: ranking.map(|ranking| {
            let ranked = |(document, score): &'a (String, f32)| Ranked { document, score: *score };
            ranking.documents.iter().map(ranked).collect()
        }),
        search_ms: ranking.and_then(|ranking| ranking.took_ms),
        answer: answer.map(|answer| Answered {
            text: &answer.text,
            found: answer.found,
            words: words(&answer.text),
            cited: &answer.cited,
            model: &answer.model,
            degraded: &answer.degraded,
            failed: answer.failed.as_deref(),
            took_ms: answer.took_ms,
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::eval::report::tests::example;

    #[test]
    fn there_is_a_line_for_each_question_and_system() {
        let text = per_query(&example()).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(
            (&rows[0]["id"], &rows[0]["system"], &rows[1]["system"]),
            (&json!("q1"), &json!("hybrid"), &json!("keyword"))
        );
        assert_eq!(rows[0]["ranking"][1], json!({"document": "x<y", "score": 0.5}));
        assert_eq!(rows[0]["measures"]["mrr@10"], json!(1.0));
        assert_eq!(rows[0]["answer"]["words"], 3);
        assert!(rows[4].get("ranking").is_none() && rows[4]["measures"].get("ndcg@10").is_none());
    }
}
