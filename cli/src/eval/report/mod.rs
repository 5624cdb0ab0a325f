//! Showing what was measured: a table for a terminal, JSON for programs, a page for people, and a line for each question.

mod html;
mod lists;
mod per_query;
mod plot;
mod summary;
mod table;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::{html::page, per_query::per_query, summary::Summary, table::table};
use super::{
    ask::Answer,
    dataset::Question,
    measures::{Cuts, Measure},
    search::Ranking,
};

/// All that was measured, question by question.
#[derive(Debug)]
pub struct Evaluation {
    /// The name of the set.
    pub dataset: String,
    /// The questions that were asked.
    pub questions: Vec<Question>,
    /// One system, or two that are compared.
    pub systems: Vec<System>,
    /// Where rankings are cut.
    pub cuts: Cuts,
    /// What samples and intervals are drawn with.
    pub seed: u64,
    /// Documents in the collection of the first system, where one was looked at.
    pub documents: Option<u64>,
    /// What a reader must know to understand the figures.
    pub notes: Vec<String>,
    /// Titles of documents, where they are known.
    pub titles: BTreeMap<String, String>,
    /// When it was done.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// What was asked, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Configuration {
    /// Where was searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
    /// Which search was asked for; the pipeline's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The query pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The file that the rankings were read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_file: Option<String>,
    /// Requests at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
}

/// One way of finding and answering, with what it brought.
#[derive(Debug)]
pub struct System {
    /// What it is called here.
    pub label: String,
    /// What it is.
    pub configuration: Configuration,
    /// For each question.
    pub rankings: Vec<Option<Ranking>>,
    /// For each question; empty where none was asked.
    pub answers: Vec<Option<Answer>>,
    /// For each question.
    pub measures: Vec<Measure>,
}

impl System {
    fn measure(&self, key: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.key == key)
    }

    /// How long each search took, in milliseconds; empty where none was made.
    fn search_times(&self) -> Vec<f64> {
        self.rankings.iter().flatten().filter_map(|ranking| ranking.took_ms).collect()
    }

    /// How long each answer took, in milliseconds.
    fn answer_times(&self) -> Vec<f64> {
        self.answers.iter().flatten().map(|answer| answer.took_ms).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::eval::{dataset::Naming, measures};

    /// Three questions, two of them judged, one without an answer; two systems. Their texts would break a page that did not escape.
    pub fn example() -> Evaluation {
        let question = |id: &str, text: &str, relevant: &[&str], golds: &[&str]| Question {
            id: id.to_owned(),
            text: text.to_owned(),
            judgements: relevant.iter().map(|id| ((*id).to_owned(), 1)).collect(),
            answers: golds.iter().map(|gold| (*gold).to_owned()).collect(),
            unanswerable: relevant.is_empty(),
            held_out: false,
        };
        let questions = vec![
            question("q1", "Who is <b>Ann</b> & \"Bob\"?", &["d1", "d2"], &["blue"]),
            question("q2", "Second?", &["d3"], &["red"]),
            question("q3", "Third?", &[], &[]),
        ];
        let ranking = |ids: &[&str], took_ms| Ranking {
            documents: ids.iter().map(|id| ((*id).to_owned(), 0.5)).collect(),
            titles: BTreeMap::new(),
            took_ms: Some(took_ms),
            degraded: Vec::new(),
        };
        let answer = |text: &str, found| Answer {
            text: text.to_owned(),
            found,
            cited: vec!["d1".to_owned()],
            took_ms: 20.0,
            model: "extractive".to_owned(),
            ..Answer::default()
        };
        let cuts = Cuts { at: vec![1, 10], depth: 100 };
        let system = |label: &str, rankings: Vec<Option<Ranking>>| {
            let answers = vec![
                Some(answer("It is <blue>.", true)),
                Some(answer("It is green.", true)),
                Some(answer("Not in the documents.", false)),
            ];
            let mut measures = measures::of_rankings(&questions, Naming::Exact, &rankings, &cuts);
            measures.extend(measures::of_answers(&questions, Naming::Exact, &answers));
            let configuration = Configuration {
                collection: Some("c".to_owned()),
                mode: Some(label.to_owned()),
                pipeline: None,
                run_file: None,
                concurrency: Some(1),
            };
            System { label: label.to_owned(), configuration, rankings, answers, measures }
        };
        let systems = vec![
            system(
                "hybrid",
                vec![Some(ranking(&["d1", "x<y", "d2"], 3.0)), Some(ranking(&["d3"], 5.0)), None],
            ),
            system("keyword", vec![Some(ranking(&["x<y", "d1"], 1.0)), Some(ranking(&["d4"], 2.0)), None]),
        ];
        Evaluation {
            dataset: "set <&> one".to_owned(),
            questions,
            systems,
            cuts,
            seed: 42,
            documents: Some(5),
            notes: vec!["one note & <another>".to_owned()],
            titles: BTreeMap::from([("d1".to_owned(), "First & <best>".to_owned())]),
            at: chrono::DateTime::UNIX_EPOCH,
        }
    }
}
