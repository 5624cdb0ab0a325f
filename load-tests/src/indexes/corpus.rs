//! Many vectors and many texts, made of few real ones.
//!
//! Uniformly random vectors are unlike those of texts: they have no clusters, all distances are about the same, and a graph finds hardly any of the nearest.
//! So real vectors are mixed: each new one is a real one, with one or two others and some noise added. Texts are made of real sentences in the same way. All by a seed.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use raglan_pipeline::domain::{
    Change, ChangeKind, ChunkId, Collection, Document, DocumentId, IndexChunk, LogPosition, Metadata,
    MetadataFilter, StoredEmbedding, Tenant,
};
use raglan_pipeline::ports::SearchScope;
use uuid::Uuid;

use crate::dataset;

/// Chunks of one document.
pub const CHUNKS_OF_A_DOCUMENT: usize = 10;
/// Chunks of one batch of changes, as many as replication applies at a time.
pub const BATCH: usize = 1024;
/// The model that the vectors are said to be of.
pub const MODEL: &str = "measured";

/// Reads vectors: numbers of 4 bytes, little-endian, one vector after the other.
pub fn read_vectors(path: &Path, dimension: usize) -> anyhow::Result<Vec<f32>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || numbers.len() % dimension != 0 || numbers.is_empty() {
        bail!("{}: not a whole number of vectors of {dimension} numbers", path.display());
    }
    let mut vectors: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    vectors.chunks_exact_mut(dimension).for_each(unit);
    Ok(vectors)
}

/// The same without twins: data sets share documents, and of two that are equally near it is chance which one an index finds.
pub fn without_twins(vectors: &[f32], dimension: usize) -> Vec<f32> {
    let mut seen = HashSet::new();
    let rounded = |vector: &[f32]| vector.iter().map(|x| (x * 1_000.0).round() as i32).collect::<Vec<i32>>();
    vectors.chunks_exact(dimension).filter(|vector| seen.insert(rounded(vector))).flatten().copied().collect()
}

