//! Which systems are measured, and what they are called.

use std::path::PathBuf;

use clap::ValueEnum;

use super::{Eval, Mode};
use crate::eval::search::SearchSettings;

/// Where rankings and answers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A server, by these settings; and whether it is asked for answers.
    Server { search: SearchSettings, answers: bool },
    /// A TREC run.
    RunFile(PathBuf),
}

/// The systems that are asked for: one, or two that are compared.
pub(super) fn sources(eval: &Eval, dataset: &str) -> Vec<Source> {
    let named = |collection: &str| match eval.hold_out {
        // Never the collection that somebody else may use: documents are removed from this one.
        Some(size) => collection_name(collection, &format!("-hold-out-{size}-seed-{}", eval.seed)),
        None => collection.to_owned(),
    };
    let given = eval.collection.clone().unwrap_or_else(|| collection_name(dataset, ""));
    let first = SearchSettings {
        collection: named(&given),
        mode: eval.mode.map(mode_name),
        pipeline: eval.pipeline.clone(),
        depth: eval.depth,
    };
    let mut sources = Vec::new();
    match &eval.from_run {
        Some(path) => sources.push(Source::RunFile(path.clone())),
        None => sources.push(Source::Server { search: first.clone(), answers: eval.answers }),
    }
    if let Some(path) = &eval.against_run {
        sources.push(Source::RunFile(path.clone()));
    } else if eval.against.is_some() || eval.against_pipeline.is_some() || eval.against_collection.is_some() {
        let second = SearchSettings {
            collection: eval.against_collection.as_deref().map_or(first.collection.clone(), named),
            mode: eval.against.or(eval.mode).map(mode_name),
            pipeline: eval.against_pipeline.clone().or(eval.pipeline.clone()),
            depth: eval.depth,
        };
        // A mode is the search's alone: the answers would be the same ones.
        let others = second.pipeline != first.pipeline || second.collection != first.collection;
        sources.push(Source::Server { search: second, answers: eval.answers && others });
    }
    sources
}

fn mode_name(mode: Mode) -> String {
    mode.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// The longest name of a collection.
const LONGEST_NAME: usize = 64;

/// A collection's name from any name: what it may not have becomes `-`.
fn collection_name(name: &str, ending: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let name = if name.is_empty() { "eval" } else { name };
    let room = LONGEST_NAME.saturating_sub(ending.len());
    format!("{}{ending}", &name[..name.len().min(room)])
}

/// What a source is called beside the others: by what sets it apart.
pub(super) fn label(source: &Source, all: &[Source]) -> String {
    let (search, others) = match source {
        Source::RunFile(path) => {
            return path.file_name().map_or("run".to_owned(), |name| name.to_string_lossy().into_owned());
        }
        Source::Server { search, .. } => (search, all.iter().filter(|other| *other != source)),
    };
    let other = others.filter_map(|other| match other {
        Source::Server { search, .. } => Some(search),
        Source::RunFile(_) => None,
    });
    let other: Vec<&SearchSettings> = other.collect();
    let mut parts: Vec<String> = search.mode.iter().cloned().collect();
    if search.pipeline.is_some()
        || search.mode.is_none()
        || other.iter().any(|other| other.pipeline.is_some())
    {
        parts.push(format!("pipeline {}", search.pipeline.as_deref().unwrap_or("default")));
    }
    if other.iter().any(|other| other.collection != search.collection) {
        parts.push(format!("collection {}", search.collection));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        eval: Eval,
    }

    fn parsed(arguments: &str) -> Result<Eval, clap::Error> {
        let arguments = ["eval", "--dataset", "d"].into_iter().chain(arguments.split_whitespace());
        Line::try_parse_from(arguments).map(|line| line.eval)
    }

    fn labels(arguments: &str) -> Vec<String> {
        let sources = sources(&parsed(arguments).unwrap(), "my set");
        sources.iter().map(|source| label(source, &sources)).collect()
    }

    #[test]
    fn systems_are_called_by_what_sets_them_apart() {
        assert_eq!(labels(""), ["pipeline default"]);
        assert_eq!(labels("--mode hybrid"), ["hybrid"]);
        assert_eq!(labels("--mode hybrid --against keyword"), ["hybrid", "keyword"]);
        assert_eq!(labels("--against-pipeline b"), ["pipeline default", "pipeline b"]);
        assert_eq!(
            labels("--mode vector --against-pipeline b"),
            ["vector, pipeline default", "vector, pipeline b"]
        );
        assert_eq!(
            labels("--against-collection other"),
            ["pipeline default, collection my-set", "pipeline default, collection other"]
        );
        assert_eq!(labels("--from-run x/a.run --against-run b.run"), ["a.run", "b.run"]);
    }

    #[test]
    fn answers_are_asked_for_twice_only_where_they_may_differ() {
        let answers = |arguments: &str| -> Vec<bool> {
            let sources = sources(&parsed(arguments).unwrap(), "s");
            sources.iter().map(|source| matches!(source, Source::Server { answers: true, .. })).collect()
        };
        assert_eq!(answers("--answers --mode hybrid --against keyword"), [true, false]);
        assert_eq!(answers("--answers --against-pipeline b"), [true, true]);
        assert_eq!(answers("--against-pipeline b"), [false, false]);
    }

    #[test]
    fn a_hold_out_has_a_collection_of_its_own() {
        let collection = |arguments: &str| match &sources(&parsed(arguments).unwrap(), "Größe 1")[0] {
            Source::Server { search, .. } => search.collection.clone(),
            Source::RunFile(_) => panic!(),
        };
        assert_eq!(collection(""), "Gr--e-1");
        assert_eq!(collection("--collection c --answers --hold-out 7 --seed 3"), "c-hold-out-7-seed-3");
        assert_eq!(collection_name(&"x".repeat(80), "-end").len(), 64);
        assert_eq!(collection_name("…", ""), "eval");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        for bad in [
            "--from-run a --mode hybrid",
            "--from-run a --answers",
            "--from-run a --ingest",
            "--against keyword --against-run b",
            "--hold-out 5",
            "--k 0",
            "--k five",
            "--sample 0",
            "--mode nearest",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(parsed("--k 20 --depth 10").unwrap().cuts().is_err());
        assert_eq!(parsed("--k 10,1,5,5").unwrap().cuts().unwrap().at, [1, 5, 10]);
    }
}
