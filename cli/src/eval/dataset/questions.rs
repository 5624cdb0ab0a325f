//! Questions, one JSON object a line: `queries.jsonl` as in BEIR, and `questions.jsonl` as people write it.

use std::{collections::HashMap, path::Path};

use serde::Deserialize;

use super::Question;
use crate::eval::input::{InputResult, json_lines, wrong};

/// One line. Fields that are not named here are passed over: sets carry many of their own.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(alias = "_id")]
    id: Option<Name>,
    #[serde(alias = "text", alias = "query")]
    question: Option<String>,
    #[serde(alias = "documents")]
    document: Option<OneOrMany>,
    #[serde(flatten)]
    known: Known,
    metadata: Option<Known>,
}

/// What is known of the answer; beside the question, or under `metadata`.
#[derive(Debug, Default, Deserialize)]
struct Known {
    #[serde(alias = "answer", alias = "contains")]
    answers: Option<OneOrMany>,
    answerable: Option<bool>,
    unanswerable: Option<bool>,
}

/// A text, or a number that is meant as one.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a text or a number")]
pub(super) enum Name {
    Text(String),
    Number(serde_json::Number),
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        match name {
            Name::Text(text) => text,
            Name::Number(number) => number.to_string(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a text or a list of texts")]
enum OneOrMany {
    One(Name),
    Many(Vec<Name>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(given: OneOrMany) -> Self {
        match given {
            OneOrMany::One(name) => vec![name.into()],
            OneOrMany::Many(names) => names.into_iter().map(Into::into).collect(),
        }
    }
}

/// Questions as their file has them.
#[derive(Debug)]
pub(super) struct Read {
    /// All of them, in order. A question without an id is called by the number of its line.
    pub questions: Vec<Question>,
    /// Whether lines name documents.
    pub name_documents: bool,
}

pub(super) fn read(path: &Path) -> InputResult<Read> {
    let mut read = Read { questions: Vec::new(), name_documents: false };
    let mut seen: HashMap<String, usize> = HashMap::new();
    for line in json_lines::<Row>(path)? {
        let (number, row) = line?;
        let place = || format!("{}: line {number}", path.display());
        let id = row.id.map_or_else(|| number.to_string(), String::from);
        if id.is_empty() {
            return Err(wrong!("{}: the id is empty", place()));
        }
        if let Some(first) = seen.insert(id.clone(), number) {
            return Err(wrong!("{}: the id {id:?} was given on line {first} before", place()));
        }
        let text = row.question.ok_or_else(|| wrong!("{}: there is no `text` or `question`", place()))?;
        if text.trim().is_empty() {
            return Err(wrong!("{}: the question is empty", place()));
        }
        let documents: Vec<String> = row.document.map(Into::into).unwrap_or_default();
        read.name_documents |= !documents.is_empty();
        let judgements = documents.into_iter().map(|name| (name, 1)).collect();
        let says = |known: &Known| known.unanswerable.or(known.answerable.map(|answerable| !answerable));
        let metadata = row.metadata.unwrap_or_default();
        let marked = says(&row.known).or(says(&metadata));
        let given: Option<Vec<String>> = row.known.answers.or(metadata.answers).map(Into::into);
        // A list of answers that is there and empty says that there is none. (Whether a document is relevant may say otherwise; the layout
        // looks at that.)
        let unanswerable = marked.unwrap_or(given.as_ref().is_some_and(Vec::is_empty));
        let answers = given.unwrap_or_default();
        if unanswerable && !answers.is_empty() {
            return Err(wrong!("{}: the question is marked unanswerable, and has an answer", place()));
        }
        read.questions.push(Question { id, text, judgements, answers, unanswerable, held_out: false });
    }
    if read.questions.is_empty() {
        return Err(wrong!("{} has no questions", path.display()));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> InputResult<Read> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn both_ways_of_writing_a_question_are_read() {
        let read = from_text(
            r#"{"_id": "a", "text": "A?", "metadata": {"answers": ["x", 7], "lang": "en"}}
{"_id": 2, "text": "B?", "metadata": {"answers": []}}
{"question": "C?", "document": "c.md", "contains": "see"}
{"id": "d", "question": "D?", "documents": ["d.md", "e.md"], "answers": ["y"]}
{"question": "E?", "unanswerable": true}
{"_id": "f", "text": "F?", "metadata": {"answerable": false}}
{"_id": "g", "text": "G?", "metadata": null}
"#,
        )
        .unwrap();
        assert!(read.name_documents);
        let ids: Vec<&str> = read.questions.iter().map(|question| question.id.as_str()).collect();
        assert_eq!(ids, ["a", "2", "3", "d", "5", "f", "g"]);
        assert_eq!(read.questions[0].answers, ["x", "7"]);
        assert_eq!(read.questions[2].answers, ["see"]);
        assert_eq!(read.questions[2].relevant().collect::<Vec<_>>(), ["c.md"]);
        assert_eq!(read.questions[3].relevant().collect::<Vec<_>>(), ["d.md", "e.md"]);
        let unanswerable: Vec<bool> = read.questions.iter().map(|question| question.unanswerable).collect();
        assert_eq!(unanswerable, [false, true, false, false, true, true, false]);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, expected) in [
            ("{\"text\": \"A?\"}\n\n{\"text\": }\n", "line 3: expected value"),
            ("{\"_id\": \"a\"}\n", "line 1: there is no `text` or `question`"),
            ("{\"text\": \" \"}\n", "line 1: the question is empty"),
            (
                "{\"_id\": \"a\", \"text\": \"A\"}\n{\"_id\": \"a\", \"text\": \"B\"}\n",
                "line 2: the id \"a\" was given on line 1",
            ),
            (
                "{\"text\": \"A\", \"unanswerable\": true, \"answers\": [\"x\"]}\n",
                "line 1: the question is marked",
            ),
            ("[1]\n", "line 1: "),
            ("{\"text\": \"A\", \"answers\": {\"x\": 1}}\n", "line 1: must be a text or a list of texts"),
            ("\n", "has no questions"),
        ] {
            let error = from_text(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
