//! Documents as NDJSON: one a line, parsed as they arrive.

use axum::{extract::Request, http::StatusCode};
use bytes::{Buf, BytesMut};
use sha2::{Digest, Sha256};

use super::{
    Gathered, Reading,
    document::{DocumentInput, Manifest},
};
use crate::{
    error::{ApiResult, Problem, ProblemItem},
    extract::{BodyReader, from_json},
};

/// So many bad lines are told of; after that the rest is not read.
const MAX_ERRORS: usize = 100;
/// What a line may have beside a document's text, in bytes. JSON may write each byte of a text with six.
const LINE_OVERHEAD: usize = 128 << 10;

pub(super) async fn read(reading: Reading<'_>, request: Request) -> ApiResult<Gathered> {
    let limits = reading.state.limits();
    let longest =
        limits.file_bytes.saturating_mul(6).saturating_add(LINE_OVERHEAD).min(limits.documents_bytes);
    let mut body = BodyReader::new(request.into_body(), limits.documents_bytes, limits.body_idle);
    let mut hasher = reading.hash.then(Sha256::new);
    let mut lines = Lines { manifest: Manifest::new(), number: 0, errors: Vec::new() };
    let mut pending = BytesMut::new();
    // How much of `pending` is known to have no line break.
    let mut searched = 0;
    while let Some(piece) = body.next().await? {
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        pending.extend_from_slice(&piece);
        while let Some(at) = pending[searched..].iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(searched + at);
            pending.advance(1);
            searched = 0;
            lines.take(&reading, &line).await?;
        }
        searched = pending.len();
        if pending.len() > longest {
            return Err(Problem::too_large(format!(
                "line {} has more than {longest} bytes",
                lines.number + 1
            )));
        }
    }
    lines.take(&reading, &pending).await?;
    let Lines { manifest, errors, .. } = lines;
    if !errors.is_empty() {
        return Err(refused(errors));
    }
    if manifest.is_empty() {
        return Err(Problem::bad_request(
            "invalid_json",
            "the body has no documents; send one JSON object a line",
        ));
    }
    let digest = hasher.map(|hasher| hasher.finalize().to_vec()).unwrap_or_default();
    let (manifest, documents) = manifest.finish();
    Ok(Gathered { manifest, documents, options: reading.options, digest })
}

struct Lines {
    manifest: Manifest,
    number: u64,
    errors: Vec<ProblemItem>,
}

impl Lines {
    async fn take(&mut self, reading: &Reading<'_>, line: &[u8]) -> ApiResult<()> {
        self.number += 1;
        // Editors on Windows mark the beginning of a file.
        let line = if self.number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let added = match from_json::<DocumentInput>(line) {
            Ok(document) => self.manifest.add(reading, document).await,
            Err(problem) => Err(problem),
        };
        match added {
            Ok(()) => Ok(()),
            Err(problem) if problem.is_about_the_document() => {
                self.errors.push(problem.into_item(Some(self.number)));
                if self.errors.len() < MAX_ERRORS {
                    Ok(())
                } else {
                    Err(refused(std::mem::take(&mut self.errors)))
                }
            }
            Err(problem) => Err(problem),
        }
    }
}

fn refused(errors: Vec<ProblemItem>) -> Problem {
    let more = if errors.len() < MAX_ERRORS { "" } else { " or more" };
    let detail = format!("{}{more} lines are not documents; nothing was stored", errors.len());
    let field = errors.first().and_then(|error| error.field.clone());
    let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_documents", detail).errors(errors);
    match field {
        Some(field) => problem.field(field),
        None => problem,
    }
}
