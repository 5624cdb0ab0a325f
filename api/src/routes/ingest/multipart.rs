//! Documents as files: each goes to the blob store as it arrives, so that memory holds one at a time.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    body::Body,
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
};
use bytes::BytesMut;
use raglan_pipeline::{
    domain::{Collection, Metadata, PipelineName, Priority, WebhookTarget},
    ingestion::manifest::{ManifestContent, ManifestItem},
};
use sha2::{Digest, Sha256};
use url::Url;
use utoipa::ToSchema;

use super::{
    Gathered, Options, Reading,
    document::{Manifest, check_fields},
};
use crate::{
    checks::check_text,
    error::{ApiResult, Problem},
    extract::{BodyReader, from_json, nearest},
};

/// The most bytes of a field that is not a file.
const MAX_FIELD: usize = 64 << 10;
/// The fields beside files.
const FIELDS: [&str; 8] =
    ["collection", "metadata", "pipeline", "external_id", "title", "priority", "deadline_s", "webhook_url"];

/// Files, and what holds for all of them.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read piece by piece")]
pub(crate) struct FilesForm {
    /// The files; any number of parts of any name, each with a file name. A file's name is its `external_id`.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    file: Vec<String>,
    /// Where they go.
    #[schema(default = "default")]
    collection: Option<String>,
    /// Your own data, to filter by, for each of them: a JSON object.
    #[schema(example = r#"{"lang":"en"}"#)]
    metadata: Option<String>,
    /// Which indexing pipeline of the configuration takes them in.
    pipeline: Option<String>,
    /// Your own id, where there is one file.
    external_id: Option<String>,
    /// A title, where there is one file.
    title: Option<String>,
    /// `interactive`, `normal` or `batch`.
    priority: Option<String>,
    /// The job ends after so many seconds, finished or not.
    deadline_s: Option<u64>,
    /// Where to call back when the job has ended.
    webhook_url: Option<Url>,
}

/// A file that arrived.
struct Received {
    name: String,
    content: ManifestContent,
}

/// The fields that arrived.
#[derive(Default)]
struct Fields {
    options: Options,
    metadata: Metadata,
    external_id: Option<String>,
    title: Option<String>,
}

pub(super) async fn read(reading: Reading<'_>, request: Request) -> ApiResult<Gathered> {
    let limits = reading.state.limits();
    let (mut form, fault) = open(request, limits.files_bytes, limits.body_idle).await?;
    let mut fields = Fields::default();
    let mut files: Vec<Received> = Vec::new();
    let mut hasher = reading.hash.then(Sha256::new);
    while let Some(field) = form.next_field().await.map_err(|error| fault.explain(&error))? {
        let part = match field.file_name().map(ToOwned::to_owned) {
            Some(name) => {
                if files.len() >= limits.files {
                    return Err(Problem::too_large(format!(
                        "the request has more than {} files",
                        limits.files
                    )));
                }
                let (received, digest) = receive_file(&reading, field, name, files.len(), &fault).await?;
                let name = received.name.clone();
                files.push(received);
                (name, digest)
            }
            None => {
                let name = field.name().unwrap_or_default().to_owned();
                let value = receive_field(field, &name, &fault).await?;
                fields.set(&name, &value)?;
                (name, Sha256::digest(value.as_bytes()).to_vec())
            }
        };
        if let Some(hasher) = &mut hasher {
            // Over the parts and not the body: its boundary is another one on every try.
            hasher.update((part.0.len() as u64).to_le_bytes());
            hasher.update(part.0.as_bytes());
            hasher.update(part.1);
        }
    }
    let digest = hasher.map(|hasher| hasher.finalize().to_vec()).unwrap_or_default();
    build(reading, fields, files, digest)
}

/// One manifest item for each file.
fn build(reading: Reading<'_>, fields: Fields, files: Vec<Received>, digest: Vec<u8>) -> ApiResult<Gathered> {
    let limits = reading.state.limits();
    let Fields { options: said, metadata, external_id, title } = fields;
    check_fields(limits, external_id.as_deref(), title.as_deref(), &metadata)?;
    if files.is_empty() {
        return Err(Problem::invalid("file", "the form has no file; send parts with a file name"));
    }
    for (field, given) in [("external_id", external_id.is_some()), ("title", title.is_some())] {
        if given && files.len() > 1 {
            return Err(Problem::invalid(field, "can be given for one file, and there are several"));
        }
    }
    let query = reading.options;
    let options = Options {
        collection: said.collection.or(query.collection),
        pipeline: said.pipeline.or(query.pipeline),
        priority: said.priority.or(query.priority),
        deadline_s: said.deadline_s.or(query.deadline_s),
        webhook: said.webhook.or(query.webhook),
    };
    let mut manifest = Manifest::new();
    for Received { name, content } in files {
        let item = ManifestItem {
            external_id: external_id.clone().unwrap_or(name),
            collection: options.collection.clone().unwrap_or_default(),
            title: title.clone(),
            uri: None,
            metadata: metadata.clone(),
            content,
        };
        manifest.push(limits, &item)?;
    }
    let (manifest, documents) = manifest.finish();
    Ok(Gathered { manifest, documents, options, digest })
}

