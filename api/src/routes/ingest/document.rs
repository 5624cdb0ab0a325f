//! One document as a client sends it, and what becomes of it in the manifest.

use std::collections::HashSet;

use raglan_pipeline::{
    domain::{Collection, Metadata},
    ingestion::manifest::{ManifestContent, ManifestItem},
};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Reading;
use crate::{
    checks::{check_metadata, check_text},
    error::{ApiResult, Problem},
    routes::uploads::{self, SCHEME},
    state::Limits,
};

/// The media types of `text`.
const TEXT_TYPES: [&str; 3] = ["text/plain", "text/markdown", "text/html"];

/// A document: its `text`, or the `uri` of an upload.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentInput {
    /// Your own id of it, unique within its collection: sent again, the document is replaced. Made up where absent.
    #[schema(example = "handbook/returns.md", max_length = 512)]
    pub(super) external_id: Option<String>,
    /// Its title; what its content names where absent.
    #[schema(example = "Returns", max_length = 1000)]
    pub(super) title: Option<String>,
    /// Its text. Either this or the `uri` of an upload.
    #[schema(example = "Goods may be sent back within 30 days.")]
    pub(super) text: Option<String>,
    /// Where it came from; without `text`, the `uri` that `POST /v1/uploads` answered.
    #[schema(example = "https://example.com/handbook/returns", max_length = 2048)]
    pub(super) uri: Option<String>,
    /// Where it goes.
    #[schema(value_type = Option<String>, default = "default", example = "default")]
    pub(super) collection: Option<Collection>,
    /// Your own data, to filter by (16 KiB at most).
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"lang": "en"}))]
    pub(super) metadata: Metadata,
    /// What `text` is: `text/plain`, `text/markdown` or `text/html`. For an upload, what it is where its own `Content-Type` did not say.
    #[schema(default = "text/plain", example = "text/markdown")]
    pub(super) media_type: Option<String>,
}

/// Builds a manifest from the documents of a request.
pub(super) struct Manifest {
    lines: Vec<u8>,
    documents: u64,
    /// What was given an id already, so that no two documents of a request race for it.
    seen: HashSet<(Collection, String)>,
}

impl Manifest {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), documents: 0, seen: HashSet::new() }
    }

    /// Whether it has no documents.
    pub(super) fn is_empty(&self) -> bool {
        self.documents == 0
    }

    /// The lines, and how many.
    pub(super) fn finish(self) -> (Vec<u8>, u64) {
        (self.lines, self.documents)
    }

    /// Adds a document that was sent as JSON.
    pub(super) async fn add(&mut self, reading: &Reading<'_>, input: DocumentInput) -> ApiResult<()> {
        let item = to_item(reading, input).await?;
        self.push(reading.state.limits(), &item)
    }

    /// Adds an item that was checked.
    pub(super) fn push(&mut self, limits: &Limits, item: &ManifestItem) -> ApiResult<()> {
        if self.documents >= limits.documents as u64 {
            return Err(Problem::too_large(format!(
                "the request has more than {} documents",
                limits.documents
            )));
        }
        if !self.seen.insert((item.collection.clone(), item.external_id.clone())) {
            let detail = format!("{:?} is given to two documents of this request", item.external_id);
            return Err(Problem::invalid("external_id", detail));
        }
        serde_json::to_writer(&mut self.lines, item).map_err(|_| Problem::internal())?;
        self.lines.push(b'\n');
        self.documents += 1;
        Ok(())
    }
}

async fn to_item(reading: &Reading<'_>, input: DocumentInput) -> ApiResult<ManifestItem> {
    let limits = reading.state.limits();
    check_fields(limits, input.external_id.as_deref(), input.title.as_deref(), &input.metadata)?;
    if let Some(uri) = &input.uri {
        check_text("uri", uri, limits.uri_chars)?;
    }
    let upload = input.uri.as_deref().filter(|uri| uri.starts_with(SCHEME));
    let (content, file_name) = match (input.text, upload) {
        (Some(_), Some(_)) => {
            return Err(Problem::invalid("text", "give either text or the uri of an upload, not both"));
        }
        (Some(text), None) => {
            check_content(limits, &text, input.media_type.as_deref())?;
            (ManifestContent::Text { text, media_type: input.media_type }, None)
        }
        (None, Some(uri)) => {
            let found = uploads::find(reading.workspace.blobs(), &reading.caller.tenant, uri).await?;
            let (key, info) = found.ok_or_else(|| {
                Problem::invalid("uri", "there is no such upload; uploads are kept for a day")
            })?;
            let file_name =
                info.file_name.or_else(|| input.external_id.clone()).unwrap_or_else(|| uri.to_owned());
            let media_type = info.media_type.or(input.media_type);
            let bytes = Some(info.bytes as u64);
            (ManifestContent::Blob { key, file_name: file_name.clone(), media_type, bytes }, Some(file_name))
        }
        (None, None) if input.uri.is_some() => {
            let detail =
                "is not an upload; files are not fetched from elsewhere: send text, or upload the file first";
            return Err(Problem::invalid("uri", detail));
        }
        (None, None) => {
            return Err(Problem::invalid("text", "is missing; give text or the uri of an upload"));
        }
    };
    let is_upload = upload.is_some();
    Ok(ManifestItem {
        external_id: input.external_id.or(file_name).unwrap_or_else(|| Uuid::now_v7().to_string()),
        collection: input.collection.or_else(|| reading.options.collection.clone()).unwrap_or_default(),
        title: input.title,
        // The name of an upload means nothing once the upload is gone.
        uri: input.uri.filter(|_| !is_upload),
        metadata: input.metadata,
        content,
    })
}

/// Checks what documents and files have in common.
pub(super) fn check_fields(
    limits: &Limits,
    external_id: Option<&str>,
    title: Option<&str>,
    metadata: &Metadata,
) -> ApiResult<()> {
    if let Some(id) = external_id {
        check_text("external_id", id, limits.external_id_chars)?;
    }
    if let Some(title) = title {
        check_text("title", title, limits.title_chars)?;
    }
    check_metadata("metadata", metadata, limits.metadata_bytes)
}

fn check_content(limits: &Limits, text: &str, media_type: Option<&str>) -> ApiResult<()> {
    if text.len() > limits.file_bytes {
        let detail = format!("has {} bytes; {} at most", text.len(), limits.file_bytes);
        return Err(Problem::invalid("text", detail));
    }
    match media_type {
        Some(kind) if !TEXT_TYPES.contains(&kind) => {
            let detail = format!("{kind:?} is not one of: {}; upload other files", TEXT_TYPES.join(", "));
            Err(Problem::invalid("media_type", detail))
        }
        _ => Ok(()),
    }
}
