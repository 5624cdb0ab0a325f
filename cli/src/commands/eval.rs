//! `raglan eval`: how well questions are answered, and whether one configuration is better than another.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::search::Mode;
use crate::{
    client::Api,
    eval::{
        ask::{AskSettings, ask},
        collection::{Collection, Held},
        dataset::{
            Dataset, Question, examples, load,
            sample::{HoldOut, hold_out, sample},
        },
        input::{InputError, InputResult, wrong},
        measures::{Cuts, of_answers, of_rankings},
        report::{Configuration, Evaluation, Summary, System, page, per_query, table},
        run_file,
        search::{SearchSettings, from_run, rank},
    },
    terminal::Stderr,
};

/// Measure how well questions are answered, on your own set or a published one.
///
/// The set is a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv), or one with your files in docs and your questions in
/// questions.jsonl, or a file with questions alone over a collection that is there. Talks to a running `raglan serve`; two run files are
/// compared without one. docs/evaluation.md explains the figures.
#[derive(Debug, Args)]
pub struct Eval {
    /// The set: a folder, or a file with questions.
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,
    /// Which judgements: qrels/SPLIT.tsv.
    #[arg(long, default_value = "test")]
    split: String,
    /// Take the set's documents in first. Those that are there unchanged are not sent through the model again.
    #[arg(long, conflicts_with = "from_run")]
    ingest: bool,
    /// The collection; the name of the set where absent.
    #[arg(long)]
    collection: Option<String>,
    /// Which search is measured; the pipeline's own where absent. Answers always come from the pipeline.
    #[arg(long)]
    mode: Option<Mode>,
    /// Which query pipeline.
    #[arg(long)]
    pipeline: Option<String>,
    /// Ask each question for an answer as well.
    #[arg(long, conflicts_with = "from_run")]
    answers: bool,
    /// Ranks at which rankings are measured.
    #[arg(long, value_name = "K,…", value_delimiter = ',', default_values_t = [1, 5, 10, 100], value_parser = at_least_one)]
    k: Vec<usize>,
    /// Documents that each search is asked for.
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    depth: usize,
    /// Only so many of the questions: the same ones for the same seed.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    sample: Option<usize>,
    /// Chooses samples, and draws for intervals.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Leave out the relevant documents of N questions, in a collection of its own: are they then "not found"?
    #[arg(long, value_name = "N", requires = "answers", value_parser = at_least_one)]
    hold_out: Option<usize>,
    /// Requests at once. More than one shows load, not the latency of a single question.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    concurrency: usize,
    /// Write what was found as a TREC run.
    #[arg(long, value_name = "FILE")]
    run_file: Option<PathBuf>,
    /// Measure this TREC run instead of searching; no server is needed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mode", "pipeline"])]
    from_run: Option<PathBuf>,
    /// Compare with this search …
    #[arg(long, value_name = "MODE", conflicts_with_all = ["against_run", "from_run"])]
    against: Option<Mode>,
    /// … with this pipeline …
    #[arg(long, value_name = "PIPELINE", conflicts_with_all = ["against_run", "from_run"])]
    against_pipeline: Option<String>,
    /// … with this collection (the same documents, taken in otherwise) …
    #[arg(long, value_name = "COLLECTION", conflicts_with_all = ["against_run", "from_run"])]
    against_collection: Option<String>,
    /// … or with this TREC run.
    #[arg(long, value_name = "FILE")]
    against_run: Option<PathBuf>,
    /// Write a line of JSON for each question.
    #[arg(long, value_name = "FILE")]
    per_query: Option<PathBuf>,
    /// Write a page with plots and the worst questions.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON in place of tables.
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// The exit code for a failure: 2 where what was given is wrong, as for a wrong option, else 1.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<InputError>().is_some() { 2 } else { 1 }
}

pub async fn run(api: &Api, eval: Eval) -> anyhow::Result<()> {
    let cuts = eval.cuts()?;
    for path in [&eval.run_file, &eval.per_query, &eval.html].into_iter().flatten() {
        check_writable(path)?;
    }
    let (path, split) = (eval.dataset.clone(), eval.split.clone());
    let dataset = tokio::task::spawn_blocking(move || load(&path, &split)).await??;
    let plan = Plan::new(&eval, dataset)?;
    let mut looked = Looked { notes: plan.dataset.notes.clone(), ..Looked::default() };
    let mut systems = Vec::new();
    for source in &plan.sources {
        systems.push(measure(api, &eval, &plan, source, &cuts, &mut looked).await?);
    }
    for system in &systems {
        for ranking in system.rankings.iter().flatten() {
            looked.titles.extend(ranking.titles.clone());
        }
    }
    let evaluation = Evaluation {
        dataset: plan.dataset.name.clone(),
        questions: plan.questions,
        systems,
        cuts,
        seed: eval.seed,
        documents: looked.documents,
        notes: looked.notes,
        titles: looked.titles,
        at: chrono::Utc::now(),
    };
    report(&eval, &plan.dataset, &evaluation)
}

