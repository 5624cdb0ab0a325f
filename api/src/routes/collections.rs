//! Collections: sets of documents that are searched together.

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use raglan_pipeline::domain::{Collection, CollectionInfo};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiPath, expect_json, from_json, read_body},
    openapi::{Invalid, NotFound, Unsupported},
    routes::documents::await_visible,
    state::ApiState,
};

/// The longest description, in Unicode scalar values.
const MAX_DESCRIPTION: usize = 2_000;

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionView {
    /// Its name.
    #[schema(value_type = String, example = "default")]
    name: Collection,
    /// What it is for.
    description: String,
    /// How many documents it has.
    documents: u64,
    /// How many chunks they have.
    chunks: u64,
    /// When it was made.
    created_at: DateTime<Utc>,
}

impl From<CollectionInfo> for CollectionView {
    fn from(info: CollectionInfo) -> Self {
        let CollectionInfo { name, description, documents, chunks, created_at } = info;
        Self { name, description, documents, chunks, created_at }
    }
}

/// All collections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionsView {
    /// By name.
    collections: Vec<CollectionView>,
}

/// What a collection is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CollectionRequest {
    /// What it is for (2,000 characters at most).
    #[serde(default)]
    #[schema(max_length = 2000)]
    description: String,
}

/// The answer about a collection that is not there.
pub(crate) fn unknown_collection(name: &Collection) -> Problem {
    let detail = format!("there is no collection {:?}; it is made with its first document", name.as_str());
    Problem::not_found("unknown_collection", detail)
}

/// List the collections.
#[utoipa::path(
    get,
    path = "/v1/collections",
    tag = "Documents and collections",
    operation_id = "list_collections",
    responses((status = 200, description = "The collections with their counts", body = CollectionsView))
)]
pub(crate) async fn list_collections(
    State(state): State<ApiState>,
    caller: Caller,
) -> ApiResult<Json<CollectionsView>> {
    let collections = state.documents.collections(&caller.tenant).await?;
    Ok(Json(CollectionsView { collections: collections.into_iter().map(Into::into).collect() }))
}

/// Read a collection.
#[utoipa::path(
    get,
    path = "/v1/collections/{name}",
    tag = "Documents and collections",
    operation_id = "get_collection",
    params(("name" = String, Path, description = "The collection")),
    responses((status = 200, description = "The collection with its counts", body = CollectionView), NotFound)
)]
pub(crate) async fn get_collection(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(name): ApiPath<Collection>,
) -> ApiResult<Json<CollectionView>> {
    let collection = state.documents.collection(&caller.tenant, &name).await?;
    Ok(Json(collection.ok_or_else(|| unknown_collection(&name))?.into()))
}

/// Make a collection, or change its description.
#[utoipa::path(
    put,
    path = "/v1/collections/{name}",
    tag = "Documents and collections",
    operation_id = "put_collection",
    params(("name" = String, Path, description = "1 to 64 of `a-z A-Z 0-9 . _ -`, beginning with a letter or a digit")),
    request_body(content = Option<CollectionRequest>, description = "May be left out"),
    responses(
        (status = 200, description = "It was there, and is as asked now", body = CollectionView),
        (status = 201, description = "It was made", body = CollectionView),
        Unsupported, Invalid
    )
)]
pub(crate) async fn put_collection(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(name): ApiPath<Collection>,
    request: Request,
) -> ApiResult<Response> {
    let limits = state.limits();
    let kind = expect_json(request.headers());
    let body = read_body(request, limits.body_bytes, limits.body_idle).await?;
    let asked: CollectionRequest = if body.is_empty() {
        CollectionRequest::default()
    } else {
        kind?;
        from_json(&body)?
    };
    let chars = asked.description.chars().count();
    if chars > MAX_DESCRIPTION {
        return Err(Problem::invalid(
            "description",
            format!("has {chars} characters; {MAX_DESCRIPTION} at most"),
        ));
    }
    let made = state.documents.put_collection(&caller.tenant, &name, &asked.description).await?;
    let collection = state.documents.collection(&caller.tenant, &name).await?;
    let view: CollectionView = collection.ok_or_else(|| unknown_collection(&name))?.into();
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view)).into_response())
}

/// Remove a collection with all its documents.
///
/// Acknowledged when no search can return any of them.
#[utoipa::path(
    delete,
    path = "/v1/collections/{name}",
    tag = "Documents and collections",
    operation_id = "delete_collection",
    params(("name" = String, Path, description = "The collection")),
    responses((status = 204, description = "It is gone"), NotFound)
)]
pub(crate) async fn delete_collection(
    State(state): State<ApiState>,
    caller: Caller,
    ApiPath(name): ApiPath<Collection>,
) -> ApiResult<Response> {
    let removed = state.documents.delete_collection(&caller.tenant, &name).await?;
    await_visible(&state, removed.ok_or_else(|| unknown_collection(&name))?).await;
    Ok(StatusCode::NO_CONTENT.into_response())
}
