//! Keeping a collection equal to a folder.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{info, warn};

use super::{FileEntry, Outcome, Sender, scan};
use crate::{
    client::{Api, ApiError},
    terminal::{Bar, string},
};

/// Keeps the documents of a collection equal to the files of a folder. What was sent is remembered by size and time of change, so that a look at
/// an unchanged folder sends nothing; the memory may be lost at any time, since the server tells unchanged documents by itself.
///
/// A file that cannot be taken in keeps the document of its last good version, if there is one, until it is taken in or goes.
pub struct Sync {
    api: Api,
    root: PathBuf,
    collection: String,
    pipeline: String,
    memory: Option<PathBuf>,
    sent: Memory,
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// The release that sent it.
    release: String,
    files: BTreeMap<String, Sent>,
}

/// A file as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    size: u64,
    modified_ms: u64,
    /// Whether its content could not be taken in; then it is tried again only when it changes, or by another release.
    failed: bool,
}

/// Failures that are about what a file says. Others may be over the next time: it could not be opened, say, or another job was at it.
const FAULTS_OF_CONTENT: [&str; 6] = ["empty", "encrypted", "too_large", "unsupported", "corrupt", "timeout"];

impl Memory {
    /// What was written by [`Sync::remember`]. Another release may read what this one could not.
    fn read(path: &Path) -> Self {
        let read = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let mut memory = read.unwrap_or_default();
        if memory.release != RELEASE {
            memory.files.retain(|_, sent| !sent.failed);
            RELEASE.clone_into(&mut memory.release);
        }
        memory
    }

    /// Whether a file must be sent. `is_held` tells whether the server has a document of it.
    fn wants(&self, file: &FileEntry, is_held: bool) -> bool {
        match self.files.get(&file.external_id) {
            Some(sent) => {
                let same = sent.size == file.size && sent.modified_ms == file.modified_ms;
                !same || (!sent.failed && !is_held)
            }
            None => true,
        }
    }

    /// Notes what came of sending a file: the code of its failure, where it has one.
    fn note(&mut self, file: &FileEntry, failure: Option<&str>) {
        let failed = failure.is_some();
        if failure.is_some_and(|code| !FAULTS_OF_CONTENT.contains(&code)) {
            self.files.remove(&file.external_id);
            return;
        }
        let sent = Sent { size: file.size, modified_ms: file.modified_ms, failed };
        self.files.insert(file.external_id.clone(), sent);
    }
}

const RELEASE: &str = env!("CARGO_PKG_VERSION");

impl Sync {
    /// A sync of `root`; what was sent is remembered in the file `memory`, where one is given.
    pub fn new(api: &Api, root: &Path, collection: &str, pipeline: &str, memory: Option<PathBuf>) -> Self {
        let sent = memory.as_deref().map(Memory::read).unwrap_or_default();
        Self {
            api: api.clone(),
            root: root.to_owned(),
            collection: collection.to_owned(),
            pipeline: pipeline.to_owned(),
            memory,
            sent,
        }
    }

    /// Makes the collection equal to the folder as it is now. None where there was nothing to do.
    pub async fn run(&mut self) -> anyhow::Result<Option<Outcome>> {
        let root = self.root.clone();
        let found = tokio::task::spawn_blocking(move || {
            scan(&root, &mut |problem| warn!(problem, "file passed over"))
        })
        .await??;
        let held = self.held(&found.files).await?;
        let known: HashSet<&str> = found.files.iter().map(|file| file.external_id.as_str()).collect();
        let gone: Vec<&String> =
            held.iter().filter(|(id, _)| found.lacks(id, &known)).map(|(_, id)| id).collect();
        for id in &gone {
            match self.api.delete(&format!("/v1/documents/{id}")).await {
                Ok(()) | Err(ApiError::Refused { status: 404, .. }) => {
                    info!(document_id = %id, "document of a removed file removed")
                }
                Err(error) => return Err(error.into()),
            }
        }
        let before = self.sent.files.len();
        self.sent.files.retain(|id, _| !found.lacks(id, &known));
        let forgotten = self.sent.files.len() < before;
        let wanted = |file: &&FileEntry| self.sent.wants(file, held.contains_key(&file.external_id));
        let changed: Vec<FileEntry> = found.files.iter().filter(wanted).cloned().collect();
        if changed.is_empty() {
            if forgotten {
                self.remember();
            }
            return Ok((!gone.is_empty()).then(Outcome::default));
        }
        let mut bar = Bar::work("ingesting", changed.len() as u64);
        let sender = Sender { api: &self.api, collection: &self.collection, pipeline: &self.pipeline };
        let outcome = sender.send(&changed, &mut bar).await?;
        bar.finish(&summary(&outcome, bar.elapsed()));
        let failures: HashMap<&str, &str> = outcome
            .failures
            .iter()
            .map(|failure| (failure.external_id.as_str(), failure.code.as_str()))
            .collect();
        for file in &changed {
            self.sent.note(file, failures.get(file.external_id.as_str()).copied());
        }
        self.remember();
        Ok(Some(outcome))
    }

