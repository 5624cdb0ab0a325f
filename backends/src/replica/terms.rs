//! Metadata as terms, so that an index can look filters up instead of evaluating them.
//!
//! Every value of every key becomes one string, `"key":value` in JSON. Two values have the same string exactly when
//! [`MetadataFilter::matches`] holds them equal, so a filter is "for every key, any of these terms": no more and no less.

use std::fmt::Write as _;

use raglan_pipeline::domain::{Metadata, MetadataFilter};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Terms longer than this many bytes are replaced by their hash: indexes bound the length of a term.
const LONGEST: usize = 256;

/// The terms of a document's metadata, sorted, each once.
pub(crate) fn of_metadata(metadata: &Metadata) -> Vec<String> {
    let mut terms: Vec<String> = metadata
        .iter()
        .flat_map(|(key, value)| values(value).iter().map(move |value| term(key, value)))
        .collect();
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// A filter as clauses: a document matches when of every clause it has at least one term.
pub(crate) fn of_filter(filter: &MetadataFilter) -> Vec<Vec<String>> {
    let clause = |(key, value): (&String, &Value)| {
        let mut terms: Vec<String> = values(value).iter().map(|value| term(key, value)).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    };
    filter.0.iter().map(clause).collect()
}

/// The elements of a list, or the value itself.
fn values(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    }
}

fn term(key: &str, value: &Value) -> String {
    let mut term = String::with_capacity(key.len() + 16);
    write_string(&mut term, key);
    term.push(':');
    write_value(&mut term, value);
    if term.len() <= LONGEST {
        return term;
    }
    let mut hashed = String::with_capacity(65);
    // No plain term begins so: those begin with the key's quotation mark.
    hashed.push('#');
    for byte in Sha256::digest(term.as_bytes()) {
        let _ = write!(hashed, "{byte:02x}");
    }
    hashed
}

/// Writes a value as JSON in the one form that all values equal to it share: objects by key, and no negative zero.
fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let zero = number.is_f64() && number.as_f64() == Some(0.0);
            let _ = if zero { out.write_str("0.0") } else { write!(out, "{number}") };
        }
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, key);
                out.push(':');
                write_value(out, value);
            }
            out.push('}');
        }
    }
}

/// Writes a string as JSON, so that where it ends is clear.
fn write_string(out: &mut String, text: &str) {
    let _ = write!(out, "{}", Value::from(text));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn by_terms(filter: &MetadataFilter, metadata: &Metadata) -> bool {
        let held = of_metadata(metadata);
        of_filter(filter).iter().all(|clause| clause.iter().any(|term| held.binary_search(term).is_ok()))
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-2i64..3).prop_map(Value::from),
            prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(0.1), Just(1e300), any::<f64>()]
                .prop_map(Value::from),
            prop_oneof![Just("1".to_owned()), Just("1.0".to_owned()), "[a\":.\\\\,]{0,3}"]
                .prop_map(Value::from),
            "x{250,260}".prop_map(Value::from),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let nested = scalar().prop_recursive(2, 6, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        });
        prop_oneof![3 => scalar(), 1 => nested]
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("a.b".to_owned()), "[ab.\":]{0,2}"]
    }

    proptest! {
        #[test]
        fn terms_decide_as_the_filter_does(
            filter in prop::collection::btree_map(key(), value(), 0..3),
            metadata in prop::collection::btree_map(key(), value(), 0..4),
            shared in any::<bool>(),
        ) {
            let mut metadata: Metadata = metadata.into_iter().collect();
            let filter = MetadataFilter(filter);
            if shared {
                // Random values are seldom equal: half of the cases hold what is asked for.
                metadata.extend(filter.0.clone());
            }
            prop_assert_eq!(by_terms(&filter, &metadata), filter.matches(&metadata));
        }
    }

    #[test]
    fn numbers_are_equal_as_json_numbers_are() {
        for (wanted, held) in [
            (json!(1), json!(1.0)),
            (json!(-0.0), json!(0.0)),
            (json!(0), json!(-0.0)),
            (json!("1"), json!(1)),
            (json!(u64::MAX), json!(u64::MAX as f64)),
        ] {
            let filter = MetadataFilter([("k".to_owned(), wanted.clone())].into());
            let metadata: Metadata = [("k".to_owned(), held.clone())].into_iter().collect();
            assert_eq!(by_terms(&filter, &metadata), filter.matches(&metadata), "{wanted} and {held}");
        }
    }
}
