//! Fetching from a model hub.

use std::{path::Path, time::Duration};

use futures::StreamExt;
use hf_hub::HFClient;
use tokio::time::timeout;

use super::{
    ModelSpec,
    files::VerifiedWriter,
    progress::{Progress, Task},
    spec::HubRepository,
};

/// How long a hub may keep us waiting for its first answer, and for the next bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) answer: Duration,
    pub(super) bytes: Duration,
}

/// Downloads all files of a model into `folder`, each verified.
///
/// `endpoint` is the hub's address; none is the client's own default.
pub(super) async fn download(
    spec: &ModelSpec,
    repository: &HubRepository,
    endpoint: Option<&str>,
    patience: Patience,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), String> {
    let mut builder = HFClient::builder().cache_enabled(false).retry_max_attempts(1);
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint);
    }
    let client = builder.build().map_err(|error| reason(&error))?;
    let repository_client = client.model(&repository.owner, &repository.name);
    let task = Task::start(progress, &format!("{} from the model hub", spec.name), Some(spec.total_bytes()));
    let mut done = 0_u64;
    for file in &spec.files {
        let request = repository_client
            .download_file_stream()
            .filename(&file.path)
            .revision(&repository.revision)
            .send();
        let (_, mut stream) = timeout(patience.answer, request)
            .await
            .map_err(|_| format!("no answer within {} s", patience.answer.as_secs()))?
            .map_err(|error| reason(&error))?;
        let mut writer = VerifiedWriter::create(folder, file).map_err(|error| error.to_string())?;
        loop {
            let next = timeout(patience.bytes, stream.next()).await.map_err(|_| {
                format!("{}: nothing more came for {} s", file.path, patience.bytes.as_secs())
            })?;
            let Some(bytes) = next else { break };
            let bytes = bytes.map_err(|error| format!("{}: {}", file.path, reason(&error)))?;
            // A block is hashed and copied to the page cache in microseconds.
            writer.write(&bytes).map_err(|error| error.to_string())?;
            done += bytes.len() as u64;
            task.advance(done);
        }
        // Making the weights durable may take the disk a while.
        tokio::task::spawn_blocking(move || writer.finish())
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What is at the bottom of an error: above it stands no more than "error sending request" with a long address.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
