use std::collections::HashMap;

use proptest::prelude::*;
use qdrant_client::qdrant::{point_id::PointIdOptions, points_selector::PointsSelectorOneOf};
use raglan_pipeline::{
    contract::index::corpus::{self, DIMENSION, Log, MODEL},
    domain::{Document, IndexChunk},
};
use serde_json::json;
use uuid::Uuid;

use super::*;

fn origin() -> Origin {
    Origin { model: MODEL.to_owned(), dimension: DIMENSION }
}

/// What an index holds: each chunk's document and terms, and the topic that its vector says.
type Held = BTreeMap<ChunkId, (DocumentId, Vec<String>, Vec<f32>)>;

/// Carries a plan out as Qdrant would.
fn carry_out(held: &mut Held, plan: Plan) {
    held.retain(|_, (document, ..)| !plan.gone.contains(document));
    for (document, terms) in plan.terms {
        for (_, held_terms, _) in held.values_mut().filter(|(held, ..)| *held == document) {
            held_terms.clone_from(&terms);
        }
    }
    for (chunk, (document, point)) in plan.chunks {
        match point {
            Some(point) => {
                assert_eq!((point.chunk, point.document), (chunk, document));
                held.insert(chunk, (document, point.terms, point.vector));
            }
            None => drop(held.remove(&chunk)),
        }
    }
}

fn documents() -> Vec<Document> {
    (0..3_u128)
        .map(|n| Document { id: DocumentId(Uuid::from_u128(n + 1)), ..corpus::document("d", json!({})) })
        .collect()
}

/// A change of one of three documents with a few chunks each, as numbers.
fn change() -> impl Strategy<Value = (u8, usize, Vec<u32>, u8)> {
    (0..12_u8, 0..3_usize, prop::collection::vec(0..4_u32, 0..4), 0..3_u8)
}

fn changes(drawn: &[(u8, usize, Vec<u32>, u8)]) -> Vec<Change> {
    let (log, documents) = (Log::default(), documents());
    let made = drawn.iter().map(|(kind, document, topics, value)| {
        let document =
            Document { metadata: corpus::object(json!({"v": value})), ..documents[*document].clone() };
        let mut chunks: Vec<IndexChunk> =
            topics.iter().map(|topic| corpus::chunk(&document, *topic, 0)).collect();
        match kind {
            0..5 => log.put(&document, chunks),
            5 => {
                // Embedded by another model.
                chunks.iter_mut().for_each(|chunk| chunk.embedding = None);
                log.put(&document, chunks)
            }
            6..8 => log.delete_chunks(&document, chunks.iter().map(|chunk| chunk.id).collect()),
            8..10 => log.put_document(&document),
            _ => log.delete_document(&document),
        }
    });
    made.collect()
}

proptest! {
    #[test]
    fn a_batch_comes_to_what_its_changes_come_to(
        before in prop::collection::vec(change(), 0..6),
        batch in prop::collection::vec(change(), 0..12),
    ) {
        let mut singly = Held::new();
        carry_out(&mut singly, Plan::of(changes(&before), &origin()));
        let mut at_once = singly.clone();
        for change in changes(&batch) {
            carry_out(&mut singly, Plan::of(vec![change], &origin()));
        }
        carry_out(&mut at_once, Plan::of(changes(&batch), &origin()));
        prop_assert_eq!(singly, at_once);
    }
}

#[test]
fn vectors_that_cannot_be_used_are_left_out_and_counted() {
    let (log, document) = (Log::default(), corpus::document("d", json!({})));
    let with = |vector: Vec<f32>, model: &str| {
        let embedding = Some(StoredEmbedding { model: model.to_owned(), vector });
        IndexChunk { embedding, ..corpus::chunk(&document, 1, 0) }
    };
    for (chunk, unusable) in [
        (with(vec![0.0; DIMENSION], MODEL), 1),
        (with(vec![f32::NAN; DIMENSION], MODEL), 1),
        (with(vec![f32::MAX; DIMENSION], MODEL), 1),
        (with(vec![1.0; DIMENSION + 1], MODEL), 1),
        (with(vec![1.0; DIMENSION], "another"), 0),
        (IndexChunk { embedding: None, ..corpus::chunk(&document, 1, 0) }, 0),
    ] {
        let id = chunk.id;
        let plan = Plan::of(vec![log.put(&document, vec![chunk])], &origin());
        assert_eq!(plan.unusable, unusable);
        assert_eq!(plan.chunks, [(id, (document.id, None))].into(), "what may be there of it goes");
    }
}

/// What an operation does, in short.
fn shown(operation: &PointsUpdateOperation) -> String {
    let selected = |selector: &Option<qdrant_client::qdrant::PointsSelector>| match selector
        .as_ref()
        .and_then(|selector| selector.points_selector_one_of.as_ref())
    {
        Some(PointsSelectorOneOf::Points(points)) => format!("{} points", points.ids.len()),
        Some(PointsSelectorOneOf::Filter(_)) => "documents".to_owned(),
        None => panic!("nothing is selected"),
    };
    match operation.operation.as_ref() {
        Some(Operation::Upsert(list)) => match list.points.as_slice() {
            [PointStruct { id: Some(PointId { point_id_options: Some(PointIdOptions::Num(7)) }), .. }] => {
                "last".to_owned()
            }
            points => format!("put {}", points.len()),
        },
        Some(Operation::DeletePoints(delete)) => format!("delete {}", selected(&delete.points)),
        Some(Operation::SetPayload(set)) => format!("set terms of {}", selected(&set.points_selector)),
        other => panic!("{other:?}"),
    }
}

fn requests(changes: Vec<Change>, batch: usize) -> Vec<Vec<String>> {
    let last = PointStruct::new(7, vec![0.0], HashMap::<String, Value>::new());
    let requests = Plan::of(changes, &origin()).requests(batch, last);
    requests.iter().map(|operations| operations.iter().map(shown).collect()).collect()
}

#[test]
fn requests_keep_the_order_and_the_size() {
    let (log, documents) = (Log::default(), documents());
    let [a, b, c] = documents.as_slice() else { panic!("three documents") };
    let topics: Vec<u32> = (0..10).collect();
    let changes = vec![
        log.put_topics(a, &topics),
        log.put_document(b),
        log.delete_chunks(b, vec![corpus::chunk(b, 1, 0).id, corpus::chunk(b, 2, 0).id]),
        log.delete_document(c),
    ];
    let all = ["delete documents", "set terms of documents", "delete 2 points", "put 10", "last"];
    assert_eq!(requests(changes.clone(), 100), [all]);
    assert_eq!(
        requests(changes, 4),
        [
            vec!["delete documents", "set terms of documents", "delete 2 points"],
            vec!["put 4"],
            vec!["put 4"],
            vec!["put 2", "last"],
        ]
    );
    assert_eq!(requests(vec![log.delete_chunks(a, Vec::new())], 4), [["last"]], "the position moves");
}
