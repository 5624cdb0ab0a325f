//! The second stage of ingestion: vectors for what is new.
//!
//! Texts go to the embedder in small calls, many at a time and across documents: the embedder is never without work while there is any, one huge
//! document goes through without its texts lying in memory twice, and a document is handed on when its last vector is there.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use super::{
    chunker::embedded_text,
    prepare::{Ready, internal},
    tally::Tally,
};
use crate::{
    domain::{EmbedPurpose, Embedding, JobStatus, StoredEmbedding},
    ports::Embedder,
    retrieval::EmbedderSlot,
    stage::StageError,
};

/// Texts of one call. A call is over when its last text is, so a few large calls would leave the embedder idle at their ends.
pub(super) const CALL_TEXTS: usize = 32;

/// Calls of one job that are under way or wait for their places.
const CALLS: usize = 16;

/// With fewer calls under way, one that is not full is sent rather than kept until there is more.
const FEW_CALLS: usize = 2;

/// A document with the vectors of all its new chunks.
pub(super) struct Embedded {
    pub(super) ready: Box<Ready>,
    pub(super) at: Instant,
}

/// Embeds for one job.
pub(super) struct Embed<'a> {
    embedder: Option<&'a Arc<dyn Embedder>>,
    /// Places with the embedder, shared with other jobs.
    places: &'a Semaphore,
    tally: &'a Tally<'a>,
}

/// A document that has chunks without vectors.
struct Open {
    ready: Box<Ready>,
    /// The first chunk that is in no call yet.
    next: usize,
    /// Chunks without a vector.
    missing: usize,
}

/// A text of a call: of which document, and of which of its new chunks.
struct Part {
    document: u64,
    chunk: usize,
}

type Called = (Vec<Part>, Vec<Vector>);

/// A vector, and how many tokens the model read for it.
type Vector = (StoredEmbedding, u64);

/// The documents of a job on their way through the embedder.
#[derive(Default)]
struct Desk {
    open: HashMap<u64, Open>,
    /// Documents with chunks that are in no call yet, in the order in which they came.
    waiting: VecDeque<u64>,
    /// How many such chunks there are.
    texts: usize,
    documents: u64,
}

impl<'a> Embed<'a> {
    pub(super) fn new(embedder: &'a EmbedderSlot, places: &'a Semaphore, tally: &'a Tally<'a>) -> Self {
        Self { embedder: embedder.get(), places, tally }
    }

    /// Embeds all that comes.
    pub(super) async fn all(
        &self,
        mut ready: mpsc::Receiver<Box<Ready>>,
        embedded: mpsc::UnboundedSender<Embedded>,
    ) -> Result<(), StageError> {
        let mut desk = Desk::default();
        let mut calls = FuturesUnordered::new();
        let mut is_over = false;
        // Who receives may have failed, and then tells of it.
        let hand_on = |ready| drop(embedded.send(Embedded { ready, at: Instant::now() }));
        loop {
            while calls.len() < CALLS
                && (desk.texts >= CALL_TEXTS || (desk.texts > 0 && (is_over || calls.len() < FEW_CALLS)))
            {
                // What is there already goes along.
                while desk.texts < CALL_TEXTS
                    && let Ok(next) = ready.try_recv()
                {
                    self.take(next, &mut desk, hand_on);
                }
                calls.push(self.call(&mut desk)?);
            }
            if is_over && calls.is_empty() {
                return Ok(());
            }
            tokio::select! {
                Some(called) = calls.next() => {
                    let (parts, vectors) = called?;
                    for (part, vector) in parts.into_iter().zip(vectors) {
                        if let Some(done) = desk.deliver(&part, vector) {
                            hand_on(done);
                        }
                    }
                }
                next = ready.recv(), if !is_over && desk.texts < CALL_TEXTS * CALLS => match next {
                    Some(next) => self.take(next, &mut desk, hand_on),
                    None => is_over = true,
                },
            }
        }
    }

    /// Takes a document in, or hands it on where there is nothing to embed.
    fn take(&self, ready: Box<Ready>, desk: &mut Desk, hand_on: impl Fn(Box<Ready>)) {
        self.tally.status(JobStatus::Embedding);
        if self.embedder.is_none() || ready.new.is_empty() {
            self.tally.embedded(ready.expected_tokens(), 0);
            hand_on(ready);
        } else {
            desk.add(ready);
        }
    }

