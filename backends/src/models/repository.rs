//! Language models of a hub, by their names: what they are made of is the hub's word, so they are not pinned as the built-in models are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hf_hub::{
    HFClient, HFError,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};

use super::{FetchAttempt, FetchError, Progress};

/// The files of a language model: shape, tokeniser, chat template and weights…
const FILES: [&str; 3] = ["*.json", "*.jinja", "*.safetensors"];
/// …without copies of the weights in other formats, which some have beside them.
const COPIES: [&str; 2] = ["consolidated*", "original/*"];

/// A repository of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    owner: String,
    name: String,
    revision: Option<String>,
}

impl Repository {
    /// Reads `owner/name` or `owner/name@revision`; none where a text is neither. Without a revision it is the newest when it is first fetched.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = path.split_once('/')?;
        let plain = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let whole = plain(owner) && plain(name) && revision.is_none_or(plain);
        whole.then(|| Self {
            owner: owner.to_owned(),
            name: name.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }
}

/// Finds the files of a hub's repository in the cache, and downloads them where they are not there; answers with their folder. With `offline`
/// the network is left alone.
///
/// # Errors
/// [`FetchError`] with what the hub, or the cache, said.
pub async fn fetch_repository(
    repository: &Repository,
    cache_dir: &Path,
    progress: Arc<dyn Progress>,
    offline: bool,
) -> Result<PathBuf, FetchError> {
    fetch_from(None, repository, cache_dir, progress, offline).await
}

/// The same; `endpoint` is the hub's address, none the client's own default.
async fn fetch_from(
    endpoint: Option<&str>,
    repository: &Repository,
    cache_dir: &Path,
    progress: Arc<dyn Progress>,
    offline: bool,
) -> Result<PathBuf, FetchError> {
    // What a branch or a tag was is noted once all its files are there. A commit's folder may be there in part, so the hub is asked first.
    let from_cache = match (offline, repository.revision.as_deref().is_some_and(is_commit)) {
        (true, _) => &[true][..],
        (false, true) => &[false, true],
        (false, false) => &[true, false],
    };
    let mut attempts = Vec::new();
    for &from_cache in from_cache {
        let from = if from_cache { "the cache of the model hub" } else { "the model hub" };
        match snapshot(endpoint, repository, cache_dir, &progress, from_cache).await {
            Ok(folder) => return Ok(folder),
            Err(error) => {
                let reason = super::hub::reason(&error);
                tracing::debug!(from, reason, "language model not found there");
                attempts.push(FetchAttempt { from: from.to_owned(), reason });
            }
        }
    }
    Err(FetchError {
        model: format!("{}/{}", repository.owner, repository.name),
        attempts,
        offline,
        remedy: "put the model's files (config.json, tokenizer.json, the weights) into a folder and name it as the \
                 generator's model",
    })
}

/// The folder of a repository's files.
async fn snapshot(
    endpoint: Option<&str>,
    Repository { owner, name, revision }: &Repository,
    cache_dir: &Path,
    progress: &Arc<dyn Progress>,
    from_cache: bool,
) -> Result<PathBuf, HFError> {
    let mut builder = HFClient::builder().cache_dir(cache_dir.join("hub"));
    if let Some(endpoint) = endpoint {
        builder = builder.endpoint(endpoint);
    }
    let bar = Bar {
        progress: progress.clone(),
        what: format!("{owner}/{name} from the model hub"),
        files: Mutex::new(BTreeMap::new()),
    };
    let fetched = builder
        .build()?
        .model(owner, name)
        .snapshot_download()
        .maybe_revision(revision.clone())
        .allow_patterns(FILES.map(str::to_owned).to_vec())
        .ignore_patterns(COPIES.map(str::to_owned).to_vec())
        .local_files_only(from_cache)
        .progress(bar)
        .send()
        .await;
    progress.finish();
    fetched
}

/// Whether a revision is a commit, written out.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

/// Adds up what the hub's client tells of each file.
struct Bar {
    progress: Arc<dyn Progress>,
    what: String,
    files: Mutex<BTreeMap<String, u64>>,
}

impl ProgressHandler for Bar {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => self.progress.start(&self.what, Some(*total_bytes)),
            DownloadEvent::Progress { files } => {
                let mut done = self.files.lock().unwrap_or_else(PoisonError::into_inner);
                for file in files {
                    done.insert(file.filename.clone(), file.bytes_completed);
                }
                self.progress.advance(done.values().sum());
            }
            DownloadEvent::AggregateProgress { bytes_completed, .. } => {
                self.progress.advance(*bytes_completed);
            }
            DownloadEvent::Complete => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::NoProgress;

    #[test]
    fn names_are_read() {
        let named = |owner: &str, name: &str, revision: Option<&str>| {
            Some(Repository {
                owner: owner.to_owned(),
                name: name.to_owned(),
                revision: revision.map(str::to_owned),
            })
        };
        assert_eq!(Repository::parse("some-one/Model-1.5B"), named("some-one", "Model-1.5B", None));
        assert_eq!(Repository::parse("some-one/Model@v2"), named("some-one", "Model", Some("v2")));
        for other in ["model", "/models/m", "./m/n", "a/b/c", "a/../b", "a/b@", "a /b", ""] {
            assert_eq!(Repository::parse(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_was_fetched_is_found_without_a_network() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::parse("someone/tiny").unwrap();
        // Nobody answers there.
        let nowhere = Some("http://127.0.0.1:9");
        let fetch = |offline| fetch_from(nowhere, &repository, cache.path(), Arc::new(NoProgress), offline);
        let error = fetch(true).await.unwrap_err().to_string();
        assert!(error.contains("someone/tiny") && error.contains("the cache of the model hub"), "{error}");
        assert!(error.contains("the generator's model") && !error.contains("embedding"), "{error}");
        // As the hub's client lays it out.
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let place = cache.path().join("hub/models--someone--tiny");
        let snapshot = place.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(place.join("refs")).unwrap();
        std::fs::write(place.join("refs/main"), commit).unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(fetch(true).await.unwrap(), snapshot);
        assert_eq!(fetch(false).await.unwrap(), snapshot, "what is there needs no hub");
    }
}
