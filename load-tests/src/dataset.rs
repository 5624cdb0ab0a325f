//! Data sets in BEIR's layout.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, de::DeserializeOwned};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Document {
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(default)]
    pub title: String,
    pub text: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Query {
    #[serde(rename = "_id")]
    pub id: String,
    pub text: String,
}

/// The texts of the questions of `queries.jsonl`.
pub fn questions(folder: &Path) -> anyhow::Result<Vec<String>> {
    let path = folder.join("queries.jsonl");
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let questions = json_lines::<Query>(BufReader::new(file), path.display().to_string());
    questions.map(|query| query.map(|query| query.text)).collect()
}

/// How relevant each document is to a question, by its id. What is not there is not relevant.
pub type Judgements = BTreeMap<String, u32>;

/// The documents, one at a time.
pub fn corpus(folder: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Document>>> {
    let packed = folder.join("corpus.jsonl.gz");
    let plain = folder.join("corpus.jsonl");
    let (path, reader): (_, Box<dyn BufRead>) = if packed.exists() {
        let file = File::open(&packed)?;
        (packed, Box::new(BufReader::new(MultiGzDecoder::new(file))))
    } else {
        let file = File::open(&plain)
            .with_context(|| format!("neither {} nor {}", packed.display(), plain.display()))?;
        (plain, Box::new(BufReader::new(file)))
    };
    Ok(json_lines(reader, path.display().to_string()))
}

/// The questions that have judgements, each with them.
pub fn judged_queries(folder: &Path) -> anyhow::Result<Vec<(Query, Judgements)>> {
    let path = folder.join("queries.jsonl");
    let file = File::open(&path).with_context(|| path.display().to_string())?;
    let mut judgements = judgements(&folder.join("qrels").join("test.tsv"))?;
    let mut judged = Vec::new();
    for query in json_lines::<Query>(BufReader::new(file), path.display().to_string()) {
        let query = query?;
        if let Some(judgements) = judgements.remove(&query.id) {
            judged.push((query, judgements));
        }
    }
    if judged.is_empty() {
        bail!("{}: no question has a judgement", path.display());
    }
    Ok(judged)
}

fn json_lines<T: DeserializeOwned>(
    reader: impl BufRead,
    name: String,
) -> impl Iterator<Item = anyhow::Result<T>> {
    let lines =
        (1..).zip(reader.lines()).filter(|(_, line)| !line.as_ref().is_ok_and(|line| line.is_empty()));
    lines.map(move |(number, line)| {
        let place = || format!("{name}: line {number}");
        serde_json::from_str(&line.with_context(place)?).with_context(place)
    })
}

/// Reads `query-id corpus-id score` lines after a header. Documents with a score of 0 are not relevant.
fn judgements(path: &Path) -> anyhow::Result<BTreeMap<String, Judgements>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut judgements: BTreeMap<String, Judgements> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).skip(1) {
        let place = || format!("{}: line {number}", path.display());
        let mut fields = line.split('\t');
        let (Some(query), Some(document), Some(score), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            bail!("{}: not three fields", place());
        };
        let score: u32 = score.trim().parse().with_context(place)?;
        if score > 0 {
            judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), score);
        }
    }
    Ok(judgements)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const CORPUS: &str = "{\"_id\": \"1\", \"title\": \"One\", \"text\": \"First.\"}\n\n{\"_id\": \"2\", \"text\": \"Second.\", \"metadata\": {}}\n";

    fn ids(folder: &Path) -> Vec<(String, String)> {
        corpus(folder).unwrap().map(|one| one.map(|one| (one.id, one.title)).unwrap()).collect()
    }

    #[test]
    fn a_corpus_may_be_packed() {
        let expected = [("1".to_owned(), "One".to_owned()), ("2".to_owned(), String::new())];
        let folder = tempfile::tempdir().unwrap();
        assert!(corpus(folder.path()).is_err());
        std::fs::write(folder.path().join("corpus.jsonl"), CORPUS).unwrap();
        assert_eq!(ids(folder.path()), expected);
        std::fs::remove_file(folder.path().join("corpus.jsonl")).unwrap();
        let file = File::create(folder.path().join("corpus.jsonl.gz")).unwrap();
        let mut packed = GzEncoder::new(file, Compression::fast());
        packed.write_all(CORPUS.as_bytes()).unwrap();
        packed.finish().unwrap();
        assert_eq!(ids(folder.path()), expected);
    }

    #[test]
    fn only_questions_with_a_relevant_document_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("qrels")).unwrap();
        let qrels = "query-id\tcorpus-id\tscore\nq1\t2\t1\nq1\t1\t2\nq2\t1\t0\n";
        std::fs::write(folder.path().join("qrels").join("test.tsv"), qrels).unwrap();
        let queries = "{\"_id\": \"q1\", \"text\": \"A?\"}\n{\"_id\": \"q2\", \"text\": \"B?\"}\n{\"_id\": \"q3\", \"text\": \"C?\"}\n";
        std::fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
        let judged = judged_queries(folder.path()).unwrap();
        assert_eq!(judged.len(), 1);
        assert_eq!(judged[0].0.text, "A?");
        assert_eq!(judged[0].1, Judgements::from([("1".to_owned(), 2), ("2".to_owned(), 1)]));
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("corpus.jsonl"), "{\"_id\": \"1\", \"text\": \"\"}\n{\n").unwrap();
        let error = corpus(folder.path()).unwrap().nth(1).unwrap().unwrap_err();
        assert!(format!("{error:#}").contains("corpus.jsonl: line 2"), "{error:#}");
    }
}
