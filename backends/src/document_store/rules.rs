//! The rules of a document store, the same in whichever engine it lies. A store reads what a rule asks for under a lock and
//! writes what it says.

use std::collections::HashSet;

use raglan_pipeline::{
    domain::{ChunkId, Document, DocumentId, StagedDocument},
    ports::{DocumentFilter, ErrorKind, PortError, PortResult, Staged},
};
use uuid::Uuid;

use super::rows::{Identity, Version};

/// At most so many chunks share an entry of the log, so that who reads it can bound what it holds in memory.
pub(super) const CHUNKS_PER_ENTRY: usize = 256;

/// At most so many documents of a collection are removed at once, so that nobody else's write waits for all of them.
pub(super) const DOCUMENTS_PER_STEP: usize = 200;

/// How many documents are read at once while a filter by metadata looks for its page.
const SCAN: usize = 512;

/// What one step of removing a collection did.
pub(super) enum Removal {
    /// There was no such collection.
    Nothing,
    /// There are more documents to remove.
    Some,
    /// All are gone, and the collection with them: the log's position after it.
    All(u64),
}

/// What publishing a staged version comes to.
pub(super) enum Step<'a> {
    /// A newer version is live. What this one left went when that was published.
    Overtaken,
    /// It is live already.
    Done,
    /// The live version is one of a later job: this one is to go.
    Drop,
    /// It is to be made live.
    Publish(&'a Version),
}

/// What to do about a staged version, of which the store has this by now.
///
/// # Errors
/// `Conflict` where it has gone.
pub(super) fn step<'a>(
    staged: &Staged,
    identity: Option<&Identity>,
    version: Option<&'a Version>,
    live: Option<&Version>,
) -> PortResult<Step<'a>> {
    let gone = || conflict(staged.document_id, "its staged version has gone; stage it again");
    let identity = identity.ok_or_else(gone)?;
    if identity.live_version.is_some_and(|live| live > staged.version) {
        return Ok(Step::Overtaken);
    }
    // A document that was deleted and made again counts its versions anew: this may be another one.
    let version = version.filter(|version| version.position == staged.position).ok_or_else(gone)?;
    if identity.live_version == Some(staged.version) {
        return Ok(Step::Done);
    }
    // Jobs at once may be staged in any order. What was sent last stays: the ids of jobs are in the order in which they came.
    if version.job.is_some() && version.job < live.and_then(|live| live.job) {
        return Ok(Step::Drop);
    }
    Ok(Step::Publish(version))
}

/// Whether the live version of a document has another title, uri or metadata than the one that is to replace it.
pub(super) fn attributes_change(identity: &Identity, version: &Version, live: Option<&Version>) -> bool {
    identity.live_version.is_some() && live.is_none_or(|live| live.attributes != version.attributes)
}

/// A document keeps its tenant, collection and external id.
pub(super) fn check_identity(identity: &Identity, document: &Document) -> PortResult<()> {
    if (&identity.tenant, &identity.collection, &identity.external_id)
        == (&document.tenant, &document.collection, &document.external_id)
    {
        return Ok(());
    }
    Err(PortError::new(
        ErrorKind::Invalid,
        format!("document {} has another tenant, collection or external id", document.id),
    ))
}

/// A chunk stands in a version once.
pub(super) fn check_chunks(staged: &StagedDocument) -> PortResult<()> {
    let ids = staged.new_chunks.iter().map(|chunk| chunk.id);
    let mut ids = ids.chain(staged.kept_chunks.iter().map(|(id, _)| *id));
    let mut seen = HashSet::new();
    match ids.find(|id| !seen.insert(*id)) {
        None => Ok(()),
        Some(ChunkId(id)) => Err(PortError::new(
            ErrorKind::Invalid,
            format!("document {} names chunk {id} twice", staged.document.id),
        )),
    }
}

/// A version names chunks to keep that are not there.
pub(super) fn chunks_gone(id: DocumentId) -> PortError {
    conflict(id, "chunks that it should keep have gone; chunk it again")
}

/// The caller is to begin anew with what the store has now.
fn conflict(id: DocumentId, what: &str) -> PortError {
    PortError::new(ErrorKind::Conflict, format!("document {id}: {what}"))
}

/// A page of documents that match a filter, of which the engine knows all but the metadata.
pub(super) struct Page<'a> {
    filter: &'a DocumentFilter,
    found: Vec<Document>,
    after: Uuid,
    is_last: bool,
}

impl<'a> Page<'a> {
    /// With nothing on it.
    pub fn new(filter: &'a DocumentFilter) -> Self {
        let after = filter.after.map_or(Uuid::nil(), |id| id.0);
        Self { filter, found: Vec::new(), after, is_last: false }
    }

    /// What is to be read for it, while it is not full and there may be more: so many documents after this id.
    pub fn wanted(&self) -> Option<(Uuid, usize)> {
        let wanted = self.filter.limit.checked_sub(self.found.len()).filter(|wanted| *wanted > 0)?;
        let most = if self.filter.metadata.is_empty() { wanted } else { wanted.max(SCAN) };
        (!self.is_last).then_some((self.after, most))
    }

    /// Adds what was read of those that were wanted.
    pub fn add(&mut self, read: Vec<Document>) {
        self.is_last = self.wanted().is_none_or(|(_, most)| read.len() < most);
        self.after = read.last().map_or(self.after, |document| document.id.0);
        let filter = self.filter;
        self.found.extend(read.into_iter().filter(|document| filter.metadata.matches(&document.metadata)));
        self.found.truncate(filter.limit);
    }

    /// The documents.
    pub fn documents(self) -> Vec<Document> {
        self.found
    }
}
