//! Chunks as Qdrant's points: the payload, and the filters over it.
//!
//! A point's id is its chunk's. Its payload is what filters need and nothing else: one field says whose it is and where, one of which document it
//! is, and one holds the document's metadata as [`terms`], so that one payload index serves every metadata key.

use std::collections::HashMap;

use qdrant_client::qdrant::{
    Condition, FieldType, Filter, KeywordIndexParams, PayloadIndexParams, PointId, PointStruct, ScoredPoint,
    UuidIndexParams, Value, payload_index_params::IndexParams, point_id::PointIdOptions,
};
use raglan_pipeline::{
    domain::{ChunkId, Collection, Document, DocumentId, Tenant},
    ports::{Hit, SearchScope},
};
use uuid::Uuid;

use crate::replica::terms;

/// Tenant and collection: `tenant/collection`. Neither may have a `/` in its name, and no search goes beyond one collection.
pub(super) const SCOPE: &str = "scope";
/// The document's id.
pub(super) const DOCUMENT: &str = "document";
/// The document's metadata.
pub(super) const TERMS: &str = "terms";

/// The payload indexes: field, type, and how.
pub(super) fn indexes() -> [(&'static str, FieldType, PayloadIndexParams); 3] {
    let keyword = |is_tenant| {
        IndexParams::KeywordIndexParams(KeywordIndexParams {
            is_tenant: Some(is_tenant),
            ..KeywordIndexParams::default()
        })
    };
    let params = |params| PayloadIndexParams { index_params: Some(params) };
    [
        // Qdrant keeps the points of one scope together.
        (SCOPE, FieldType::Keyword, params(keyword(true))),
        (DOCUMENT, FieldType::Uuid, params(IndexParams::UuidIndexParams(UuidIndexParams::default()))),
        (TERMS, FieldType::Keyword, params(keyword(false))),
    ]
}

/// A chunk with its vector and what it is found by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub chunk: ChunkId,
    pub document: DocumentId,
    pub scope: String,
    pub terms: Vec<String>,
    pub vector: Vec<f32>,
}

impl Point {
    pub(super) fn into_struct(self) -> PointStruct {
        let payload = HashMap::from([
            (SCOPE.to_owned(), Value::from(self.scope)),
            (DOCUMENT.to_owned(), Value::from(self.document.to_string())),
            (TERMS.to_owned(), Value::from(self.terms)),
        ]);
        PointStruct { id: Some(PointId::from(self.chunk.0)), payload, vectors: Some(self.vector.into()) }
    }
}

/// The value of [`SCOPE`].
pub(super) fn scope_of(tenant: &Tenant, collection: &Collection) -> String {
    format!("{tenant}/{collection}")
}

/// The value of [`SCOPE`] for a document's chunks.
pub(super) fn home(document: &Document) -> String {
    scope_of(&document.tenant, &document.collection)
}

/// The points that a search may find; none when no point can match.
pub(super) fn filter(scope: &SearchScope) -> Option<Filter> {
    let mut conditions = vec![Condition::matches(SCOPE, scope_of(&scope.tenant, &scope.collection))];
    for clause in terms::of_filter(&scope.filter) {
        if clause.is_empty() {
            return None;
        }
        conditions.push(Condition::matches(TERMS, clause));
    }
    Some(Filter::must(conditions))
}

/// All points of these documents.
pub(super) fn of_documents(documents: impl IntoIterator<Item = DocumentId>) -> Filter {
    let ids: Vec<String> = documents.into_iter().map(|document| document.to_string()).collect();
    Filter::must([Condition::matches(DOCUMENT, ids)])
}

/// A point that was found. None where it is no chunk's, which nothing of ours makes.
pub(super) fn hit(point: ScoredPoint) -> Option<Hit> {
    let PointIdOptions::Uuid(id) = point.id?.point_id_options? else { return None };
    let chunk_id = ChunkId(Uuid::parse_str(&id).ok()?);
    // The cosine of a vector with itself may come out a little above 1.
    Some(Hit { chunk_id, score: point.score.clamp(-1.0, 1.0) })
}

#[cfg(test)]
mod tests {
    use qdrant_client::qdrant::{condition::ConditionOneOf, r#match::MatchValue};
    use raglan_pipeline::contract::index::corpus::filtered;
    use serde_json::json;

    use super::*;

    fn shown(filter: &Filter) -> Vec<(String, Vec<String>)> {
        assert!(filter.should.is_empty() && filter.must_not.is_empty());
        let condition = |condition: &Condition| {
            let Some(ConditionOneOf::Field(field)) = &condition.condition_one_of else { panic!("a field") };
            let values = match field.r#match.as_ref().and_then(|matches| matches.match_value.as_ref()) {
                Some(MatchValue::Keyword(one)) => vec![one.clone()],
                Some(MatchValue::Keywords(any)) => any.strings.clone(),
                other => panic!("{other:?}"),
            };
            (field.key.clone(), values)
        };
        filter.must.iter().map(condition).collect()
    }

    #[test]
    fn a_filter_is_the_scope_and_a_clause_for_each_key() {
        let expected = |clauses: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
            clauses.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
        };
        let everything = filter(&filtered(json!({}), 1)).unwrap();
        assert_eq!(shown(&everything), expected(&[(SCOPE, &["default/default"])]));
        let both = filter(&filtered(json!({"year": 2026, "lang": ["en", "de"]}), 1)).unwrap();
        assert_eq!(
            shown(&both),
            expected(&[
                (SCOPE, &["default/default"]),
                (TERMS, &["\"lang\":\"de\"", "\"lang\":\"en\""]),
                (TERMS, &["\"year\":2026"]),
            ])
        );
        assert_eq!(filter(&filtered(json!({"lang": []}), 1)), None, "of no values none is held");
    }

    #[test]
    fn hits_are_chunks_with_cosines() {
        let id = Uuid::new_v4();
        let found = |id: PointId, score| hit(ScoredPoint { id: Some(id), score, ..ScoredPoint::default() });
        assert_eq!(found(id.into(), 1.000_000_1), Some(Hit { chunk_id: ChunkId(id), score: 1.0 }));
        assert_eq!(found(id.into(), -0.25), Some(Hit { chunk_id: ChunkId(id), score: -0.25 }));
        assert_eq!(found(PointId::from(7), 0.5), None);
    }
}
