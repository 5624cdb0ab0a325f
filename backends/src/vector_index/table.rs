//! What is known of the vectors of one graph: whose they are, and what they can be filtered by.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use raglan_pipeline::domain::{ChunkId, DocumentId, MetadataFilter};
use roaring::RoaringBitmap;

use crate::replica::terms;

/// Chunks by the number of their vector, with the terms of their metadata. Each term has the numbers of its chunks as a compressed
/// bitmap (Roaring, <https://arxiv.org/abs/1402.6407>), so that a filter becomes the set of what it leaves by a few set operations.
///
/// Chunks of one document with the same metadata form a *group*, so that metadata is kept once. A document has more than one
/// group only while a version of it with other metadata is being written.
///
/// A number is used once. A chunk that goes leaves its number, and its vector in the graph, behind as dead until the shard is compacted.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Option<Slot>>,
    chunks: HashMap<ChunkId, u32>,
    groups: HashMap<u32, Group>,
    next_group: u32,
    documents: HashMap<DocumentId, Vec<u32>>,
    postings: HashMap<Arc<str>, RoaringBitmap>,
}

#[derive(Clone, Copy)]
struct Slot {
    chunk: ChunkId,
    group: u32,
}

/// Chunks of one document with the same metadata.
pub(super) struct Group {
    pub document: DocumentId,
    /// Sorted.
    pub terms: Vec<Arc<str>>,
    pub keys: Vec<u32>,
}

impl Table {
    /// How many chunks it holds.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The number after the highest one used.
    pub(super) fn next_key(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Marks numbers as used.
    pub(super) fn use_keys(&mut self, up_to: u32) {
        if self.slots.len() < up_to as usize {
            self.slots.resize(up_to as usize, None);
        }
    }

    pub(super) fn documents(&self) -> impl Iterator<Item = DocumentId> + '_ {
        self.documents.keys().copied()
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// The live numbers from this one on, ascending.
    pub(super) fn keys_from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        (first..self.next_key()).filter(|key| self.is_live(*key))
    }

    fn is_live(&self, key: u32) -> bool {
        self.slots.get(key as usize).is_some_and(Option::is_some)
    }

    pub(super) fn chunk(&self, key: u32) -> Option<ChunkId> {
        self.slots.get(key as usize).copied().flatten().map(|slot| slot.chunk)
    }

