//! The vectors of one collection: a graph, and the table of what is in it.

use raglan_pipeline::{
    domain::{Collection, LogPosition, MetadataFilter, Tenant},
    ports::{ErrorKind, Hit, PortError, PortResult},
};
use serde::{Deserialize, Serialize};

use super::{
    graph::{Graph, Query, Scratch, Shape},
    table::{Selection, Table},
};

/// A graph search takes about as long as comparing this many vectors for each candidate that it keeps: at 128 candidates 0.4 ms
/// (100,000 × 384), against 0.3 µs for one vector.
const LOOKED_AT: usize = 10;
/// A shard is compacted when so many of its vectors are dead …
const DEAD_AT_LEAST: usize = 1024;
/// … and they are more than one in this many of all.
const DEAD_SHARE: usize = 4;
/// Vectors copied at a time by a compaction.
const COPIED_AT_ONCE: usize = 1024;

/// Which shard: collections are searched one at a time, so each has a graph of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Scope {
    pub tenant: Tenant,
    pub collection: Collection,
}

/// The vectors of one collection.
pub(super) struct Shard {
    pub graph: Graph,
    pub table: Table,
    /// The number that the next vector gets. Vectors whose adding failed half-way leave gaps.
    pub next_key: u32,
    /// The last change that it took part in.
    pub changed_at: LogPosition,
}

impl Shard {
    pub(super) fn new(shape: Shape) -> PortResult<Self> {
        Ok(Self { graph: Graph::new(shape)?, table: Table::default(), next_key: 0, changed_at: 0 })
    }

    /// The chunks nearest to the question, best first.
    ///
    /// Exact where the filter leaves few enough that comparing each costs less than walking the graph: a walk must meet about as many
    /// vectors more as the filter leaves out.
    pub(super) fn search(
        &self,
        query: &Query,
        filter: &MetadataFilter,
        limit: usize,
        expansion: usize,
    ) -> PortResult<Vec<Hit>> {
        let selection = self.table.select(filter);
        let all = self.graph.len();
        let limit = limit.min(self.table.len());
        let affordable = (expansion.max(limit) * LOOKED_AT).saturating_mul(all).isqrt();
        let count = selection.count(affordable);
        let limit = limit.min(count);
        if limit == 0 {
            return Ok(Vec::new());
        }
        if count <= affordable {
            return self.score(query, selection.keys(), limit);
        }
        let found = self.graph.nearest(query, limit, |key| selection.allows(key))?;
        if found.len() < limit {
            // Not every vector can be reached from every other one; what there is must be found all the same.
            return self.scan(query, &selection, limit);
        }
        self.score(query, found.into_iter(), limit)
    }

    /// Compares the question with every chunk of the selection.
    pub(super) fn scan(
        &self,
        query: &Query,
        selection: &Selection<'_>,
        limit: usize,
    ) -> PortResult<Vec<Hit>> {
        self.score(query, selection.keys(), limit)
    }

    /// The best of these. Scores are computed in one way, however the chunks were found.
    fn score(&self, query: &Query, keys: impl Iterator<Item = u32>, limit: usize) -> PortResult<Vec<Hit>> {
        let mut scratch = Scratch::default();
        let mut hits = Vec::new();
        for key in keys {
            if let Some(chunk_id) = self.table.chunk(key)
                && let Some(score) = self.graph.cosine(key, query, &mut scratch)?
            {
                hits.push(Hit { chunk_id, score });
            }
        }
        let best_first = |a: &Hit, b: &Hit| b.score.total_cmp(&a.score).then(a.chunk_id.cmp(&b.chunk_id));
        if hits.len() > limit {
            hits.select_nth_unstable_by(limit, best_first);
            hits.truncate(limit);
        }
        hits.sort_unstable_by(best_first);
        Ok(hits)
    }

    /// Whether so many of its vectors are dead that building it anew pays.
    pub(super) fn is_worn(&self) -> bool {
        let dead = self.graph.len().saturating_sub(self.table.len());
        dead >= DEAD_AT_LEAST && dead * DEAD_SHARE > self.graph.len()
    }

    /// A graph of the live vectors alone, numbered as [`Table::renumber`] will number them.
    pub(super) fn compacted(&self, shape: Shape) -> PortResult<Graph> {
        let mut graph = Graph::new(shape)?;
        graph.make_room(self.table.len())?;
        let keys: Vec<u32> = self.table.keys().collect();
        let mut scratch = Scratch::default();
        for (batch, keys) in keys.chunks(COPIED_AT_ONCE).enumerate() {
            let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(keys.len());
            for key in keys {
                let vector = self.graph.read(*key, &mut scratch)?;
                let vector =
                    vector.ok_or_else(|| PortError::new(ErrorKind::Corrupt, "a vector is missing"))?;
                vectors.push(vector.to_vec());
            }
            let first = (batch * COPIED_AT_ONCE) as u32;
            let entries: Vec<(u32, &[f32])> = (first..).zip(vectors.iter().map(Vec::as_slice)).collect();
            graph.add(&entries)?;
        }
        Ok(graph)
    }
}
