//! The figures: what `--json` prints, and what the table and the page show.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Configuration, Evaluation, System};
use crate::eval::{
    measures::{Measure, Of},
    metrics::text::words,
    stats::{Bootstrap, Difference, Estimate, mean, median, percentile},
};

/// All figures of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What was asked.
    pub dataset: DatasetSummary,
    /// The seed of samples and intervals.
    pub seed: u64,
    /// How many documents a search was asked for.
    pub depth: usize,
    /// One, or two that are compared.
    pub systems: Vec<SystemSummary>,
    /// The second less the first, for each measure that both have; empty where there is one system.
    pub comparison: Vec<Comparison>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// When it was done.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// A set of questions in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetSummary {
    /// Its name.
    pub name: String,
    /// Questions that were asked.
    pub questions: usize,
    /// Those whose relevant documents are known.
    pub judged: usize,
    /// Those whose right answer is known.
    pub with_answers: usize,
    /// Those that have no answer in the documents.
    pub unanswerable: usize,
    /// Those of them whose documents were left out on purpose.
    pub held_out: usize,
    /// Documents in the collection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<u64>,
}

/// One system in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemSummary {
    /// What it is called here.
    pub label: String,
    /// What it is.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// Means with their 95 % intervals, by the measure's key.
    pub measures: BTreeMap<String, Estimate>,
    /// How searches went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchSummary>,
    /// How answers went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<AnswersSummary>,
    #[serde(skip)]
    measured: Vec<Measured>,
}

/// A measure with its estimate.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// For programs.
    pub key: String,
    /// For people.
    pub title: String,
    /// What it is of.
    pub of: Of,
    /// Its mean and interval.
    pub estimate: Estimate,
}

/// Searches in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchSummary {
    /// How many.
    pub searches: usize,
    /// Documents that one found, in the median.
    pub documents_found: f64,
    /// Searches that a part of the server could not take part in, by that part.
    pub degraded: BTreeMap<String, usize>,
    /// How long they took; absent where they were read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took: Option<Times>,
}

/// Answers in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswersSummary {
    /// Questions asked.
    pub asked: usize,
    /// Those where something was found.
    pub found: usize,
    /// Jobs that did not succeed.
    pub failed: usize,
    /// Words of an answer where something was found, in the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words_median: Option<f64>,
    /// Nine in ten have at most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words_p90: Option<f64>,
    /// Sources of such an answer, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub citations_mean: Option<f64>,
    /// Held-out questions whose right answer stands in what was answered: another document seems to hold it as well.
    pub held_out_answered_right: usize,
    /// Answers that a part of the server could not take part in, by that part.
    pub degraded: BTreeMap<String, usize>,
    /// What wrote them.
    pub models: Vec<String>,
    /// From the question to the end of its job.
    pub took: Option<Times>,
}

/// Latencies as the client saw them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// Half take at most so long.
    pub p50_ms: f64,
    /// Nine in ten.
    pub p90_ms: f64,
    /// Ninety-nine in a hundred.
    pub p99_ms: f64,
    /// The mean.
    pub mean_ms: f64,
}

/// Two systems by one measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The measure, for programs.
    pub measure: String,
    /// For people.
    #[serde(skip)]
    pub title: String,
    /// Whether lower is better.
    pub lower_is_better: bool,
    /// Mean of the first, over the questions that both have.
    pub first: f64,
    /// Mean of the second.
    pub second: f64,
    /// The second less the first, question by question.
    pub difference: Difference,
}

impl Comparison {
    /// Whether the interval of the difference leaves 0 out: for the better, or for the worse.
    pub fn clear(&self) -> Option<bool> {
        let Difference { low, high, .. } = self.difference;
        if low > 0.0 {
            Some(!self.lower_is_better)
        } else if high < 0.0 {
            Some(self.lower_is_better)
        } else {
            None
        }
    }
}

impl Summary {
    /// The figures of an evaluation.
    pub fn of(evaluation: &Evaluation) -> Self {
        let bootstrap = Bootstrap::new(evaluation.seed);
        let count = |holds: &dyn Fn(&crate::eval::dataset::Question) -> bool| {
            evaluation.questions.iter().filter(|question| holds(question)).count()
        };
        let comparison = match evaluation.systems.as_slice() {
            [first, second] => compare(first, second, bootstrap),
            _ => Vec::new(),
        };
        let systems: Vec<SystemSummary> =
            evaluation.systems.iter().map(|system| system_summary(evaluation, system, bootstrap)).collect();
        let own = systems.iter().flat_map(notes);
        Self {
            notes: evaluation.notes.iter().cloned().chain(own).collect(),
            dataset: DatasetSummary {
                name: evaluation.dataset.clone(),
                questions: evaluation.questions.len(),
                judged: count(&|question| question.is_judged()),
                with_answers: count(&|question| !question.unanswerable && !question.answers.is_empty()),
                unanswerable: count(&|question| question.unanswerable),
                held_out: count(&|question| question.held_out),
                documents: evaluation.documents,
            },
            seed: evaluation.seed,
            depth: evaluation.cuts.depth,
            systems,
            comparison,
            at: evaluation.at,
        }
    }
}

