//! Reading a data set in the layout of BEIR.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use anyhow::Context;
use flate2::read::GzDecoder;
use serde::Deserialize;

/// A document of a corpus.
#[derive(Debug, Deserialize)]
pub struct Document {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default)]
    pub title: String,
    pub text: String,
}

/// A question.
#[derive(Debug, Deserialize)]
pub struct Query {
    #[serde(rename = "_id")]
    pub id: String,
    pub text: String,
}

/// Relevant documents by question, with their grades.
pub type Judgements = HashMap<String, HashMap<String, u32>>;

/// The corpus.
pub fn corpus(folder: &Path) -> anyhow::Result<Vec<Document>> {
    let packed = folder.join("corpus.jsonl.gz");
    if packed.exists() {
        lines(GzDecoder::new(open(&packed)?))
    } else {
        lines(open(&folder.join("corpus.jsonl"))?)
    }
}

/// The questions that have a judgement.
pub fn queries(folder: &Path, judgements: &Judgements) -> anyhow::Result<Vec<Query>> {
    let all: Vec<Query> = lines(open(&folder.join("queries.jsonl"))?)?;
    Ok(all.into_iter().filter(|query| judgements.contains_key(&query.id)).collect())
}

/// The judgements above 0.
pub fn judgements(folder: &Path) -> anyhow::Result<Judgements> {
    let mut judgements = Judgements::new();
    for line in BufReader::new(open(&folder.join("qrels/test.tsv"))?).lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let [query, document, grade] = fields.as_slice() else { anyhow::bail!("not a judgement: {line:?}") };
        let grade: u32 = grade.trim().parse().with_context(|| format!("not a grade: {line:?}"))?;
        if grade > 0 {
            judgements.entry((*query).to_owned()).or_default().insert((*document).to_owned(), grade);
        }
    }
    Ok(judgements)
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn lines<T: for<'de> Deserialize<'de>>(reader: impl Read) -> anyhow::Result<Vec<T>> {
    BufReader::new(reader).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
