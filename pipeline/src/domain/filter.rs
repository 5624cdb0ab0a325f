//! Filters over document metadata.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Metadata;

/// What a document's metadata must hold: every key, each equal to the value given or to one of the
/// values given. A metadata value that is a list matches when any of its elements does.
///
/// ```
/// use raglan_pipeline::domain::MetadataFilter;
/// let filter: MetadataFilter = serde_json::from_str(r#"{"lang": ["en", "de"], "year": 2026}"#).unwrap();
/// let metadata = serde_json::json!({"lang": "de", "year": 2026, "team": "x"});
/// assert!(filter.matches(metadata.as_object().unwrap()));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetadataFilter(pub BTreeMap<String, Value>);

impl MetadataFilter {
    /// Whether every document matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a document with this metadata matches.
    #[must_use]
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.0.iter().all(|(key, wanted)| {
            metadata
                .get(key)
                .is_some_and(|held| values(held).any(|held| values(wanted).any(|wanted| held == wanted)))
        })
    }

    /// The first key whose value is neither a string, number or boolean nor a list of these.
    #[must_use]
    pub fn first_invalid_key(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(_, value)| {
                values(value).any(|v| v.is_object() || v.is_array() || v.is_null())
                    || value.as_array().is_some_and(Vec::is_empty)
            })
            .map(|(key, _)| key.as_str())
    }
}

/// The elements of a list, or the value itself.
fn values(value: &Value) -> impl Iterator<Item = &Value> {
    match value {
        Value::Array(items) => items.iter(),
        single => std::slice::from_ref(single).iter(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(filter: Value, metadata: Value) -> bool {
        let filter: MetadataFilter = serde_json::from_value(filter).unwrap();
        filter.matches(metadata.as_object().unwrap())
    }

    #[test]
    fn equality_any_of_and_lists() {
        assert!(matches(json!({}), json!({})));
        assert!(matches(json!({"a": 1}), json!({"a": 1, "b": 2})));
        assert!(!matches(json!({"a": 1}), json!({"a": "1"})));
        assert!(!matches(json!({"a": 1}), json!({})));
        assert!(matches(json!({"a": [1, 2]}), json!({"a": 2})));
        assert!(matches(json!({"a": 1}), json!({"a": [3, 1]})));
        assert!(!matches(json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3})));
    }

    #[test]
    fn nested_values_are_named() {
        let filter: MetadataFilter = serde_json::from_value(json!({"a": 1, "b": {"c": 1}})).unwrap();
        assert_eq!(filter.first_invalid_key(), Some("b"));
    }
}
