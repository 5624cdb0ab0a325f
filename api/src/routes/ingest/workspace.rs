//! The blobs of a job that is not accepted yet.

use std::sync::Arc;

use bytes::Bytes;
use raglan_pipeline::{
    domain::JobId,
    ingestion::manifest::{file_key, manifest_key},
    lifecycle::job_blobs,
    ports::{BlobStore, PortResult},
};
use tracing::warn;

/// Where the files and the manifest of a job are put before it is accepted. Dropped before [`Self::keep`], it removes them: whatever ends
/// a request early, a client that leaves included, nothing stays behind.
pub(super) struct Workspace {
    blobs: Arc<dyn BlobStore>,
    job: JobId,
    kept: bool,
}

impl Workspace {
    pub(super) fn new(blobs: Arc<dyn BlobStore>, job: JobId) -> Self {
        Self { blobs, job, kept: false }
    }

    /// Stores the `n`th file; returns its key.
    pub(super) async fn put_file(&self, n: usize, content: Bytes) -> PortResult<String> {
        let key = file_key(self.job, n);
        self.blobs.put(&key, content).await?;
        Ok(key)
    }

    /// Stores the manifest; returns its key.
    pub(super) async fn put_manifest(&self, lines: Vec<u8>) -> PortResult<String> {
        let key = manifest_key(self.job);
        self.blobs.put(&key, lines.into()).await?;
        Ok(key)
    }

    /// The store of blobs.
    pub(super) fn blobs(&self) -> &dyn BlobStore {
        self.blobs.as_ref()
    }

    /// The job was accepted: its blobs are its own now.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (blobs, job) = (self.blobs.clone(), self.job);
        // Outside a runtime only when the process ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = blobs.remove_all(&job_blobs(job)).await {
                    warn!(job_id = %job, %error, "files of a refused request not removed");
                }
            });
        }
    }
}
