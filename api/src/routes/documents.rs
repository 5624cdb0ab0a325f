//! Documents that were taken in: list, read, remove. Sending them is in [`super::ingest`].

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use raglan_pipeline::{
    domain::{Collection, Document, DocumentId, LogPosition, Metadata, MetadataFilter},
    ports::DocumentFilter,
    submit::check_filter,
};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::collections::unknown_collection;
use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiPath, ApiQuery, cursor, from_json, page_limit, read_cursor},
    openapi::NotFound,
    state::ApiState,
};

/// How long a delete waits for the indexes. The store hides what was deleted at once, so this only spares searches the work.
const VISIBLE_WITHIN: Duration = Duration::from_secs(2);

/// A document.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentView {
    /// Its id, the same for all its versions.
    document_id: Uuid,
    /// Your own id of it, unique within its collection.
    external_id: String,
    /// Where it lies.
    #[schema(value_type = String, example = "default")]
    collection: Collection,
    /// Its title; empty where none is known.
    title: String,
    /// Where it came from.
    uri: Option<String>,
    /// The media type it was read as.
    media_type: String,
    /// Your own data.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// Its version, from 1.
    version: u64,
    /// How many chunks it has.
    chunks: u64,
    /// Bytes of its source.
    bytes: u64,
    /// When it was first taken in.
    created_at: DateTime<Utc>,
    /// When this version was published.
    updated_at: DateTime<Utc>,
    /// Its text (`include=text`); the places of citations count in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl From<Document> for DocumentView {
    fn from(document: Document) -> Self {
        Self {
            document_id: document.id.0,
            external_id: document.external_id,
            collection: document.collection,
            title: document.title,
            uri: document.uri,
            media_type: document.media_type,
            metadata: document.metadata,
            version: document.version,
            chunks: document.chunks,
            bytes: document.bytes,
            created_at: document.created_at,
            updated_at: document.updated_at,
            text: None,
        }
    }
}

/// Which documents to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DocumentsQuery {
    /// Only in this collection.
    #[param(value_type = Option<String>, example = "default")]
    collection: Option<Collection>,
    /// Only those whose `external_id` begins so.
    external_id_prefix: Option<String>,
    /// Only those with this metadata, as a JSON object.
    #[param(example = r#"{"lang":"en"}"#)]
    filter: Option<String>,
    /// How many, from 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of documents.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DocumentsPage {
    /// The documents, oldest first.
    documents: Vec<DocumentView>,
    /// Where the next page begins; null on the last.
    next_cursor: Option<String>,
}

/// List documents, oldest first.
#[utoipa::path(
    get,
    path = "/v1/documents",
    tag = "Documents and collections",
    operation_id = "list_documents",
    params(DocumentsQuery),
    responses((status = 200, description = "A page of documents", body = DocumentsPage), NotFound)
)]
pub(crate) async fn list_documents(
    State(state): State<ApiState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<DocumentsQuery>,
) -> ApiResult<Json<DocumentsPage>> {
    let limit = page_limit(query.limit)?;
    let after = read_cursor("documents", query.cursor.as_deref())?.map(DocumentId);
    let metadata = query.filter.as_deref().map_or_else(|| Ok(MetadataFilter::default()), read_filter)?;
    if let Some(collection) = &query.collection
        && state.documents.collection(&caller.tenant, collection).await?.is_none()
    {
        return Err(unknown_collection(collection).field("collection"));
    }
    let filter = DocumentFilter {
        collection: query.collection,
        external_id_prefix: query.external_id_prefix,
        metadata,
        after,
        // One more tells whether there is a next page.
        limit: limit + 1,
    };
    let mut documents = state.documents.list(&caller.tenant, &filter).await?;
    let more = documents.len() > limit;
    documents.truncate(limit);
    let next_cursor = documents.last().filter(|_| more).map(|document| cursor("documents", document.id.0));
    Ok(Json(DocumentsPage { documents: documents.into_iter().map(Into::into).collect(), next_cursor }))
}

fn read_filter(json: &str) -> ApiResult<MetadataFilter> {
    let read = || {
        let filter: MetadataFilter = from_json(json.as_bytes())?;
        check_filter(&filter)?;
        Ok(filter)
    };
    read().map_err(|problem: Problem| Problem::bad_parameter("filter", problem.words().1))
}

/// What to answer beside the document.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct IncludeQuery {
    /// `text`: the document's text, too.
    #[param(inline)]
    include: Option<Include>,
}

/// What can be included.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Include {
    /// The text.
    Text,
}

/// Read a document.
#[utoipa::path(
    get,
    path = "/v1/documents/{document_id}",
    tag = "Documents and collections",
    operation_id = "get_document",
    params(("document_id" = Uuid, Path, description = "The document"), IncludeQuery),
    responses((status = 200, description = "The document", body = DocumentView), NotFound)
)]
pub(crate) async fn get_document(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<DocumentId>,
    ApiQuery(query): ApiQuery<IncludeQuery>,
) -> ApiResult<Json<DocumentView>> {
    let document = state.documents.get(&caller.tenant, id).await?.ok_or_else(unknown_document)?;
    let mut view = DocumentView::from(document);
    if let Some(Include::Text) = query.include {
        view.text = Some(state.documents.text(&caller.tenant, id).await?.ok_or_else(unknown_document)?);
    }
    Ok(Json(view))
}

/// Remove a document.
///
/// Acknowledged when no search can return it.
#[utoipa::path(
    delete,
    path = "/v1/documents/{document_id}",
    tag = "Documents and collections",
    operation_id = "delete_document",
    params(("document_id" = Uuid, Path, description = "The document")),
    responses((status = 204, description = "It is gone"), NotFound)
)]
pub(crate) async fn delete_document(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(id): ApiPath<DocumentId>,
) -> ApiResult<Response> {
    let removed = state.documents.delete(&caller.tenant, id).await?;
    await_visible(&state, removed.ok_or_else(unknown_document)?).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn unknown_document() -> Problem {
    Problem::not_found("unknown_document", "there is no such document").field("document_id")
}

/// Waits until the indexes hold a removal, for a while. What the store no longer has is never shown, whatever the indexes hold.
pub(crate) async fn await_visible(state: &ApiState, position: LogPosition) {
    match tokio::time::timeout(VISIBLE_WITHIN, state.visibility.wait_for(position)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(position, %error, "removal not known to be in the indexes"),
        Err(_) => warn!(position, "removal is not in the indexes yet"),
    }
}
