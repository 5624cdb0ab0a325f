//! How far the index is fed, kept in Qdrant beside the chunks: one point without a vector and without a scope, so that no search finds it.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    NamedVectors, PointId, PointStruct, Value, Vectors, value::Kind, vectors::VectorsOptions,
};
use raglan_pipeline::domain::LogPosition;
use uuid::Uuid;

const POSITION: &str = "position";
const HISTORY: &str = "history";

/// The id of the point. No chunk has it: a chunk's id is a hash.
pub(super) const ID: Uuid = Uuid::nil();

/// What the current collection holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// The collection that the alias stands for.
    pub collection: String,
    /// The last change applied.
    pub position: LogPosition,
    /// The history that it was fed from.
    pub history: Option<Uuid>,
}

impl State {
    /// That of a collection that was just made.
    pub(super) fn empty(collection: String) -> Self {
        Self { collection, position: 0, history: None }
    }

    /// Reads what [`point`](Self::point) wrote; a collection without it is empty.
    pub(super) fn of_payload(collection: String, payload: &HashMap<String, Value>) -> Self {
        let position = match payload.get(POSITION).and_then(|value| value.kind.as_ref()) {
            Some(Kind::IntegerValue(position)) => u64::try_from(*position).unwrap_or(0),
            _ => 0,
        };
        let history = match payload.get(HISTORY).and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(history)) => Uuid::parse_str(history).ok(),
            _ => None,
        };
        Self { collection, position, history }
    }

    /// The point that keeps it.
    pub(super) fn point(&self) -> PointStruct {
        let position = i64::try_from(self.position).unwrap_or(i64::MAX);
        let mut payload = HashMap::from([(POSITION.to_owned(), Value::from(position))]);
        if let Some(history) = self.history {
            payload.insert(HISTORY.to_owned(), Value::from(history.to_string()));
        }
        let no_vector = VectorsOptions::Vectors(NamedVectors::default());
        PointStruct {
            id: Some(PointId::from(ID)),
            payload,
            vectors: Some(Vectors { vectors_options: Some(no_vector) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_it_was_written() {
        let empty = State::empty("c".to_owned());
        let fed = State { position: 1 << 40, history: Some(Uuid::new_v4()), ..empty.clone() };
        for state in [empty.clone(), fed] {
            assert_eq!(State::of_payload("c".to_owned(), &state.point().payload), state);
        }
        assert_eq!(State::of_payload("c".to_owned(), &HashMap::new()), empty);
    }
}