    /// The next call, with as many texts as it may have.
    fn call(&self, desk: &mut Desk) -> Result<BoxFuture<'a, Result<Called, StageError>>, StageError> {
        let embedder = self.embedder.ok_or_else(|| internal("there is no embedder"))?;
        let (parts, texts, expected) = desk.next_call();
        let (places, tally) = (self.places, self.tally);
        Ok(Box::pin(async move {
            // The semaphore is never closed.
            let _places = places.acquire_many(u32::try_from(texts.len()).unwrap_or(u32::MAX)).await;
            let vectors = embed(embedder.as_ref(), texts, expected, tally).await?;
            Ok((parts, vectors))
        }))
    }

    /// Embeds one document by itself.
    pub(super) async fn one(&self, ready: &mut Ready) -> Result<(), StageError> {
        let Some(embedder) = self.embedder else { return Ok(()) };
        let title = ready.document.title.clone();
        for new in ready.new.chunks_mut(CALL_TEXTS) {
            let texts = new
                .iter()
                .map(|new| embedded_text(&title, &new.chunk.heading_path, &new.chunk.text))
                .collect::<Vec<_>>();
            let _places = self.places.acquire_many(u32::try_from(texts.len()).unwrap_or(u32::MAX)).await;
            // These tokens were expected once before.
            let vectors = embed(embedder.as_ref(), texts, 0, self.tally).await?;
            for (new, (vector, tokens)) in new.iter_mut().zip(vectors) {
                new.chunk.embedding = Some(vector);
                ready.tokens += tokens;
            }
        }
        Ok(())
    }
}

impl Desk {
    fn add(&mut self, ready: Box<Ready>) {
        let number = self.documents;
        self.documents += 1;
        self.texts += ready.new.len();
        let missing = ready.new.len();
        self.open.insert(number, Open { ready, next: 0, missing });
        self.waiting.push_back(number);
    }

    /// The places of the next texts, the texts, and about how many tokens they have.
    fn next_call(&mut self) -> (Vec<Part>, Vec<String>, u64) {
        let (mut parts, mut texts, mut expected) = (Vec::new(), Vec::new(), 0);
        while texts.len() < CALL_TEXTS
            && let Some(&document) = self.waiting.front()
        {
            let Some(open) = self.open.get_mut(&document) else {
                self.waiting.pop_front();
                continue;
            };
            let Some(new) = open.ready.new.get(open.next) else {
                self.waiting.pop_front();
                continue;
            };
            texts.push(embedded_text(&open.ready.document.title, &new.chunk.heading_path, &new.chunk.text));
            parts.push(Part { document, chunk: open.next });
            expected += u64::from(new.tokens);
            open.next += 1;
            self.texts -= 1;
        }
        (parts, texts, expected)
    }

    /// Puts a vector where it belongs; answers with the document where it was the last.
    fn deliver(&mut self, part: &Part, (vector, tokens): Vector) -> Option<Box<Ready>> {
        let open = self.open.get_mut(&part.document)?;
        open.ready.new.get_mut(part.chunk)?.chunk.embedding = Some(vector);
        open.ready.tokens += tokens;
        open.missing -= 1;
        (open.missing == 0).then(|| self.open.remove(&part.document).map(|open| open.ready)).flatten()
    }
}

/// One vector a text, in order.
async fn embed(
    embedder: &dyn Embedder,
    texts: Vec<String>,
    expected: u64,
    tally: &Tally<'_>,
) -> Result<Vec<Vector>, StageError> {
    let count = texts.len();
    let embeddings = embedder
        .embed(texts, EmbedPurpose::Passage)
        .await
        .map_err(|error| StageError::from_model(error, "embedding_failed"))?;
    if embeddings.len() != count {
        return Err(internal("the embedder answered with the wrong number of vectors"));
    }
    tally.embedded(expected, embeddings.iter().map(|embedding| embedding.tokens as u64).sum());
    let model = &embedder.info().model;
    Ok(embeddings
        .into_iter()
        .map(|Embedding { vector, tokens, .. }| {
            (StoredEmbedding { model: model.clone(), vector }, tokens as u64)
        })
        .collect())
}