impl SystemSummary {
    /// The measures in the order in which they are shown.
    pub fn measured(&self) -> &[Measured] {
        &self.measured
    }
}

fn system_summary(evaluation: &Evaluation, system: &System, bootstrap: Bootstrap) -> SystemSummary {
    let measured: Vec<Measured> = system
        .measures
        .iter()
        .filter_map(|measure| {
            let estimate = bootstrap.estimate(&measure.present())?;
            let Measure { key, title, of, .. } = measure;
            Some(Measured { key: key.clone(), title: title.clone(), of: *of, estimate })
        })
        .collect();
    SystemSummary {
        label: system.label.clone(),
        configuration: system.configuration.clone(),
        measures: measured.iter().map(|one| (one.key.clone(), one.estimate)).collect(),
        measured,
        search: search_summary(system),
        answers: answers_summary(evaluation, system),
    }
}

#[allow(clippy::cast_precision_loss)] // counts of documents
fn search_summary(system: &System) -> Option<SearchSummary> {
    let rankings: Vec<_> = system.rankings.iter().flatten().collect();
    let found: Vec<f64> = rankings.iter().map(|ranking| ranking.documents.len() as f64).collect();
    Some(SearchSummary {
        searches: rankings.len(),
        documents_found: median(&found)?,
        degraded: counts(rankings.iter().flat_map(|ranking| &ranking.degraded)),
        took: Times::of(&system.search_times()),
    })
}

#[allow(clippy::cast_precision_loss)] // counts of words
fn answers_summary(evaluation: &Evaluation, system: &System) -> Option<AnswersSummary> {
    let answers: Vec<_> = system.answers.iter().flatten().collect();
    if answers.is_empty() {
        return None;
    }
    let found: Vec<_> = answers.iter().filter(|answer| answer.found).collect();
    let lengths: Vec<f64> = found.iter().map(|answer| words(&answer.text) as f64).collect();
    let citations: Vec<f64> = found.iter().map(|answer| answer.cited.len() as f64).collect();
    let models: std::collections::BTreeSet<String> =
        answers.iter().filter(|answer| answer.failed.is_none()).map(|answer| answer.model.clone()).collect();
    let right_all_the_same = evaluation.questions.iter().zip(&system.answers).filter(|(question, answer)| {
        let said = answer.as_ref().filter(|answer| answer.found).map(|answer| answer.text.as_str());
        question.held_out
            && said.is_some_and(|said| crate::eval::metrics::text::contains(said, &question.answers))
    });
    Some(AnswersSummary {
        asked: answers.len(),
        found: found.len(),
        failed: answers.iter().filter(|answer| answer.failed.is_some()).count(),
        words_median: median(&lengths),
        words_p90: percentile(&lengths, 0.9),
        citations_mean: mean(&citations),
        held_out_answered_right: right_all_the_same.count(),
        degraded: counts(answers.iter().flat_map(|answer| &answer.degraded)),
        models: models.into_iter().collect(),
        took: Times::of(&system.answer_times()),
    })
}

/// What a system's figures do not say by themselves.
fn notes(system: &SystemSummary) -> Vec<String> {
    let SystemSummary { label, search, answers, .. } = system;
    let mut notes = Vec::new();
    let mut without = |what: &str, all: usize, degraded: &BTreeMap<String, usize>| {
        for (part, count) in degraded {
            notes.push(format!(
                "{label}: {count} of {all} {what} had to do without {part}; the figures are not those of a server that has all its parts."
            ));
        }
    };
    if let Some(search) = search {
        without("searches", search.searches, &search.degraded);
    }
    let Some(answers) = answers else { return notes };
    without("answers", answers.asked, &answers.degraded);
    if answers.failed > 0 {
        notes.push(format!("{label}: {} jobs did not succeed; they count as not found.", answers.failed));
    }
    if answers.held_out_answered_right > 0 {
        notes.push(format!(
            "{label}: {} of the held-out questions were answered right all the same: other documents hold the answer too.",
            answers.held_out_answered_right
        ));
    }
    notes
}

