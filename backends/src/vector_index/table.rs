//! What is known of the vectors of one graph: whose they are, and what they can be filtered by.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use raglan_pipeline::domain::{ChunkId, DocumentId, MetadataFilter};

use crate::replica::terms;

/// Chunks by the number of their vector, with the terms of their metadata.
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
    postings: HashMap<Arc<str>, Posting>,
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

/// Where a term occurs.
#[derive(Default)]
struct Posting {
    groups: HashSet<u32>,
    /// Chunks in these groups.
    chunks: usize,
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

    /// The live numbers, ascending.
    pub(super) fn keys(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.next_key()).filter(|key| self.slots[*key as usize].is_some())
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
                if let Some(posting) = self.postings.get_mut(term) {
                    posting.chunks += 1;
                }
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
                if let Some(posting) = self.postings.get_mut(term) {
                    posting.chunks += keys.len();
                }
            }
            group.keys = keys;
        }
    }

    /// Removes a chunk, where it is there.
    pub(super) fn remove_chunk(&mut self, chunk: ChunkId) {
        let Some(key) = self.chunks.remove(&chunk) else { return };
        let Some(slot) = self.slots[key as usize].take() else { return };
        let Some(group) = self.groups.get_mut(&slot.group) else { return };
        if let Some(place) = group.keys.iter().position(|held| *held == key) {
            group.keys.swap_remove(place);
        }
        for term in &group.terms {
            if let Some(posting) = self.postings.get_mut(term) {
                posting.chunks -= 1;
            }
        }
        if group.keys.is_empty() {
            let document = group.document;
            self.drop_group(slot.group);
            if let Some(ids) = self.documents.get_mut(&document) {
                ids.retain(|id| *id != slot.group);
                if ids.is_empty() {
                    self.documents.remove(&document);
                }
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

    /// Numbers the live chunks anew from 0, in the order of [`keys`](Self::keys).
    pub(super) fn renumber(&mut self) {
        let mut new_keys = HashMap::with_capacity(self.len());
        let live: Vec<Option<Slot>> = std::mem::take(&mut self.slots)
            .into_iter()
            .enumerate()
            .filter(|(_, slot)| slot.is_some())
            .enumerate()
            .map(|(new, (old, slot))| {
                new_keys.insert(old as u32, new as u32);
                slot
            })
            .collect();
        self.slots = live;
        let renumbered = |key: &mut u32| *key = new_keys.get(key).copied().unwrap_or(*key);
        self.chunks.values_mut().for_each(renumbered);
        self.groups.values_mut().flat_map(|group| &mut group.keys).for_each(renumbered);
    }

    /// What a filter leaves of it.
    pub(super) fn select(&self, filter: &MetadataFilter) -> Selection<'_> {
        let mut clauses: Vec<Vec<&Posting>> = terms::of_filter(filter)
            .iter()
            .map(|clause| clause.iter().filter_map(|term| self.postings.get(term.as_str())).collect())
            .collect();
        clauses.sort_by_cached_key(|clause: &Vec<&Posting>| clause.iter().map(|p| p.chunks).sum::<usize>());
        Selection { table: self, clauses }
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
            .map(|term| {
                let term = match self.postings.get_key_value(term.as_str()) {
                    Some((held, _)) => held.clone(),
                    None => Arc::from(term.as_str()),
                };
                self.postings.entry(term.clone()).or_default().groups.insert(id);
                term
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
        for term in &group.terms {
            if let Some(posting) = self.postings.get_mut(term) {
                posting.groups.remove(&id);
                posting.chunks -= group.keys.len();
                if posting.groups.is_empty() {
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

/// The chunks that a filter leaves. Nothing is computed until it is asked.
pub(super) struct Selection<'a> {
    table: &'a Table,
    /// A chunk is in when its group is in any posting of every clause. The narrowest clause comes first.
    clauses: Vec<Vec<&'a Posting>>,
}

impl<'a> Selection<'a> {
    /// How many chunks it has. Counts no further than about `enough`.
    pub(super) fn count(&self, enough: usize) -> usize {
        match &self.clauses[..] {
            [] => self.table.len(),
            [only] if only.len() < 2 => only.iter().map(|posting| posting.chunks).sum(),
            _ => {
                let mut count = 0;
                for group in self.groups() {
                    count += group.keys.len();
                    if count > enough {
                        break;
                    }
                }
                count
            }
        }
    }

    /// Whether the chunk of this number is in it.
    pub(super) fn allows(&self, key: u32) -> bool {
        self.table
            .slots
            .get(key as usize)
            .copied()
            .flatten()
            .is_some_and(|slot| self.clauses.iter().all(|clause| has(clause, slot.group)))
    }

    /// The numbers of all its chunks.
    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        if self.clauses.is_empty() {
            Box::new(self.table.keys())
        } else {
            Box::new(self.groups().flat_map(|group| group.keys.iter().copied()))
        }
    }

    /// The groups of the first clause, each once, that are in the others too.
    fn groups(&self) -> impl Iterator<Item = &'a Group> + '_ {
        let (first, others) = self.clauses.split_first().map_or((&[][..], &[][..]), |(f, o)| (&f[..], o));
        first.iter().enumerate().flat_map(move |(index, posting)| {
            let seen = &first[..index];
            posting
                .groups
                .iter()
                .filter(move |group| !has(seen, **group) && others.iter().all(|clause| has(clause, **group)))
                .filter_map(|group| self.table.groups.get(group))
        })
    }
}

fn has(clause: &[&Posting], group: u32) -> bool {
    clause.iter().any(|posting| posting.groups.contains(&group))
}
