//! The manifest of an ingestion job: what is to be taken in, one item a line, as JSON. It lies in the blob store with the files.

use serde::{Deserialize, Serialize};

use crate::{
    domain::{Collection, JobId, Metadata},
    lifecycle::job_blobs,
};

/// One document to take in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestItem {
    /// The client's id of it, unique within the collection and within the manifest.
    pub external_id: String,
    /// Where it goes.
    pub collection: Collection,
    /// Its title; what its content names where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The client's data, filterable.
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    /// What it says.
    pub content: ManifestContent,
}

/// Where the content of a document is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ManifestContent {
    /// Here.
    Text {
        /// The text.
        text: String,
        /// `text/plain` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
    /// In a blob.
    Blob {
        /// The blob's key.
        key: String,
        /// The file's name, as the client gave it.
        file_name: String,
        /// The media type that the client named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_type: Option<String>,
    },
    /// Nowhere: the document was refused when it arrived, and is reported among the job's failures while the others go on.
    Refused {
        /// Stable, for programs: `too_large`.
        code: String,
        /// For people.
        message: String,
    },
}

/// The key of a job's manifest.
#[must_use]
pub fn manifest_key(job: JobId) -> String {
    format!("{}/manifest.ndjson", job_blobs(job))
}

/// The key of the `n`th file that came with a job.
#[must_use]
pub fn file_key(job: JobId, n: usize) -> String {
    format!("{}/files/{n}", job_blobs(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_line() {
        let item = ManifestItem {
            external_id: "a.md".to_owned(),
            collection: Collection::default(),
            title: None,
            uri: None,
            metadata: Metadata::new(),
            content: ManifestContent::Text { text: "x".to_owned(), media_type: None },
        };
        let line = serde_json::to_string(&item).unwrap();
        assert_eq!(
            line,
            r#"{"external_id":"a.md","collection":"default","content":{"type":"text","text":"x"}}"#
        );
        assert_eq!(serde_json::from_str::<ManifestItem>(&line).unwrap(), item);
    }
}