    /// Puts a chunk under a number, in place of what it was under before. `terms` must be sorted.
    pub(super) fn put(&mut self, document: DocumentId, terms: &[String], chunk: ChunkId, key: u32) {
        self.remove_chunk(chunk);
        let group = self.group(document, terms);
        self.use_keys(key + 1);
        self.slots[key as usize] = Some(Slot { chunk, group });
        self.chunks.insert(chunk, key);
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.keys.push(key);
            for term in &entry.terms {
                self.postings.entry(term.clone()).or_default().insert(key);
            }
        }
    }

    /// Gives all chunks of a document these terms, which must be sorted.
    pub(super) fn set_terms(&mut self, document: DocumentId, terms: &[String]) {
        let Some(ids) = self.documents.get(&document) else { return };
        if let [only] = ids[..]
            && self.groups.get(&only).is_some_and(|group| same(&group.terms, terms))
        {
            return;
        }
        let keys: Vec<u32> = self.drop_groups(document).into_iter().flat_map(|group| group.keys).collect();
        let id = self.group(document, terms);
        for key in &keys {
            if let Some(slot) = &mut self.slots[*key as usize] {
                slot.group = id;
            }
        }
        if let Some(group) = self.groups.get_mut(&id) {
            for term in &group.terms {
                self.postings.entry(term.clone()).or_default().extend(keys.iter().copied());
            }
            group.keys = keys;
        }
    }

    /// Removes a chunk, where it is there.
    pub(super) fn remove_chunk(&mut self, chunk: ChunkId) {
        let Some(key) = self.chunks.remove(&chunk) else { return };
        let Some(slot) = self.slots[key as usize].take() else { return };
        let Some(group) = self.groups.get_mut(&slot.group) else { return };
        if group.keys.len() > 1 {
            group.keys.retain(|held| *held != key);
            for term in &group.terms {
                if let Some(posting) = self.postings.get_mut(term) {
                    posting.remove(key);
                }
            }
            return;
        }
        let document = group.document;
        self.drop_group(slot.group);
        if let Some(ids) = self.documents.get_mut(&document) {
            ids.retain(|id| *id != slot.group);
            if ids.is_empty() {
                self.documents.remove(&document);
            }
        }
    }

    /// Removes a document with all its chunks, where it is there.
    pub(super) fn remove_document(&mut self, document: DocumentId) {
        for group in self.drop_groups(document) {
            for key in group.keys {
                if let Some(slot) = self.slots[key as usize].take() {
                    self.chunks.remove(&slot.chunk);
                }
            }
        }
    }

    pub(super) fn contains_document(&self, document: DocumentId) -> bool {
        self.documents.contains_key(&document)
    }

    /// The same, numbered anew: chunk `old[n]` gets number `n`. What is not in `old`, which must ascend, is left out.
    pub(super) fn renumbered(&self, old: &[u32]) -> Self {
        let mut new_keys = vec![None; self.slots.len()];
        for (new, old) in (0..).zip(old) {
            if let Some(place) = new_keys.get_mut(*old as usize) {
                *place = Some(new);
            }
        }
        let new_key = |key: &u32| new_keys.get(*key as usize).copied().flatten();
        let renumber = |keys: &[u32]| keys.iter().filter_map(new_key).collect::<Vec<u32>>();
        let groups = self.groups.iter().map(|(id, group)| {
            let Group { document, terms, keys } = group;
            (*id, Group { document: *document, terms: terms.clone(), keys: renumber(keys) })
        });
        Self {
            slots: old.iter().map(|key| self.slots.get(*key as usize).copied().flatten()).collect(),
            chunks: self.chunks.iter().filter_map(|(chunk, key)| Some((*chunk, new_key(key)?))).collect(),
            groups: groups.collect(),
            next_group: self.next_group,
            documents: self.documents.clone(),
            postings: self
                .postings
                .iter()
                .map(|(term, keys)| (term.clone(), keys.iter().filter_map(|key| new_key(&key)).collect()))
                .collect(),
        }
    }

    /// What a filter leaves of it.
    pub(super) fn select(&self, filter: &MetadataFilter) -> Selection<'_> {
        let mut clauses: Vec<Cow<'_, RoaringBitmap>> =
            terms::of_filter(filter).iter().map(|clause| self.any_of(clause)).collect();
        clauses.sort_by_key(|clause| clause.len());
        let mut clauses = clauses.into_iter();
        let keys =
            clauses.next().map(|first| clauses.fold(first, |kept, clause| Cow::Owned(&*kept & &*clause)));
        Selection { table: self, keys }
    }

    /// The chunks that have any of these terms.
    fn any_of(&self, terms: &[String]) -> Cow<'_, RoaringBitmap> {
        let mut postings = terms.iter().filter_map(|term| self.postings.get(term.as_str()));
        let Some(first) = postings.next() else { return Cow::default() };
        postings.fold(Cow::Borrowed(first), |any, posting| Cow::Owned(&*any | posting))
    }

    /// The group of a document with these terms, made where there is none.
    fn group(&mut self, document: DocumentId, terms: &[String]) -> u32 {
        let ids = self.documents.entry(document).or_default();
        for id in ids.iter() {
            if self.groups.get(id).is_some_and(|group| same(&group.terms, terms)) {
                return *id;
            }
        }
        let id = self.next_group;
        self.next_group += 1;
        ids.push(id);
        let terms = terms
            .iter()
            .map(|term| match self.postings.get_key_value(term.as_str()) {
                Some((held, _)) => held.clone(),
                None => Arc::from(term.as_str()),
            })
            .collect();
        self.groups.insert(id, Group { document, terms, keys: Vec::new() });
        id
    }

    fn drop_groups(&mut self, document: DocumentId) -> Vec<Group> {
        let ids = self.documents.remove(&document).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.drop_group(id)).collect()
    }

    fn drop_group(&mut self, id: u32) -> Option<Group> {
        let group = self.groups.remove(&id)?;
        let keys: RoaringBitmap = group.keys.iter().copied().collect();
        for term in &group.terms {
            if let Some(posting) = self.postings.get_mut(term) {
                *posting -= &keys;
                if posting.is_empty() {
                    self.postings.remove(term);
                }
            }
        }
        Some(group)
    }
}

fn same(held: &[Arc<str>], terms: &[String]) -> bool {
    held.len() == terms.len() && held.iter().zip(terms).all(|(a, b)| **a == **b)
}

/// The chunks that a filter leaves.
pub(super) struct Selection<'a> {
    table: &'a Table,
    /// None where all are left.
    keys: Option<Cow<'a, RoaringBitmap>>,
}

impl Selection<'_> {
    /// How many chunks it has.
    pub(super) fn len(&self) -> usize {
        self.keys.as_ref().map_or(self.table.len(), |keys| keys.len() as usize)
    }

    /// Whether the chunk of this number is in it.
    pub(super) fn contains(&self, key: u32) -> bool {
        match &self.keys {
            Some(keys) => keys.contains(key),
            None => self.table.is_live(key),
        }
    }

    /// The numbers of all its chunks, ascending.
    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match &self.keys {
            Some(keys) => Box::new(keys.iter()),
            None => Box::new(self.table.keys_from(0)),
        }
    }
}