/// So many vectors: first the real ones as they are, then mixtures. All of unit length.
pub fn mix(real: &[f32], dimension: usize, count: usize, seed: u64) -> Vec<f32> {
    let held = real.len() / dimension;
    let mut vectors = Vec::with_capacity(count * dimension);
    vectors.extend_from_slice(&real[..held.min(count) * dimension]);
    let mut rng = StdRng::seed_from_u64(seed);
    #[allow(clippy::cast_precision_loss)] // dimensions are few
    let noise = 0.2 / (dimension as f32).sqrt();
    let mut vector = vec![0.0; dimension];
    for _ in held.min(count)..count {
        vector.fill(0.0);
        let parts = rng.random_range(2..=3);
        for part in 0..parts {
            let weight = if part == 0 { 1.0 } else { rng.random_range(0.2..0.8f32) };
            let from = rng.random_range(0..held) * dimension;
            for (x, y) in vector.iter_mut().zip(&real[from..from + dimension]) {
                *x += weight * y;
            }
        }
        unit(&mut vector);
        for x in &mut vector {
            // About normal: the sum of twelve uniform draws.
            *x += noise * ((0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0);
        }
        unit(&mut vector);
        vectors.extend_from_slice(&vector);
    }
    vectors
}

fn unit(vector: &mut [f32]) {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

/// Texts of chunks, made of the sentences of data sets.
pub struct Texts {
    titles: Vec<String>,
    sentences: Vec<Vec<String>>,
    rng: StdRng,
}

impl Texts {
    pub fn read(folders: &[impl AsRef<Path>], seed: u64) -> anyhow::Result<Self> {
        let (mut titles, mut sentences) = (Vec::new(), Vec::new());
        for folder in folders {
            for document in dataset::corpus(folder.as_ref())? {
                let document = document?;
                let of_document: Vec<String> =
                    document.text.split_inclusive(". ").map(|sentence| sentence.trim().to_owned()).collect();
                if !of_document.is_empty() {
                    titles.push(document.title);
                    sentences.push(of_document);
                }
            }
        }
        if sentences.is_empty() {
            bail!("there are no documents");
        }
        Ok(Self { titles, sentences, rng: StdRng::seed_from_u64(seed) })
    }

    pub fn title(&mut self) -> String {
        let at = self.rng.random_range(0..self.titles.len());
        self.titles[at].clone()
    }

    /// Three runs of one to three sentences, each of another document: about as long as a chunk.
    pub fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..3 {
            let at = self.rng.random_range(0..self.sentences.len());
            let from = self.rng.random_range(0..self.sentences[at].len());
            let most = self.rng.random_range(1..=3);
            for sentence in self.sentences[at].iter().skip(from).take(most) {
                text.push_str(sentence);
                text.push(' ');
            }
        }
        text
    }
}

/// The id of a chunk, from its number; [`number`] is the way back.
pub fn chunk_id(number: usize) -> ChunkId {
    ChunkId(Uuid::from_u128(number as u128))
}

/// The number of a chunk.
pub fn number(chunk: ChunkId) -> u32 {
    u32::try_from(chunk.0.as_u128()).unwrap_or(u32::MAX)
}

/// Which of a hundred parts a chunk is in: what filters ask for. Chunks of a document are in the same.
pub fn part(number: usize) -> usize {
    number / CHUNKS_OF_A_DOCUMENT % 100
}

/// What a search asks for: the chunks of the first so many of the hundred parts.
pub fn scope(parts: usize, limit: usize) -> SearchScope {
    let filter = if parts >= 100 {
        MetadataFilter::default()
    } else {
        let wanted: Vec<Value> = (0..parts).map(Value::from).collect();
        MetadataFilter([("part".to_owned(), Value::from(wanted))].into())
    };
    SearchScope { tenant: Tenant::default(), collection: Collection::default(), filter, limit }
}

fn document(number: usize, title: String) -> Document {
    let at = chrono::Utc::now();
    let metadata: Metadata =
        [("part".to_owned(), json!(part(number * CHUNKS_OF_A_DOCUMENT)))].into_iter().collect();
    Document {
        id: DocumentId(Uuid::from_u128(number as u128)),
        tenant: Tenant::default(),
        collection: Collection::default(),
        external_id: number.to_string(),
        title,
        uri: None,
        media_type: "text/plain".to_owned(),
        metadata,
        fingerprint: String::new(),
        version: 1,
        chunks: CHUNKS_OF_A_DOCUMENT as u64,
        bytes: 0,
        created_at: at,
        updated_at: at,
    }
}

/// The change that puts a document. Positions are the numbers of the documents, from 1.
pub fn put(number: usize, title: String, chunks: Vec<IndexChunk>) -> Change {
    let document = Box::new(document(number, title));
    Change { position: position(number), kind: ChangeKind::PutChunks { document, chunks } }
}

pub fn delete(number: usize, at: LogPosition) -> Change {
    Change {
        position: at,
        kind: ChangeKind::DeleteDocument { document_id: DocumentId(Uuid::from_u128(number as u128)) },
    }
}

pub fn position(document: usize) -> LogPosition {
    document as LogPosition + 1
}

/// A chunk with its text, its vector, or both.
pub fn chunk(number: usize, text: String, vector: Option<&[f32]>) -> IndexChunk {
    let embedding = vector.map(|v| StoredEmbedding { model: MODEL.to_owned(), vector: v.to_vec() });
    IndexChunk { id: chunk_id(number), heading_path: Vec::new(), text, embedding }
}

/// The numbers of the chunks of a document, where there are so many chunks in all.
pub fn chunks_of(document: usize, count: usize) -> std::ops::Range<usize> {
    document * CHUNKS_OF_A_DOCUMENT..((document + 1) * CHUNKS_OF_A_DOCUMENT).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_are_like_what_they_are_made_of_and_the_same_each_time() {
        let real = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let vectors = mix(&real, 3, 50, 1);
        assert_eq!(vectors.len(), 150);
        assert_eq!(vectors[..6], real);
        assert_eq!(mix(&real, 3, 50, 1), vectors);
        assert_ne!(mix(&real, 3, 50, 2), vectors);
        assert_eq!(without_twins(&[real, real].concat(), 3), real);
        for vector in vectors.chunks_exact(3) {
            assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
            assert!(vector[0] + vector[1] > 0.3, "{vector:?}");
        }
    }

    #[test]
    fn chunks_have_numbers_and_parts() {
        assert_eq!(number(chunk_id(123_456)), 123_456);
        assert_eq!((part(0), part(9), part(10), part(1_000)), (0, 0, 1, 0));
        assert_eq!(chunks_of(2, 25), 20..25);
        let put = put(12, String::new(), Vec::new());
        let ChangeKind::PutChunks { document, .. } = put.kind else { panic!("{put:?}") };
        assert!(!scope(12, 1).filter.matches(&document.metadata));
        assert!(scope(13, 1).filter.matches(&document.metadata));
        assert!(scope(100, 1).filter.is_empty());
    }
}
