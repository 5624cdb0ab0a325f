//! The manifest of an ingestion job: what is to be taken in, one item a line, as JSON. It lies in the blob store with the files.

use std::ops::Range;

use bytes::Bytes;
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
        /// The blob's size, so that the work can be told before the blob is read. Manifests of older releases lack it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// Nowhere: the document was refused when it arrived, and is reported among the job's failures while the others go on.
    Refused {
        /// Stable, for programs: `too_large`.
        code: String,
        /// For people.
        message: String,
    },
}

/// What a file is taken to have whose size the manifest does not tell.
const UNKNOWN_BYTES: u64 = 1 << 20;

/// A line of a manifest, not read yet. Cheap to clone: the lines share the manifest's memory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its number in the manifest, from 0.
    pub(super) number: usize,
    /// About how many bytes its source has.
    pub(super) bytes: u64,
    line: Bytes,
}

impl Entry {
    /// Reads the line.
    pub(super) fn item(&self) -> Result<ManifestItem, serde_json::Error> {
        serde_json::from_slice(&self.line)
    }
}

/// Only the size of what an item says.
#[derive(Deserialize)]
struct Outline {
    content: ContentOutline,
}

#[derive(Deserialize)]
struct ContentOutline {
    #[serde(rename = "type")]
    kind: Kind,
    bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Text,
    Blob,
    Refused,
}

/// The lines of a manifest, each with its size. The texts stay where they are: what is not being worked on is in memory once.
///
/// # Errors
/// The first line that is not an item.
pub(super) fn entries(manifest: &Bytes) -> Result<Vec<Entry>, serde_json::Error> {
    lines(manifest)
        .enumerate()
        .map(|(number, range)| {
            let line = manifest.slice(range);
            let Outline { content } = serde_json::from_slice(&line)?;
            let bytes = match content.kind {
                Kind::Text => line.len() as u64,
                Kind::Blob => content.bytes.unwrap_or(UNKNOWN_BYTES),
                Kind::Refused => 0,
            };
            Ok(Entry { number, bytes, line })
        })
        .collect()
}

/// Where the lines stand that are not blank.
fn lines(manifest: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    manifest.split_inclusive(|byte| *byte == b'\n').filter_map(move |line| {
        let start = end;
        end += line.len();
        (!line.trim_ascii().is_empty()).then_some(start..end)
    })
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

    #[test]
    fn a_manifest_is_cut_into_lines_with_their_sizes() {
        let text = r#"{"external_id":"a","collection":"default","content":{"type":"text","text":"x\ny"}}"#;
        let blob = r#"{"external_id":"b","collection":"default","content":{"type":"blob","key":"k","file_name":"b","bytes":7}}"#;
        let old = r#"{"external_id":"c","collection":"default","content":{"type":"blob","key":"k","file_name":"c"}}"#;
        let refused = r#"{"external_id":"d","collection":"default","content":{"type":"refused","code":"too_large","message":""}}"#;
        let manifest = Bytes::from(format!("{text}\n\n{blob}\r\n{old}\n{refused}"));
        let entries = entries(&manifest).unwrap();
        let told: Vec<_> =
            entries.iter().map(|e| (e.number, e.bytes, e.item().unwrap().external_id)).collect();
        let expected = [(0, text.len() as u64 + 1, "a"), (1, 7, "b"), (2, UNKNOWN_BYTES, "c"), (3, 0, "d")];
        assert_eq!(told, expected.map(|(number, bytes, id)| (number, bytes, id.to_owned())));
        assert!(super::entries(&Bytes::from_static(b"{\"external_id\":\"a\"}\n")).is_err());
        assert!(super::entries(&Bytes::new()).unwrap().is_empty());
    }
}
