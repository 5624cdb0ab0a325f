//! The cache folder: whole, verified models, each put there in one step.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{ModelSpec, files};

/// Written last into a fetched model's folder; says what was verified.
const MARKER: &str = "verified.json";
/// How often a process looks whether another one has finished the same download.
const LOCK_POLL: Duration = Duration::from_millis(200);

#[derive(Serialize, Deserialize)]
struct Marker {
    files: BTreeMap<String, MarkedFile>,
}

#[derive(Serialize, Deserialize)]
struct MarkedFile {
    sha256: String,
    bytes: u64,
    /// The file's modification time, in nanoseconds since 1970. While it is the same the content is taken to be, too.
    modified_ns: u64,
}

/// Why a cached model is not used.
pub(super) enum NotCached {
    /// There is none.
    Absent,
    /// There is one, but not as it was fetched.
    Damaged(String),
}

impl std::fmt::Display for NotCached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("not there"),
            Self::Damaged(reason) => f.write_str(reason),
        }
    }
}

/// A model's place in a cache folder.
#[derive(Debug, Clone)]
pub(super) struct CacheEntry {
    parent: PathBuf,
    name: String,
}

impl CacheEntry {
    pub(super) fn of(spec: &ModelSpec, cache_dir: &Path) -> Self {
        Self { parent: cache_dir.join("models"), name: spec.cache_name() }
    }

    /// The folder that holds the model once it is fetched.
    pub(super) fn folder(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    fn temporary_prefix(&self) -> String {
        format!(".{}.", self.name)
    }

    /// Whether the model is there as it was fetched: sizes always, the content where a file was touched since.
    pub(super) fn verify(&self, spec: &ModelSpec) -> Result<(), NotCached> {
        let folder = self.folder();
        if !folder.exists() {
            return Err(NotCached::Absent);
        }
        let damaged = |reason: String| NotCached::Damaged(reason);
        let marker = fs::read(folder.join(MARKER))
            .map_err(|e| e.to_string())
            .and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).map_err(|e| e.to_string()))
            .map_err(|reason| damaged(format!("{MARKER} cannot be read: {reason}")))?;
        for file in &spec.files {
            let path = folder.join(&file.path);
            let metadata =
                fs::metadata(&path).map_err(|e| damaged(format!("{} cannot be read: {e}", file.path)))?;
            if metadata.len() != file.bytes {
                return Err(damaged(format!(
                    "{} has {} bytes instead of {}",
                    file.path,
                    metadata.len(),
                    file.bytes
                )));
            }
            let known = marker.files.get(&file.path).is_some_and(|marked| {
                marked.sha256 == file.sha256
                    && marked.bytes == file.bytes
                    && marked.modified_ns == modified_ns(&metadata)
            });
            if !known {
                let found = files::sha256_of(&path)
                    .map_err(|e| damaged(format!("{} cannot be read: {e}", file.path)))?;
                if found != file.sha256 {
                    return Err(damaged(format!("{} was altered", file.path)));
                }
            }
        }
        Ok(())
    }

    /// Waits until no other process fetches this model. The system lets go of the lock when its holder dies.
    /// None where the file system has no locks: then two may fetch at once, and the later one's work is dropped.
    pub(super) async fn lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.parent)?;
        let file = File::create(self.parent.join(format!("{}.lock", self.name)))?;
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(fs::TryLockError::WouldBlock) => {
                    if !said {
                        tracing::info!(
                            model = self.name,
                            "another process fetches this model; waiting for it"
                        );
                        said = true;
                    }
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(None);
                }
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// A folder to fetch into, beside the entry. Removes what killed processes left: call it with the lock held.
    pub(super) fn workspace(&self, locked: bool) -> io::Result<tempfile::TempDir> {
        if locked {
            for entry in fs::read_dir(&self.parent)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&self.temporary_prefix()) {
                    // A left-over that cannot be removed costs disk, not the model.
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        tempfile::Builder::new().prefix(&self.temporary_prefix()).tempdir_in(&self.parent)
    }

    /// Puts a folder with all files of the model, each verified as it was written, in the entry's place.
    pub(super) fn install(&self, spec: &ModelSpec, fetched: &Path, workspace: &Path) -> io::Result<()> {
        let mut marker = Marker { files: BTreeMap::new() };
        for file in &spec.files {
            let metadata = fs::metadata(fetched.join(&file.path))?;
            marker.files.insert(
                file.path.clone(),
                MarkedFile {
                    sha256: file.sha256.clone(),
                    bytes: metadata.len(),
                    modified_ns: modified_ns(&metadata),
                },
            );
        }
        let written = fs::File::create(fetched.join(MARKER))?;
        serde_json::to_writer_pretty(&written, &marker)?;
        written.sync_all()?;

        let folder = self.folder();
        if folder.exists() {
            if self.verify(spec).is_ok() {
                return Ok(());
            }
            fs::rename(&folder, workspace.join("damaged"))?;
        }
        match fs::rename(fetched, &folder) {
            // Without locks another process may have been quicker.
            Err(_) if self.verify(spec).is_ok() => Ok(()),
            other => other,
        }
    }
}

fn modified_ns(metadata: &fs::Metadata) -> u64 {
    metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}