    /// The documents of this folder that the server has: ids by external id.
    async fn held(&self, files: &[FileEntry]) -> anyhow::Result<HashMap<String, String>> {
        let name = self
            .root
            .canonicalize()
            .ok()
            .and_then(|root| Some(root.file_name()?.to_string_lossy().into_owned()));
        let prefix = match name {
            Some(name) if self.root.is_dir() => format!("{name}/"),
            Some(name) => name,
            None => String::new(),
        };
        let mut held = HashMap::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut query = vec![
                ("collection", self.collection.clone()),
                ("external_id_prefix", prefix.clone()),
                ("limit", "200".to_owned()),
            ];
            query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
            let request = self.api.request(reqwest::Method::GET, "/v1/documents").query(&query);
            let page: Value = match self.api.send(request).await {
                Ok(page) => page,
                // The collection is made with its first document.
                Err(ApiError::Refused { status: 404, .. }) => return Ok(held),
                Err(error) => return Err(error.into()),
            };
            for document in page["documents"].as_array().into_iter().flatten() {
                held.insert(
                    string(document, "external_id").to_owned(),
                    string(document, "document_id").to_owned(),
                );
            }
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        if self.root.is_file() {
            held.retain(|id, _| files.iter().any(|file| file.external_id == *id));
        }
        Ok(held)
    }

    fn remember(&self) {
        let Some(path) = &self.memory else { return };
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, serde_json::to_vec(&self.sent)?)?;
            std::fs::rename(fresh, path)
        };
        if let Err(error) = write() {
            warn!(%error, "what was sent could not be remembered; the next start compares all files");
        }
    }
}

/// An outcome in a line, and a line for each failure.
pub fn summary(outcome: &Outcome, elapsed: std::time::Duration) -> String {
    use std::fmt::Write;
    let Outcome {
        created,
        updated,
        unchanged,
        failed,
        chunks_embedded,
        chunks_unchanged,
        chunks_deleted,
        tokens,
        ..
    } = outcome;
    let mut text = format!(
        "documents: {created} new, {updated} updated, {unchanged} unchanged, {failed} failed; \
         chunks: {chunks_embedded} embedded ({tokens} tokens), {chunks_unchanged} unchanged, {chunks_deleted} removed; {:.1} s",
        elapsed.as_secs_f64()
    );
    for failure in &outcome.failures {
        let _ = write!(text, "\n  {}: {}", failure.external_id, failure.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, modified_ms: u64) -> FileEntry {
        FileEntry { path: "a".into(), external_id: "a".to_owned(), size, modified_ms }
    }

    #[test]
    fn a_file_is_sent_when_it_is_new_changed_or_missing() {
        let mut memory = Memory::default();
        assert!(memory.wants(&file(1, 1), false));
        assert!(memory.wants(&file(1, 1), true), "the server knows whether it is the same");
        memory.note(&file(1, 1), None);
        assert!(!memory.wants(&file(1, 1), true));
        assert!(memory.wants(&file(1, 1), false), "somebody removed its document");
        assert!(memory.wants(&file(2, 1), true) && memory.wants(&file(1, 2), true));
    }

    #[test]
    fn a_broken_file_waits_for_a_change_and_any_other_failure_for_the_next_look() {
        let mut memory = Memory::default();
        for code in FAULTS_OF_CONTENT {
            memory.note(&file(1, 1), Some(code));
            // Its document of before, if there is one, stays as it is.
            assert!(!memory.wants(&file(1, 1), false) && !memory.wants(&file(1, 1), true), "{code}");
            assert!(memory.wants(&file(1, 2), true), "{code}");
        }
        for code in ["unreadable", "conflict", "upload_missing", "anything_else"] {
            memory.note(&file(1, 1), None);
            memory.note(&file(1, 1), Some(code));
            assert!(memory.wants(&file(1, 1), true), "{code}");
        }
    }

    #[test]
    fn another_release_tries_what_failed_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.json");
        let mut memory = Memory::read(&path);
        memory.note(&file(1, 1), Some("unsupported"));
        memory.files.insert("b".to_owned(), Sent { size: 1, modified_ms: 1, failed: false });
        std::fs::write(&path, serde_json::to_vec(&memory).unwrap()).unwrap();
        assert_eq!(Memory::read(&path), memory);
        memory.release = "0.0.1-of-before".to_owned();
        std::fs::write(&path, serde_json::to_vec(&memory).unwrap()).unwrap();
        let read = Memory::read(&path);
        assert_eq!(read.files.keys().collect::<Vec<_>>(), ["b"]);
        std::fs::write(&path, b"{torn").unwrap();
        assert!(Memory::read(&path).files.is_empty());
    }
}
