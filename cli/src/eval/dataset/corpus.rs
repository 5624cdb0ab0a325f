//! The documents of `corpus.jsonl`.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;

use super::questions::Name;
use crate::eval::input::{InputResult, json_lines, wrong};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id in the set, which becomes its external id.
    pub id: String,
    /// Its title; may be empty.
    pub title: String,
    /// Its text.
    pub text: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "_id", alias = "id")]
    id: Name,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

/// The documents, one at a time. What is wrong with a line is told when its turn comes.
pub fn read(path: &Path) -> InputResult<impl Iterator<Item = InputResult<Document>> + use<>> {
    let rows = json_lines::<Row>(path)?;
    Ok(rows.map(|row| {
        let (_, Row { id, title, text }) = row?;
        Ok(Document { id: id.into(), title: title.unwrap_or_default(), text })
    }))
}

/// Reads all of it once, so that what is wrong is told before anything is sent; how many documents it has.
pub fn check(path: &Path) -> InputResult<u64> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for row in json_lines::<Row>(path)? {
        let (number, row) = row?;
        let id = String::from(row.id);
        if id.trim().is_empty() {
            return Err(wrong!("{}: line {number}: the id is empty", path.display()));
        }
        if let Some(first) = seen.insert(id.clone(), number) {
            return Err(wrong!(
                "{}: line {number}: the id {id:?} was given on line {first} before",
                path.display()
            ));
        }
    }
    if seen.is_empty() {
        return Err(wrong!("{} has no documents", path.display()));
    }
    Ok(seen.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> (InputResult<u64>, InputResult<Vec<Document>>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("corpus.jsonl");
        std::fs::write(&path, text).unwrap();
        (check(&path), read(&path).unwrap().collect())
    }

    #[test]
    fn documents_have_an_id_a_text_and_maybe_a_title() {
        let (count, documents) = from_text(
            "{\"_id\": \"a\", \"title\": \"A\", \"text\": \"x\", \"metadata\": {}}\n{\"_id\": 7, \"title\": null, \"text\": \"y\"}\n",
        );
        assert_eq!(count.unwrap(), 2);
        let documents = documents.unwrap();
        assert_eq!(documents[0], Document { id: "a".into(), title: "A".into(), text: "x".into() });
        assert_eq!(documents[1], Document { id: "7".into(), title: String::new(), text: "y".into() });
    }

    #[test]
    fn a_bad_line_is_named_before_anything_is_sent() {
        for (text, expected) in [
            ("{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b\"}\n", "line 2: missing field `text`"),
            (
                "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"a\", \"text\": \"y\"}\n",
                "line 2: the id \"a\" was given on line 1",
            ),
            ("{\"_id\": \"\", \"text\": \"x\"}\n", "line 1: the id is empty"),
            ("{\"_id\": \"a\", \"text\": \"x\"\n", "line 1: EOF"),
            ("", "has no documents"),
        ] {
            let error = from_text(text).0.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
