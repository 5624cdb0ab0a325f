//! The parts of a data set in BEIR's layout that load is made of: documents and questions. How good the answers are is measured by
//! `raglan eval`.

use std::{
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

#[derive(Debug, Deserialize)]
struct Query {
    text: String,
}

/// The documents of `corpus.jsonl` or `corpus.jsonl.gz`, one at a time.
pub fn corpus(folder: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Document>>> {
    json_lines(folder, "corpus.jsonl")
}

/// The texts of the questions of `queries.jsonl` or `queries.jsonl.gz`.
pub fn questions(folder: &Path) -> anyhow::Result<Vec<String>> {
    let questions: Vec<String> = json_lines::<Query>(folder, "queries.jsonl")?
        .map(|query| query.map(|query| query.text))
        .collect::<anyhow::Result<_>>()?;
    if questions.is_empty() {
        bail!("{}: there are no questions", folder.display());
    }
    Ok(questions)
}

fn json_lines<T: DeserializeOwned>(
    folder: &Path,
    name: &str,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<T>> + use<T>> {
    let packed = folder.join(format!("{name}.gz"));
    let plain = folder.join(name);
    let (path, reader): (_, Box<dyn BufRead>) = if packed.exists() {
        let file = File::open(&packed)?;
        (packed, Box::new(BufReader::new(MultiGzDecoder::new(file))))
    } else {
        let file = File::open(&plain)
            .with_context(|| format!("neither {} nor {}", packed.display(), plain.display()))?;
        (plain, Box::new(BufReader::new(file)))
    };
    let lines =
        (1..).zip(reader.lines()).filter(|(_, line)| !line.as_ref().is_ok_and(|line| line.is_empty()));
    Ok(lines.map(move |(number, line)| {
        let place = || format!("{}: line {number}", path.display());
        serde_json::from_str(&line.with_context(place)?).with_context(place)
    }))
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
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("corpus.jsonl"), "{\"_id\": \"1\", \"text\": \"\"}\n{\n").unwrap();
        let error = corpus(folder.path()).unwrap().nth(1).unwrap().unwrap_err();
        assert!(error.to_string().ends_with("line 2"), "{error}");
    }

    #[test]
    fn questions_are_read_and_none_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queries.jsonl");
        std::fs::write(&path, "{\"_id\": \"q\", \"text\": \"A?\"}\n{\"_id\": \"r\", \"text\": \"B?\"}\n")
            .unwrap();
        assert_eq!(questions(folder.path()).unwrap(), ["A?", "B?"]);
        std::fs::write(&path, "").unwrap();
        assert!(questions(folder.path()).is_err());
    }
}
