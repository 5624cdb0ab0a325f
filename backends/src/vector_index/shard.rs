//! The vectors of one collection: a graph, the rows to scan, and the table of what is in them.

use std::cell::Cell;

use raglan_pipeline::{
    domain::{Collection, LogPosition, MetadataFilter, Tenant},
    ports::{ErrorKind, Hit, PortError, PortResult},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    graph::{Graph, Query, Scratch, Shape},
    plan::{Case, Way},
    rows::{Bytes, Rows},
    table::{Selection, Table},
};

/// A shard is compacted when so many of its vectors are dead …
const DEAD_AT_LEAST: usize = 1024;
/// … and they are more than one in this many of all.
const DEAD_SHARE: usize = 4;
/// Of what a scan of the bytes finds best, so many times what is wanted, and so many more, are compared again with the f16.
const AGAIN: usize = 2;
const AGAIN_AT_LEAST: usize = 32;

/// Which shard: collections are searched one at a time, so each has a graph of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Scope {
    pub tenant: Tenant,
    pub collection: Collection,
}

/// The vectors of one collection.
pub(super) struct Shard {
    pub graph: Graph,
    pub rows: Rows,
    pub table: Table,
    /// The last change that it took part in.
    pub changed_at: LogPosition,
    /// Changes when its vectors are numbered anew, so that who read it before knows.
    pub numbering: Uuid,
}

impl Shard {
    pub(super) fn new(shape: Shape) -> PortResult<Self> {
        Ok(Self::of(Graph::new(shape)?, shape))
    }

    /// A shard of the vectors of a graph, with nothing known of them.
    pub(super) fn of(graph: Graph, shape: Shape) -> Self {
        Self {
            graph,
            rows: Rows::new(shape.dimension),
            table: Table::default(),
            changed_at: 0,
            numbering: Uuid::new_v4(),
        }
    }

    /// The number that the next vector gets. Vectors whose adding failed half-way leave gaps.
    pub(super) fn next_key(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Makes room in the graph for vectors that are about to be added to it, and takes their rows. Returns the first one's number.
    pub(super) fn grow(&mut self, rows: &[Bytes]) -> PortResult<u32> {
        let first = self.next_key();
        if (u32::MAX as usize).saturating_sub(first as usize) <= rows.len() {
            return Err(PortError::new(
                ErrorKind::Overloaded,
                "a collection holds at most four thousand million vectors",
            ));
        }
        self.graph.make_room(rows.len())?;
        rows.iter().for_each(|row| self.rows.push(row));
        Ok(first)
    }

    /// The chunks nearest to the question, best first. Scores are computed in one way, whichever way the chunks were found.
    pub(super) fn search(
        &self,
        query: &Query,
        filter: &MetadataFilter,
        limit: usize,
        (shape, way): (Shape, Way),
    ) -> PortResult<Vec<Hit>> {
        let selection = self.table.select(filter);
        let limit = limit.min(selection.len());
        if limit == 0 {
            return Ok(Vec::new());
        }
        let case = Case { all: self.graph.len(), allowed: selection.len(), limit };
        let scan = match way {
            Way::Cheaper => case.scan_is_cheaper(&shape.settings),
            Way::Walk => false,
            Way::Scan => true,
        };
        let walked = if scan { None } else { self.walk(query, &selection, case, (shape, way))? };
        let keys = match walked {
            // Not every vector can be reached from every other one; what there is must be found all the same.
            Some(found) if found.len() >= limit => found,
            _ => self.scan(query, &selection, again(limit)),
        };
        self.score(query, keys.into_iter().take(again(limit)), limit)
    }

    /// About the nearest by a walk through the graph; none where it gave up.
    fn walk(
        &self,
        query: &Query,
        selection: &Selection<'_>,
        case: Case,
        (shape, way): (Shape, Way),
    ) -> PortResult<Option<Vec<u32>>> {
        let candidates = case.candidates(&shape.settings);
        let allow = |key| selection.contains(key);
        if case.allowed == case.all {
            return self.graph.nearest(query, candidates, None::<fn(u32) -> bool>).map(Some);
        }
        if way == Way::Walk {
            return self.graph.nearest(query, candidates, Some(allow)).map(Some);
        }
        let (asked, most) = (Cell::new(0), case.most_asked(&shape.settings));
        let allow_or_give_up = |key| {
            asked.set(asked.get() + 1);
            // A walk that takes everything soon has what it wants.
            asked.get() > most || allow(key)
        };
        let found = self.graph.nearest(query, candidates, Some(allow_or_give_up))?;
        Ok((asked.get() <= most).then_some(found))
    }

    /// The nearest by the bytes of every vector of the selection.
    fn scan(&self, query: &Query, selection: &Selection<'_>, most: usize) -> Vec<u32> {
        let cosine = |key| Some((self.rows.cosine(key, &query.bytes)?, key));
        let mut scored: Vec<(f32, u32)> = selection.keys().filter_map(cosine).collect();
        if scored.len() > most {
            scored.select_nth_unstable_by(most, |a, b| b.0.total_cmp(&a.0));
            scored.truncate(most);
        }
        scored.into_iter().map(|(_, key)| key).collect()
    }

    /// The best of these, by the vectors as they are kept.
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
        hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk_id.cmp(&b.chunk_id)));
        hits.truncate(limit);
        Ok(hits)
    }

    /// Whether so many of its vectors are dead that building it anew pays.
    pub(super) fn is_worn(&self) -> bool {
        let dead = self.graph.len().saturating_sub(self.table.len());
        dead >= DEAD_AT_LEAST && dead * DEAD_SHARE > self.graph.len()
    }

    /// Fills the rows from the graph, which holds every vector, and leaves the numbers up to this one that it does not hold empty.
    pub(super) fn fill_rows(&mut self, next_key: u32) -> PortResult<()> {
        let mut scratch = Scratch::default();
        for key in self.next_key()..next_key {
            match self.graph.read(key, &mut scratch)?.and_then(|v| Some(Bytes::of(v, super::graph::norm(v)?)))
            {
                Some(row) => self.rows.push(&row),
                None => self.rows.push_nothing(),
            }
        }
        Ok(())
    }
}

/// How many of the best are compared again.
fn again(limit: usize) -> usize {
    limit.saturating_mul(AGAIN).saturating_add(AGAIN_AT_LEAST)
}
