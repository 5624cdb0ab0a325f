//! Language models of a hub, by their names: what they are made of is the hub's word, so they are not pinned as the built-in models are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use hf_hub::{
    HFClient,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};

use super::{FetchAttempt, FetchError, Progress};

/// The files of a language model: shape, tokeniser, chat template and weights, without copies in other formats.
const FILES: [&str; 3] = ["*.json", "*.jinja", "*.safetensors"];

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
    let Repository { owner, name, revision } = repository;
    let model = format!("{owner}/{name}");
    let failed = |from: &str, error: &dyn std::error::Error| FetchError {
        model: model.clone(),
        attempts: vec![FetchAttempt { from: from.to_owned(), reason: super::hub::reason(error) }],
        offline,
    };
    let client = HFClient::builder()
        .cache_dir(cache_dir.join("hub"))
        .build()
        .map_err(|error| failed("the model hub", &error))?;
    let bar = Bar {
        progress: progress.clone(),
        what: format!("{model} from the model hub"),
        files: Mutex::new(BTreeMap::new()),
    };
    let fetched = client
        .model(owner, name)
        .snapshot_download()
        .maybe_revision(revision.clone())
        .allow_patterns(FILES.map(str::to_owned).to_vec())
        .local_files_only(offline)
        .progress(bar)
        .send()
        .await;
    progress.finish();
    let from = if offline { "the cache of the model hub" } else { "the model hub" };
    fetched.map_err(|error| failed(from, &error))
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
        let fetch = || fetch_repository(&repository, cache.path(), Arc::new(NoProgress), true);
        let error = fetch().await.unwrap_err().to_string();
        assert!(error.contains("someone/tiny") && error.contains("the cache of the model hub"), "{error}");
        // As the hub's client lays it out.
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let place = cache.path().join("hub/models--someone--tiny");
        let snapshot = place.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(place.join("refs")).unwrap();
        std::fs::write(place.join("refs/main"), commit).unwrap();
        std::fs::write(snapshot.join("config.json"), "{}").unwrap();
        assert_eq!(fetch().await.unwrap(), snapshot);
    }
}