/// What is asked, and of whom.
struct Plan {
    dataset: Dataset,
    questions: Vec<Question>,
    hold_out: Option<HoldOut>,
    sources: Vec<Source>,
}

/// Where rankings and answers come from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Server { search: SearchSettings, answers: bool },
    RunFile(PathBuf),
}

/// What was seen on the way.
#[derive(Default)]
struct Looked {
    documents: Option<u64>,
    notes: Vec<String>,
    titles: BTreeMap<String, String>,
}

impl Eval {
    fn cuts(&self) -> InputResult<Cuts> {
        let mut at = self.k.clone();
        at.sort_unstable();
        at.dedup();
        match at.last() {
            Some(deepest) if *deepest > self.depth => Err(wrong!(
                "--k {deepest} needs as many documents; only {} are asked for (--depth)",
                self.depth
            )),
            _ => Ok(Cuts { at, depth: self.depth }),
        }
    }
}

impl Plan {
    fn new(eval: &Eval, mut dataset: Dataset) -> InputResult<Self> {
        let mut questions = std::mem::take(&mut dataset.questions);
        let hold_out = eval.hold_out.map(|size| hold_out(questions.clone(), size, eval.seed)).transpose()?;
        if let Some(held) = &hold_out {
            questions.clone_from(&held.others);
        }
        if let Some(size) = eval.sample {
            questions = sample(questions, size, eval.seed);
        }
        if let Some(held) = &hold_out {
            questions.extend(held.questions.iter().cloned());
            dataset.notes.push(format!(
                "{} documents, those relevant to {} questions, were left out; {} other questions that need them too were not asked.",
                held.documents.len(),
                held.questions.len(),
                held.passed_over
            ));
        }
        if !eval.answers && !questions.iter().any(Question::is_judged) {
            return Err(wrong!(
                "the set does not say which documents are relevant, so no ranking can be measured; --answers asks for answers and measures those"
            ));
        }
        let sources = sources(eval, &dataset.name);
        if eval.answers && eval.mode.is_some() {
            dataset.notes.push(
                "The mode is that of the searches; the answers come from the query pipeline with the mode that it is configured with.".to_owned(),
            );
        }
        Ok(Self { dataset, questions, hold_out, sources })
    }
}

