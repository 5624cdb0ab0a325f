//! `POST /v1/uploads`: a file on its own, to be named as `uri` by documents that are sent as JSON.
//!
//! An upload lies under the day it came, so that old ones are removed by the day, with no list of them.

use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use chrono::{DateTime, Days, NaiveDate, Utc};
use raglan_pipeline::{
    domain::{Tenant, now},
    ports::{BlobStore, PortResult},
    submit::delta,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    auth::Caller,
    checks::check_text,
    error::{ApiResult, Problem},
    extract::{ApiQuery, media_type, read_body},
    openapi::{Overloaded, TooLarge},
    routes::ingest::ingest_permit,
    state::ApiState,
};

/// What an upload's `uri` begins with.
pub(crate) const SCHEME: &str = "upload:";
/// How long an upload is kept, at least.
const LIFE: Duration = Duration::from_secs(24 * 3_600);
/// How far back old uploads are looked for: a process that was off for a month still clears up.
const SWEEP_DAYS: u64 = 40;
/// The longest file name, in Unicode scalar values.
const MAX_FILE_NAME: usize = 512;

/// What is kept beside an upload's content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UploadInfo {
    /// The name of the file, where one was given.
    pub(crate) file_name: Option<String>,
    /// The media type that the client named.
    pub(crate) media_type: Option<String>,
    /// Its size.
    pub(crate) bytes: usize,
}

/// What the file is called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// The file's name; its ending helps to tell the format.
    #[param(example = "handbook.pdf")]
    file_name: Option<String>,
}

/// An upload.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UploadView {
    /// Send it as `uri` of a document.
    #[schema(example = "upload:0198f0c2-a7d1-7b6e-9b0e-0c5d1f2a3b4c")]
    uri: String,
    /// Its size.
    bytes: usize,
    /// The media type that you named.
    media_type: Option<String>,
    /// It is kept until then, at least.
    expires_at: DateTime<Utc>,
}

/// Upload a file.
///
/// The body is the file itself; its `Content-Type` and `file_name` help to tell the format. Name the answer's `uri` in a document within a day.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    tag = "Documents and collections",
    operation_id = "create_upload",
    params(UploadQuery),
    request_body(content = String, content_type = "application/octet-stream", description = "The file"),
    responses((status = 201, description = "It is kept", body = UploadView), TooLarge, Overloaded)
)]
pub(crate) async fn create_upload(
    State(state): State<ApiState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<UploadQuery>,
    request: Request,
) -> ApiResult<(StatusCode, Json<UploadView>)> {
    if let Some(name) = &query.file_name {
        check_text("file_name", name, MAX_FILE_NAME)
            .map_err(|problem| Problem::bad_parameter("file_name", problem.words().1))?;
    }
    // What clients say when nobody told them says nothing.
    let media_type = media_type(request.headers())?.filter(|kind| {
        !matches!(kind.as_str(), "application/octet-stream" | "application/x-www-form-urlencoded")
    });
    let _permit = ingest_permit(&state).await?;
    let limits = state.limits();
    let content = read_body(request, limits.file_bytes, limits.body_idle).await?;
    let bytes = content.len();
    let id = Uuid::now_v7();
    let info = UploadInfo { file_name: query.file_name, media_type: media_type.clone(), bytes };
    // Strings and numbers only: it serialises.
    let info = serde_json::to_vec(&info).unwrap_or_default();
    let key = key(&caller.tenant, id).ok_or_else(Problem::internal)?;
    state.lifecycle.blobs.put(&key, content).await?;
    // The content first: what has this beside it is whole.
    state.lifecycle.blobs.put(&info_key(&key), info.into()).await?;
    let view =
        UploadView { uri: format!("{SCHEME}{id}"), bytes, media_type, expires_at: now() + delta(LIFE) };
    Ok((StatusCode::CREATED, Json(view)))
}

/// The upload that a document's `uri` names, with the key of its content. None where there is none of this tenant.
pub(crate) async fn find(
    blobs: &dyn BlobStore,
    tenant: &Tenant,
    uri: &str,
) -> PortResult<Option<(String, UploadInfo)>> {
    let id = uri.strip_prefix(SCHEME).and_then(|id| Uuid::try_parse(id).ok());
    let Some(key) = id.and_then(|id| key(tenant, id)) else { return Ok(None) };
    let Some(info) = blobs.get(&info_key(&key)).await? else { return Ok(None) };
    Ok(serde_json::from_slice(&info).ok().map(|info| (key, info)))
}

/// The key of an upload's content. The day is in its id.
fn key(tenant: &Tenant, id: Uuid) -> Option<String> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let at = DateTime::<Utc>::from_timestamp(i64::try_from(seconds).ok()?, nanos)?;
    Some(format!("{}/{tenant}/{id}", day_folder(at.date_naive())))
}

fn info_key(key: &str) -> String {
    format!("{key}.json")
}

fn day_folder(day: NaiveDate) -> String {
    format!("uploads/{day}")
}

/// Removes uploads whose time is over.
pub async fn remove_old_uploads(blobs: &dyn BlobStore) -> PortResult<()> {
    let today = Utc::now().date_naive();
    // Yesterday's may be younger than a day.
    for back in 2..=SWEEP_DAYS {
        if let Some(day) = today.checked_sub_days(Days::new(back)) {
            blobs.remove_all(&day_folder(day)).await?;
        }
    }
    Ok(())
}

/// Removes old uploads now and every hour, until the process stops.
pub async fn sweep_uploads(blobs: std::sync::Arc<dyn BlobStore>, shutdown: CancellationToken) {
    let mut hours = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        tokio::select! {
            _ = hours.tick() => {}
            () = shutdown.cancelled() => return,
        }
        if let Err(error) = remove_old_uploads(blobs.as_ref()).await {
            warn!(%error, "old uploads not removed");
        }
    }
}
