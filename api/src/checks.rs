//! Checks of fields that several routes have.

use raglan_pipeline::domain::Metadata;
use serde_json::Value;

use crate::error::{ApiResult, Problem};

/// How deep metadata may be nested. What a client sends is stored and sent again inside other JSON, which parsers follow only so deep.
const MAX_DEPTH: usize = 16;

/// Checks the size and the depth of metadata.
pub(crate) fn check_metadata(field: &str, metadata: &Metadata, most_bytes: usize) -> ApiResult<()> {
    if metadata.values().any(|value| deeper_than(value, MAX_DEPTH)) {
        return Err(Problem::invalid(field, format!("is nested deeper than {MAX_DEPTH} levels")));
    }
    let bytes = serde_json::to_vec(metadata).map_or(0, |json| json.len());
    if bytes > most_bytes {
        return Err(Problem::invalid(field, format!("has {bytes} bytes as JSON; {most_bytes} at most")));
    }
    Ok(())
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Object(_) | Value::Array(_) if levels == 0 => true,
        Value::Object(fields) => fields.values().any(|value| deeper_than(value, levels - 1)),
        Value::Array(items) => items.iter().any(|value| deeper_than(value, levels - 1)),
        _ => false,
    }
}

/// Checks a short text: its length, and that it has no control characters.
pub(crate) fn check_text(field: &str, text: &str, most_chars: usize) -> ApiResult<()> {
    if text.trim().is_empty() {
        return Err(Problem::invalid(field, "must not be empty"));
    }
    let chars = text.chars().count();
    if chars > most_chars {
        return Err(Problem::invalid(field, format!("has {chars} characters; {most_chars} at most")));
    }
    if text.chars().any(char::is_control) {
        return Err(Problem::invalid(field, "has control characters"));
    }
    Ok(())
}