fn sources(eval: &Eval, dataset: &str) -> Vec<Source> {
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

async fn measure(
    api: &Api,
    eval: &Eval,
    plan: &Plan,
    source: &Source,
    cuts: &Cuts,
    looked: &mut Looked,
) -> anyhow::Result<System> {
    let questions = &plan.questions;
    let label = label(source, &plan.sources);
    let (rankings, answers, configuration) = match source {
        Source::RunFile(path) => {
            let file = path.clone();
            let run = tokio::task::spawn_blocking(move || run_file::read(&file)).await??;
            let (rankings, missing) = from_run(&run, questions, eval.depth);
            let judged = rankings.iter().flatten().count();
            if missing == judged {
                return Err(wrong!("{} has none of the questions of the set", path.display()).into());
            }
            if missing > 0 {
                looked.notes.push(format!(
                    "{} has nothing for {missing} of {judged} questions; they count as not found.",
                    path.display()
                ));
            }
            let configuration = Configuration {
                collection: None,
                mode: None,
                pipeline: None,
                run_file: Some(path.display().to_string()),
                concurrency: None,
            };
            (rankings, Vec::new(), configuration)
        }
        Source::Server { search, answers } => {
            let collection = Collection { api, name: &search.collection };
            prepare(eval, plan, collection, looked).await?;
            let mut stderr = Stderr::new();
            if plan.sources.len() > 1 {
                stderr.line(&label);
            }
            let rankings = rank(api, search, questions, eval.concurrency).await?;
            let answers = if *answers {
                let settings =
                    AskSettings { collection: search.collection.clone(), pipeline: search.pipeline.clone() };
                ask(api, &settings, questions, eval.concurrency).await?
            } else {
                Vec::new()
            };
            let configuration = Configuration {
                collection: Some(search.collection.clone()),
                mode: search.mode.clone(),
                pipeline: Some(search.pipeline.clone().unwrap_or_else(|| "default".to_owned())),
                run_file: None,
                concurrency: Some(eval.concurrency),
            };
            (rankings, answers, configuration)
        }
    };
    let mut measures = Vec::new();
    if rankings.iter().any(Option::is_some) {
        measures.extend(of_rankings(questions, plan.dataset.naming, &rankings, cuts));
    }
    measures.extend(of_answers(questions, plan.dataset.naming, &answers));
    Ok(System { label, configuration, rankings, answers, measures })
}

/// What a source is called beside the others: by what sets it apart.
fn label(source: &Source, all: &[Source]) -> String {
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

/// Beyond so many documents a collection is not listed to see whether the relevant ones are in it.
const LISTED: u64 = 200_000;

/// Takes documents in where that is wanted, and sees whether the collection has what the questions need.
async fn prepare(
    eval: &Eval,
    plan: &Plan,
    collection: Collection<'_>,
    looked: &mut Looked,
) -> anyhow::Result<()> {
    let name = collection.name;
    if eval.ingest {
        let documents = plan.dataset.documents.as_ref().ok_or_else(|| {
            wrong!(
                "--ingest: {} has no documents (corpus.jsonl, or files in docs)",
                plan.dataset.path.display()
            )
        })?;
        let taken = collection.ingest(documents, plan.dataset.naming, plan.hold_out.as_ref()).await?;
        if taken.failed > 0 {
            looked.notes.push(format!("{} documents could not be taken in.", taken.failed));
        }
    }
    let count = collection.documents().await?;
    let can_ingest = plan.dataset.documents.is_some();
    let advice = match (&plan.hold_out, can_ingest) {
        (Some(_), _) => "--ingest makes it",
        (None, true) => "--ingest makes it of the set's documents; --collection names another one",
        (None, false) => "--collection names the one that the questions are about",
    };
    let Some(count) = count.filter(|count| *count > 0) else {
        return Err(wrong!("the collection {name:?} is not there or is empty; {advice}").into());
    };
    if count > LISTED {
        looked.documents.get_or_insert(count);
        looked.notes.push(format!(
            "{name} has {count} documents: it was not looked whether all relevant ones are there."
        ));
        return Ok(());
    }
    let mut held = collection.held().await?;
    if let Some(held_out) = &plan.hold_out {
        let wrongly: Vec<String> =
            held.keys().filter(|id| held_out.leaves_out(plan.dataset.naming, id)).cloned().collect();
        if !wrongly.is_empty() && !eval.ingest {
            return Err(wrong!(
                "{} documents that are to be held out are in {name:?}; --ingest removes them",
                wrongly.len()
            )
            .into());
        }
        for id in wrongly {
            if let Some(document) = held.remove(&id) {
                collection.remove(&document).await.with_context(|| format!("{id:?} could not be removed"))?;
            }
        }
    }
    looked.documents.get_or_insert(held.len() as u64);
    check_relevant(plan, name, &held, looked)?;
    Ok(())
}

/// Whether the documents that the judgements name are in the collection: a name that is written otherwise would count as never found.
fn check_relevant(
    plan: &Plan,
    name: &str,
    held: &BTreeMap<String, Held>,
    looked: &mut Looked,
) -> InputResult<()> {
    let naming = plan.dataset.naming;
    let find = |wanted: &str| {
        held.get_key_value(wanted).or_else(|| held.iter().find(|(id, _)| naming.is(wanted, id)))
    };
    let mut missing = Vec::new();
    let mut relevant: Vec<&str> = plan.questions.iter().flat_map(Question::relevant).collect();
    relevant.sort_unstable();
    relevant.dedup();
    for wanted in &relevant {
        match find(wanted) {
            Some((_, document)) if !document.title.is_empty() => {
                looked.titles.insert((*wanted).to_owned(), document.title.clone());
            }
            Some(_) => {}
            None => missing.push(*wanted),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if missing.len() == relevant.len() {
        return Err(wrong!(
            "none of the relevant documents is in the collection {name:?}: the set names {}, the collection has {}",
            examples(&missing),
            examples(&held.keys().map(String::as_str).collect::<Vec<_>>())
        ));
    }
    looked.notes.push(format!(
        "{} of {} relevant documents are not in the collection {name} and cannot be found: {}",
        missing.len(),
        relevant.len(),
        examples(&missing)
    ));
    Ok(())
}

/// So that an hour's work is not lost to a misspelt folder.
fn check_writable(path: &Path) -> InputResult<()> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map(drop)
        .map_err(|error| wrong!("{} cannot be written: {error}", path.display()))
}

fn report(eval: &Eval, dataset: &Dataset, evaluation: &Evaluation) -> anyhow::Result<()> {
    let summary = Summary::of(evaluation);
    let mut stderr = Stderr::new();
    let mut wrote = |path: &Path| stderr.line(&format!("wrote {}", path.display()));
    if let (Some(path), Some(first)) = (&eval.run_file, evaluation.systems.first()) {
        let ranked = evaluation.questions.iter().zip(&first.rankings);
        let found = ranked.filter_map(|(question, ranking)| {
            Some((question.id.as_str(), ranking.as_ref()?.documents.as_slice()))
        });
        run_file::write(path, &tag(&first.label), found)?;
        wrote(path);
    }
    if let Some(path) = &eval.per_query {
        write(path, &per_query(evaluation)?)?;
        wrote(path);
    }
    if let Some(path) = &eval.html {
        write(path, &page(evaluation, &summary, dataset.naming))?;
        wrote(path);
    }
    if eval.json { crate::print_json(&summary) } else { crate::print(&table(&summary, &evaluation.cuts)) }
}

/// The last field of a run's lines.
fn tag(label: &str) -> String {
    let name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("raglan-{name}")
}

fn write(path: &Path, text: &str) -> InputResult<()> {
    std::fs::write(path, text).map_err(|error| wrong!("{} cannot be written: {error}", path.display()))
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
