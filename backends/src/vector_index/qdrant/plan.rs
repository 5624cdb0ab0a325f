//! What a batch of changes comes to.
//!
//! Whatever the changes are and whatever was there before, three steps are enough: documents that go, metadata of documents that stay, and then each
//! chunk that was named, as the last change left it. So a batch is few requests, and a chunk is written once.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use qdrant_client::qdrant::{
    PointId, PointStruct, PointsUpdateOperation, Value,
    points_update_operation::{DeletePoints, Operation, PointStructList, SetPayload},
};
use raglan_pipeline::domain::{Change, ChangeKind, ChunkId, DocumentId, StoredEmbedding};

use super::points::{Point, TERMS, home, of_documents};
use crate::replica::terms;

/// Which vectors an index takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub model: String,
    pub dimension: usize,
}

impl Origin {
    /// Whether a vector has a direction: it is neither zero nor has it values that are not finite.
    pub(super) fn has_direction(vector: &[f32]) -> bool {
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        length.is_finite() && length > 0.0
    }
}

/// What is to be done, in this order of its fields.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Documents that go, with all that was there of them.
    gone: BTreeSet<DocumentId>,
    /// The terms of documents of which something may have been there.
    terms: BTreeMap<DocumentId, Vec<String>>,
    /// Chunks, with the point that they become, or none where they go.
    chunks: BTreeMap<ChunkId, (DocumentId, Option<Point>)>,
    /// Chunks whose vector is of the model and cannot be used.
    pub unusable: usize,
}

impl Plan {
    /// Folds changes into a plan.
    pub(super) fn of(changes: Vec<Change>, origin: &Origin) -> Self {
        let mut plan = Self::default();
        for change in changes {
            plan.fold(change.kind, origin);
        }
        plan
    }

    fn fold(&mut self, kind: ChangeKind, origin: &Origin) {
        match kind {
            ChangeKind::PutChunks { document, chunks } => {
                let (scope, terms) = (home(&document), terms::of_metadata(&document.metadata));
                for chunk in chunks {
                    let point = self.usable(chunk.embedding, origin).map(|vector| Point {
                        chunk: chunk.id,
                        document: document.id,
                        scope: scope.clone(),
                        terms: terms.clone(),
                        vector,
                    });
                    self.chunks.insert(chunk.id, (document.id, point));
                }
            }
            ChangeKind::PutDocument { document } => {
                let terms = terms::of_metadata(&document.metadata);
                for (_, point) in self.chunks.values_mut().filter(|(held, _)| *held == document.id) {
                    if let Some(point) = point {
                        point.terms.clone_from(&terms);
                    }
                }
                if !self.gone.contains(&document.id) {
                    self.terms.insert(document.id, terms);
                }
            }
            ChangeKind::DeleteChunks { document_id, chunk_ids } => {
                self.chunks.extend(chunk_ids.into_iter().map(|chunk| (chunk, (document_id, None))));
            }
            ChangeKind::DeleteDocument { document_id } => {
                self.chunks.retain(|_, (held, _)| *held != document_id);
                self.terms.remove(&document_id);
                self.gone.insert(document_id);
            }
        }
    }

    /// A chunk's vector, where it is one of this index.
    fn usable(&mut self, embedding: Option<StoredEmbedding>, origin: &Origin) -> Option<Vec<f32>> {
        let vector = embedding.filter(|embedding| embedding.model == origin.model)?.vector;
        if vector.len() == origin.dimension && Origin::has_direction(&vector) {
            return Some(vector);
        }
        self.unusable += 1;
        None
    }

    /// The requests that carry it out, one after the other, each about so many chunks. `last` is done when all else is.
    pub(super) fn requests(self, batch: usize, last: PointStruct) -> Vec<Vec<PointsUpdateOperation>> {
        let mut requests = Requests { batch, done: Vec::new(), open: Vec::new(), weight: 0 };
        if !self.gone.is_empty() {
            requests.add(self.gone.len(), delete(of_documents(self.gone)));
        }
        for (document, terms) in self.terms {
            let set = SetPayload {
                payload: [(TERMS.to_owned(), Value::from(terms))].into(),
                points_selector: Some(of_documents([document]).into()),
                ..SetPayload::default()
            };
            requests.add(1, Operation::SetPayload(set));
        }
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (chunk, (_, point)) in self.chunks {
            match point {
                Some(point) => puts.push(point),
                None => deletes.push(PointId::from(chunk.0)),
            }
        }
        if !deletes.is_empty() {
            requests.add(deletes.len(), delete(deletes));
        }
        let mut puts = puts.into_iter().map(Point::into_struct).peekable();
        while puts.peek().is_some() {
            let points: Vec<PointStruct> = puts.by_ref().take(batch).collect();
            requests.add(points.len(), upsert(points));
        }
        requests.open.push(upsert(vec![last]).into());
        requests.done.push(requests.open);
        requests.done
    }
}

/// Operations, packed.
struct Requests {
    batch: usize,
    done: Vec<Vec<PointsUpdateOperation>>,
    open: Vec<PointsUpdateOperation>,
    weight: usize,
}

impl Requests {
    fn add(&mut self, weight: usize, operation: Operation) {
        if self.weight > 0 && self.weight + weight > self.batch {
            self.done.push(mem::take(&mut self.open));
            self.weight = 0;
        }
        self.open.push(operation.into());
        self.weight += weight;
    }
}

/// Writes points, replacing those of the same ids.
pub(super) fn upsert(points: Vec<PointStruct>) -> Operation {
    Operation::Upsert(PointStructList { points, ..PointStructList::default() })
}

fn delete(points: impl Into<qdrant_client::qdrant::PointsSelector>) -> Operation {
    Operation::DeletePoints(DeletePoints { points: Some(points.into()), ..DeletePoints::default() })
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