/// Reads one file into the blob store. One that is too large is read to its end and refused alone; returned with a digest of its content.
async fn receive_file(
    reading: &Reading<'_>,
    mut field: Field<'_>,
    name: String,
    n: usize,
    fault: &Fault,
) -> ApiResult<(Received, Vec<u8>)> {
    let limits = reading.state.limits();
    check_text("file", &name, limits.external_id_chars)?;
    let media_type =
        field.content_type().map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_lowercase());
    let mut content = BytesMut::new();
    let mut hasher = Sha256::new();
    let mut too_large = false;
    while let Some(piece) = field.chunk().await.map_err(|error| fault.explain(&error))? {
        hasher.update(&piece);
        too_large = too_large || content.len() + piece.len() > limits.file_bytes;
        if too_large {
            content = BytesMut::new();
        } else {
            content.extend_from_slice(&piece);
        }
    }
    let content = if too_large {
        let message = format!("the file has more than {} bytes", limits.file_bytes);
        ManifestContent::Refused { code: "too_large".to_owned(), message }
    } else {
        let bytes = Some(content.len() as u64);
        let key = reading.workspace.put_file(n, content.freeze()).await?;
        ManifestContent::Blob { key, file_name: name.clone(), media_type, bytes }
    };
    Ok((Received { name, content }, hasher.finalize().to_vec()))
}

async fn receive_field(mut field: Field<'_>, name: &str, fault: &Fault) -> ApiResult<String> {
    let mut value = BytesMut::new();
    while let Some(piece) = field.chunk().await.map_err(|error| fault.explain(&error))? {
        if value.len() + piece.len() > MAX_FIELD {
            return Err(Problem::too_large(format!("the field has more than {MAX_FIELD} bytes")).field(name));
        }
        value.extend_from_slice(&piece);
    }
    String::from_utf8(value.into()).map_err(|_| Problem::invalid(name, "is not UTF-8"))
}

impl Fields {
    fn set(&mut self, name: &str, value: &str) -> ApiResult<()> {
        let invalid = |detail: String| Problem::invalid(name, detail);
        let options = &mut self.options;
        match name {
            "collection" => {
                options.collection =
                    Some(Collection::new(value).map_err(|error| invalid(error.to_string()))?);
            }
            "pipeline" => {
                options.pipeline =
                    Some(PipelineName::new(value).map_err(|error| invalid(error.to_string()))?);
            }
            "priority" => {
                let priority = Priority::ALL.into_iter().find(|priority| priority.as_str() == value);
                let unknown = || invalid(format!("{value:?} is not one of: interactive, normal, batch"));
                options.priority = Some(priority.ok_or_else(unknown)?);
            }
            "deadline_s" => {
                let seconds =
                    value.trim().parse().map_err(|_| invalid("must be a whole number".to_owned()))?;
                options.deadline_s = Some(seconds);
            }
            "webhook_url" => {
                let url = Url::parse(value).map_err(|error| invalid(error.to_string()))?;
                options.webhook = Some(WebhookTarget { url, events: Vec::new() });
            }
            "metadata" => {
                self.metadata =
                    from_json(value.as_bytes()).map_err(|problem| invalid(problem.words().1.to_owned()))?;
            }
            "external_id" => self.external_id = Some(value.to_owned()),
            "title" => self.title = Some(value.to_owned()),
            other => {
                let detail = match nearest(other, &FIELDS) {
                    Some(near) => {
                        format!("there is no such field; did you mean {near:?}? (files need a file name)")
                    }
                    None => "is neither a known field nor a file: files need a file name".to_owned(),
                };
                return Err(Problem::invalid(if other.is_empty() { "file" } else { other }, detail));
            }
        }
        Ok(())
    }
}

/// Why the body could not be read on, where the form's own error does not tell.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<Option<Problem>>>);

impl Fault {
    fn set(&self, problem: Problem) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
    }

    fn explain(&self, error: &MultipartError) -> Problem {
        let own = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.unwrap_or_else(|| {
            Problem::bad_request("invalid_form", format!("the form cannot be read: {}", error.body_text()))
        })
    }
}

/// A form over a body that is bounded in size and may not stand still.
async fn open(request: Request, most: usize, idle: std::time::Duration) -> ApiResult<(Multipart, Fault)> {
    let (parts, body) = request.into_parts();
    let reader = BodyReader::new(body, most, idle);
    let fault = Fault::default();
    let seen = fault.clone();
    let stream = futures::stream::unfold(Some(reader), move |reader| {
        let seen = seen.clone();
        async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
                Err(problem) => {
                    seen.set(problem);
                    Some((Err(std::io::Error::other("the body cannot be read on")), None))
                }
            }
        }
    });
    let request = Request::from_parts(parts, Body::from_stream(stream));
    let form = Multipart::from_request(request, &()).await.map_err(|rejection| {
        Problem::bad_request("invalid_form", format!("the form cannot be read: {}", rejection.body_text()))
            .field("Content-Type")
    })?;
    Ok((form, fault))
}
