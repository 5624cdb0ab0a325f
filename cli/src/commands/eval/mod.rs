//! `raglan eval`: how well questions are answered, and whether one configuration is better than another.

mod prepare;
mod sources;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;

use self::{
    prepare::prepare,
    sources::{Source, label, sources},
};
use super::search::Mode;
use crate::{
    client::Api,
    eval::{
        ask::{AskSettings, ask},
        collection::Collection,
        dataset::{
            Dataset, Question, load,
            sample::{HoldOut, hold_out, sample},
        },
        input::{InputError, InputResult, wrong},
        measures::{Cuts, of_answers, of_rankings},
        report::{Configuration, Evaluation, Summary, System, page, per_query, table},
        run_file,
        search::{from_run, rank},
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
