//! Keeping a collection equal to a folder.

use std::{
    collections::{BTreeMap, HashMap},
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
pub struct Sync {
    api: Api,
    root: PathBuf,
    collection: String,
    pipeline: String,
    memory: Option<PathBuf>,
    sent: BTreeMap<String, Sent>,
}

/// A file as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    size: u64,
    modified_ms: u64,
    /// Whether the server could not take it in; then it has no document, and is tried again only when it changes.
    failed: bool,
}

impl Sync {
    /// A sync of `root`; what was sent is remembered in the file `memory`, where one is given.
    pub fn new(api: &Api, root: &Path, collection: &str, pipeline: &str, memory: Option<PathBuf>) -> Self {
        let sent = memory
            .as_ref()
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
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
        let files = tokio::task::spawn_blocking(move || {
            scan(&root, &mut |problem| warn!(problem, "file passed over"))
        })
        .await??;
        let held = self.held(&files).await?;
        let changed: Vec<FileEntry> = files
            .iter()
            .filter(|file| match self.sent.get(&file.external_id) {
                Some(sent) => {
                    let same = sent.size == file.size && sent.modified_ms == file.modified_ms;
                    !same || (!sent.failed && !held.contains_key(&file.external_id))
                }
                None => true,
            })
            .cloned()
            .collect();
        let gone: Vec<&String> = held
            .iter()
            .filter(|(id, _)| !files.iter().any(|file| file.external_id == **id))
            .map(|(_, id)| id)
            .collect();
        for id in &gone {
            match self.api.delete(&format!("/v1/documents/{id}")).await {
                Ok(()) | Err(ApiError::Refused { status: 404, .. }) => {
                    info!(document_id = %id, "document of a removed file removed")
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sent.retain(|id, _| files.iter().any(|file| file.external_id == *id));
        if changed.is_empty() {
            return Ok((!gone.is_empty()).then(Outcome::default));
        }
        let mut bar = Bar::count("ingesting", changed.len() as u64);
        let sender = Sender { api: &self.api, collection: &self.collection, pipeline: &self.pipeline };
        let outcome = sender.send(&changed, &mut bar).await?;
        bar.finish(&summary(&outcome, bar.elapsed()));
        for file in changed {
            let failed = outcome.failures.iter().any(|failure| failure.external_id == file.external_id);
            let sent = Sent { size: file.size, modified_ms: file.modified_ms, failed };
            self.sent.insert(file.external_id, sent);
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
        ..
    } = outcome;
    let mut text = format!(
        "documents: {created} new, {updated} updated, {unchanged} unchanged, {failed} failed; \
         chunks: {chunks_embedded} embedded, {chunks_unchanged} unchanged, {chunks_deleted} removed; {:.1} s",
        elapsed.as_secs_f64()
    );
    for failure in &outcome.failures {
        let _ = write!(text, "\n  {}: {}", failure.external_id, failure.message);
    }
    text
}
