//! JSON: a document with a title and a text, a list of records, or any tree, flattened to "path: value".

use raglan_pipeline::{
    domain::Metadata,
    ingestion::clean::DocumentBuilder,
    ports::{BlockKind, ParseError, ParsedDocument},
};
use serde_json::{Map, Value};

use super::{Task, text};

/// Members that hold a record's text, and those that hold its title, the likeliest first.
const TEXT: [&str; 4] = ["text", "content", "body", "contents"];
const TITLE: [&str; 3] = ["title", "name", "headline"];

/// Reads one JSON value.
pub(super) fn parse(json: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let value: Value = serde_json::from_str(json).map_err(|error| broken(&error, error.line()))?;
    let mut builder = task.builder();
    let mut title = None;
    let mut metadata = Metadata::new();
    match &value {
        Value::Object(object) => match document(object) {
            Some((found, body)) => {
                title = found;
                text::paragraphs(&mut builder, body)?;
                metadata = about(object);
            }
            None => members(&mut builder, object)?,
        },
        Value::Array(items) => items.iter().try_for_each(|item| record(&mut builder, item))?,
        scalar => builder.paragraph(&plain(scalar).unwrap_or_default())?,
    }
    builder.finish(title, "application/json", metadata)
}

/// Reads one JSON value a line.
pub(super) fn parse_lines(lines: &str, task: &Task) -> Result<ParsedDocument, ParseError> {
    let mut builder = task.builder();
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|error| broken(&error, index + 1))?;
        record(&mut builder, &value)?;
    }
    builder.finish(None, "application/x-ndjson", Metadata::new())
}

/// Title and text of an object that is a document.
fn document(object: &Map<String, Value>) -> Option<(Option<&str>, &str)> {
    let member = |names: &[&str]| names.iter().find_map(|name| object.get(*name)?.as_str());
    let body = member(&TEXT).filter(|body| !body.trim().is_empty())?;
    Some((member(&TITLE).filter(|title| !title.trim().is_empty()), body))
}

/// What an object says besides its title and text, as far as it is simple.
fn about(object: &Map<String, Value>) -> Metadata {
    let simple = |value: &Value| value.is_string() || value.is_number() || value.is_boolean();
    let known = |name: &str| TEXT.contains(&name) || TITLE.contains(&name);
    object
        .iter()
        .filter(|(name, value)| simple(value) && !known(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// One of many: a document with its heading, or a row.
fn record(builder: &mut DocumentBuilder, value: &Value) -> Result<(), ParseError> {
    if let Value::Object(object) = value
        && let Some((title, body)) = document(object)
    {
        if let Some(title) = title {
            builder.heading(2, title)?;
        }
        return text::paragraphs(builder, body);
    }
    let mut leaves = Vec::new();
    flatten(value, "", &mut leaves);
    builder.push(BlockKind::Row, &leaves.join("; "))
}

/// The members of a tree: a row for each value, and for each object in a list.
fn members(builder: &mut DocumentBuilder, object: &Map<String, Value>) -> Result<(), ParseError> {
    for (name, value) in object {
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    let mut leaves = Vec::new();
                    flatten(item, name, &mut leaves);
                    builder.push(BlockKind::Row, &leaves.join("; "))?;
                }
            }
            value => {
                let mut leaves = Vec::new();
                flatten(value, name, &mut leaves);
                for leaf in leaves {
                    builder.push(BlockKind::Row, &leaf)?;
                }
            }
        }
    }
    Ok(())
}

/// "path: value" of each value. The depth is bounded by the reader's.
fn flatten(value: &Value, path: &str, leaves: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(value, &path, leaves);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            items.iter().for_each(|item| flatten(item, path, leaves));
        }
        Value::Array(items) => {
            let values: Vec<String> = items.iter().filter_map(plain).collect();
            leaves.extend(leaf(path, values.join(", ")));
        }
        scalar => leaves.extend(plain(scalar).and_then(|value| leaf(path, value))),
    }
}

fn leaf(path: &str, value: String) -> Option<String> {
    match (path, value.trim()) {
        (_, "") => None,
        ("", value) => Some(value.to_owned()),
        (path, value) => Some(format!("{path}: {value}")),
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

fn broken(error: &serde_json::Error, line: usize) -> ParseError {
    let reason = error.to_string();
    if reason.starts_with("recursion limit") {
        ParseError::TooLarge(format!("its values are nested more than 127 deep, in line {line}"))
    } else {
        let reason = reason.split(" at line ").next().unwrap_or_default();
        ParseError::Corrupt(format!("line {line}, column {}: {reason}", error.column()))
    }
}