fn counts<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
    names.fold(BTreeMap::new(), |mut counts, name| {
        *counts.entry(name.clone()).or_default() += 1;
        counts
    })
}

impl Times {
    fn of(times: &[f64]) -> Option<Self> {
        Some(Self {
            p50_ms: percentile(times, 0.5)?,
            p90_ms: percentile(times, 0.9)?,
            p99_ms: percentile(times, 0.99)?,
            mean_ms: mean(times)?,
        })
    }
}

fn compare(first: &System, second: &System, bootstrap: Bootstrap) -> Vec<Comparison> {
    let one = |measure: &Measure| {
        let other = second.measure(&measure.key)?;
        let both = measure.values.iter().zip(&other.values);
        let (first, second): (Vec<f64>, Vec<f64>) = both.filter_map(|(a, b)| Some(((*a)?, (*b)?))).unzip();
        Some(Comparison {
            measure: measure.key.clone(),
            title: measure.title.clone(),
            lower_is_better: measure.lower_is_better,
            first: mean(&first)?,
            second: mean(&second)?,
            difference: bootstrap.difference(&first, &second)?,
        })
    };
    first.measures.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::tests::example;

    #[test]
    fn the_figures_by_hand() {
        let summary = Summary::of(&example());
        let dataset = &summary.dataset;
        assert_eq!(
            (dataset.questions, dataset.judged, dataset.with_answers, dataset.unanswerable, dataset.held_out),
            (3, 2, 2, 1, 0)
        );
        let hybrid = &summary.systems[0];
        let mean = |key: &str| hybrid.measures[key].mean;
        // Question 1: d1 at 1, d2 at 3; question 2: d3 at 1.
        assert!((mean("map@100") - f64::midpoint((1.0 + 2.0 / 3.0) / 2.0, 1.0)).abs() < 1e-9);
        assert!((mean("recall@1") - 0.75).abs() < 1e-9);
        assert!((mean("answer_contains") - 0.5).abs() < 1e-9);
        assert!((mean("wrong_refusal")).abs() < 1e-9);
        assert!((mean("unanswerable_not_found") - 1.0).abs() < 1e-9);
        assert_eq!(hybrid.measures["cited_relevant"].questions, 2);
        let search = hybrid.search.as_ref().unwrap();
        assert_eq!((search.searches, search.documents_found), (2, 2.0));
        assert_eq!(search.took.unwrap().p50_ms, 3.0);
        let answers = hybrid.answers.as_ref().unwrap();
        assert_eq!((answers.asked, answers.found, answers.failed), (3, 2, 0));
        assert_eq!(answers.words_median, Some(3.0));
        assert_eq!(answers.models, ["extractive"]);

        let ndcg = summary.comparison.iter().find(|one| one.measure == "mrr@10").unwrap();
        // 1 and 1 against 1/2 and 0.
        assert!((ndcg.difference.mean + 0.75).abs() < 1e-9);
        assert_eq!((ndcg.difference.lower, ndcg.difference.questions), (2, 2));
        assert_eq!(ndcg.clear(), Some(false));
        let refusals = summary.comparison.iter().find(|one| one.measure == "wrong_refusal").unwrap();
        assert_eq!((refusals.clear(), refusals.lower_is_better), (None, true));
    }

    #[test]
    fn what_the_figures_do_not_say_is_noted() {
        let mut example = example();
        let system = &mut example.systems[0];
        system.rankings[0].as_mut().unwrap().degraded = vec!["embedder".to_owned()];
        system.answers[1].as_mut().unwrap().failed = Some("failed: no".to_owned());
        example.questions[0].held_out = true;
        let notes = Summary::of(&example).notes;
        assert_eq!(notes.len(), 5, "{notes:#?}");
        assert_eq!(notes[0], "one note & <another>");
        assert!(notes[1].starts_with("hybrid: 1 of 2 searches had to do without embedder"));
        assert!(notes[2].starts_with("hybrid: 1 jobs did not succeed"));
        assert!(notes[3].starts_with("hybrid: 1 of the held-out questions were answered right"));
        assert!(notes[4].starts_with("keyword: 1 of the held-out"));
    }

    #[test]
    fn the_figures_are_the_same_each_time() {
        let json = || serde_json::to_string(&Summary::of(&example())).unwrap();
        assert_eq!(json(), json());
        let value: serde_json::Value = serde_json::from_str(&json()).unwrap();
        assert_eq!(value["systems"][0]["mode"], "hybrid");
        assert!(value["systems"][0]["measures"]["ndcg@10"]["low"].is_number());
        assert_eq!(
            value["comparison"].as_array().unwrap().len(),
            value["systems"][0]["measures"].as_object().unwrap().len()
        );
    }
}
