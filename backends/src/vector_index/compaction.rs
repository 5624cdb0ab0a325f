//! Building a worn shard anew, beside the one that is in use.
//!
//! The graph of many vectors takes minutes to build. Searches and changes go on meanwhile: the live vectors are copied in batches, then those that came
//! in the meantime, until there are few; only for the last of these do changes wait, and searches only while the new shard takes the old one's place.

use std::sync::{Arc, MutexGuard, PoisonError, atomic::Ordering};

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use uuid::Uuid;

use super::{
    graph::{Graph, Scratch, Shape, norm},
    rows::{Bytes, Rows},
    shard::{Scope, Shard},
    usearch::{Compaction, Inner},
};

/// Vectors copied at a time.
const COPIED_AT_ONCE: usize = 1024;

/// Starts a thread that builds worn shards anew, unless one is at it.
pub(super) fn start(inner: &Arc<Inner>) -> PortResult<()> {
    if inner.worn()?.is_none() {
        return Ok(());
    }
    let mut running = running(inner);
    if running.as_ref().is_some_and(|thread| !thread.is_finished()) {
        // It looks again before it ends, or the next change does.
        return Ok(());
    }
    let work = inner.clone();
    let thread = std::thread::Builder::new().name("vector-compaction".to_owned()).spawn(move || {
        if let Err(error) = all(&work) {
            tracing::warn!(%error, "vector graph could not be compacted; the old one stays in use");
        }
    });
    *running = Some(thread.map_err(|e| {
        PortError::new(ErrorKind::Unavailable, "the compaction's thread cannot be started").with_source(e)
    })?);
    Ok(())
}

fn running(inner: &Inner) -> MutexGuard<'_, Compaction> {
    inner.compaction.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for what runs.
#[cfg(test)]
pub(super) fn wait(inner: &Inner) {
    let thread = running(inner).take();
    if let Some(thread) = thread {
        thread.join().unwrap();
    }
}

fn all(inner: &Inner) -> PortResult<()> {
    while let Some(scope) = inner.worn()? {
        let Some(before) = inner.read()?.shards.get(&scope).map(|shard| shard.graph.len()) else { continue };
        match anew(inner, &scope)? {
            Some(vectors) => {
                tracing::info!(vectors, dead = before.saturating_sub(vectors), "vector graph compacted");
            }
            // Stopped, or gone meanwhile.
            None if inner.closed.load(Ordering::Relaxed) => break,
            None => {}
        }
    }
    Ok(())
}

/// Builds one shard anew. Returns how many vectors it has; none where it was given up.
fn anew(inner: &Inner, scope: &Scope) -> PortResult<Option<usize>> {
    let Some(numbering) = inner.read()?.shards.get(scope).map(|shard| shard.numbering) else {
        return Ok(None);
    };
    let mut copy = Copy::new(inner.shape)?;
    loop {
        match copy.next(inner, scope, numbering)? {
            Some(COPIED_AT_ONCE) => {}
            Some(_) => break,
            None => return Ok(None),
        }
    }
    // From here on nothing changes.
    let _files = inner.files();
    while let Some(copied) = copy.next(inner, scope, numbering)? {
        if copied == 0 {
            break;
        }
    }
    let Copy { graph, rows, old, .. } = copy;
    let vectors = graph.len();
    let renumbered = match inner.read()?.shards.get(scope) {
        Some(shard) if shard.numbering == numbering => Shard {
            table: shard.table.renumbered(&old),
            changed_at: shard.changed_at,
            graph,
            rows,
            numbering: Uuid::new_v4(),
        },
        _ => return Ok(None),
    };
    let worn = inner.write()?.shards.insert(scope.clone(), renumbered);
    // Freeing much memory takes a while: not under the lock.
    drop(worn);
    Ok(Some(vectors))
}

/// What a shard becomes.
struct Copy {
    graph: Graph,
    rows: Rows,
    /// The old number of each vector.
    old: Vec<u32>,
    /// The next old number to look at.
    next: u32,
    scratch: Scratch,
}

impl Copy {
    fn new(shape: Shape) -> PortResult<Self> {
        let graph = Graph::new(shape)?;
        Ok(Self {
            graph,
            rows: Rows::new(shape.dimension),
            old: Vec::new(),
            next: 0,
            scratch: Scratch::default(),
        })
    }

    /// Copies the next live vectors. Returns how many; none where the shard is not there any more, or the index is closed.
    fn next(&mut self, inner: &Inner, scope: &Scope, numbering: Uuid) -> PortResult<Option<usize>> {
        if inner.closed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(COPIED_AT_ONCE);
        {
            let state = inner.read()?;
            let Some(shard) = state.shards.get(scope).filter(|shard| shard.numbering == numbering) else {
                return Ok(None);
            };
            for key in shard.table.keys_from(self.next).take(COPIED_AT_ONCE) {
                let missing = || PortError::new(ErrorKind::Corrupt, "a vector is missing");
                let vector = shard.graph.read(key, &mut self.scratch)?.ok_or_else(missing)?;
                self.rows.push(&Bytes::of(vector, norm(vector).ok_or_else(missing)?));
                vectors.push(vector.to_vec());
                self.old.push(key);
                self.next = key + 1;
            }
        }
        let first = self.graph.len() as u32;
        self.graph.make_room(vectors.len())?;
        let entries: Vec<(u32, &[f32])> = (first..).zip(vectors.iter().map(Vec::as_slice)).collect();
        // Nobody waits for it: half of the processors are left to those who search and add.
        self.graph.add(&entries, inner.shape.threads / 2)?;
        Ok(Some(entries.len()))
    }
}
