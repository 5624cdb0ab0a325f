//! Blobs as files under one folder.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use raglan_pipeline::ports::{BlobStore, ErrorKind, PortError, PortResult};
use tracing::warn;
use uuid::Uuid;

use super::key;

/// Where blobs are written before they get their name. `+` is in no key.
const UNFINISHED: &str = "+unfinished";
/// What a crash left unfinished is removed after so long; a younger file may belong to another process that still writes.
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);
/// How often a blob is given its name again when somebody removed the folder in between.
const TRIES: usize = 16;
/// The longest part of a key: file systems allow 255 bytes, and a folder has one more.
const LONGEST_PART: usize = 250;

/// Blobs as files under one folder. A part of a key that is a folder has a `+` behind its name, so that `a` and `a/b` can both
/// be keys.
///
/// A blob is written aside, flushed to the disk, and then given its name, so that it is whole or absent whenever the machine
/// stops. A call whose caller stops waiting may still take effect.
#[derive(Debug, Clone)]
pub struct LocalBlobStore {
    root: Arc<Path>,
}

impl LocalBlobStore {
    /// Opens the folder, making it where missing, and removes what a crash left unfinished long ago.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be made or read.
    pub async fn open(folder: impl Into<PathBuf>) -> PortResult<Self> {
        let root: Arc<Path> = folder.into().into();
        let store = Self { root };
        store
            .blocking("open", |root| {
                let unfinished = root.join(UNFINISHED);
                fs::create_dir_all(&unfinished)?;
                sync_folder(root)?;
                remove_abandoned(&unfinished)
            })
            .await?;
        Ok(store)
    }

    /// Runs file work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> PortResult<T> {
        let root = Arc::clone(&self.root);
        tokio::task::spawn_blocking(move || work(&root))
            .await
            .map_err(|source| {
                PortError::new(ErrorKind::Internal, "the file work was cut short").with_source(source)
            })?
            .map_err(|source| from_io(what, source))
    }
}

#[async_trait]
impl BlobStore for LocalBlobStore {
    async fn put(&self, key: &str, data: Bytes) -> PortResult<()> {
        let place = Place::of(key)?;
        self.blocking("write", move |root| {
            let unfinished = root.join(UNFINISHED).join(Uuid::new_v4().simple().to_string());
            let written = write_durably(&unfinished, &data).and_then(|()| place.receive(root, &unfinished));
            if written.is_err() {
                // The error of the writing is the one to tell.
                let _ = fs::remove_file(&unfinished);
            }
            written
        })
        .await
    }

    async fn get(&self, key: &str) -> PortResult<Option<Bytes>> {
        let place = Place::of(key)?;
        self.blocking("read", move |root| absent_is_none(fs::read(place.file(root))))
            .await
            .map(|data| data.map(Bytes::from))
    }

    async fn remove(&self, key: &str) -> PortResult<()> {
        let place = Place::of(key)?;
        self.blocking("remove", move |root| {
            let file = place.file(root);
            if absent_is_none(fs::remove_file(&file))?.is_some() {
                place.sync_and_prune(root, &place.folders)?;
            }
            Ok(())
        })
        .await
    }

    async fn remove_all(&self, prefix: &str) -> PortResult<()> {
        let place = Place::of(prefix)?;
        self.blocking("remove", move |root| {
            let mut folder = place.folder(root);
            folder.push(format!("{}+", place.name));
            // What is written into the folder meanwhile may be seen when it is half empty: again, until it is gone.
            for _ in 0..TRIES {
                match fs::remove_dir_all(&folder) {
                    Ok(()) => return place.sync_and_prune(root, &place.folders),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    Err(error) => return Err(error),
                }
            }
            Err(io::ErrorKind::DirectoryNotEmpty.into())
        })
        .await
    }
}

/// Where a key's file lies under the root.
#[derive(Debug, Clone)]
struct Place {
    /// The folders from the root in, each with its `+`.
    folders: Vec<String>,
    /// The file's name.
    name: String,
}

impl Place {
    fn of(key: &str) -> PortResult<Self> {
        key::check(key)?;
        if let Some(part) = key.split('/').find(|part| part.len() > LONGEST_PART) {
            return Err(PortError::new(
                ErrorKind::Invalid,
                format!("a part of a blob's key has at most {LONGEST_PART} characters, got {}", part.len()),
            ));
        }
        let (folders, name) =
            key.rsplit_once('/').map_or((None, key), |(folders, name)| (Some(folders), name));
        let folders =
            folders.into_iter().flat_map(|folders| folders.split('/')).map(|part| format!("{part}+"));
        Ok(Self { folders: folders.collect(), name: name.to_owned() })
    }

    fn folder(&self, root: &Path) -> PathBuf {
        root.iter().chain(self.folders.iter().map(AsRef::as_ref)).collect()
    }

    fn file(&self, root: &Path) -> PathBuf {
        self.folder(root).join(&self.name)
    }

    /// Moves a finished file here, durably.
    fn receive(&self, root: &Path, finished: &Path) -> io::Result<()> {
        for _ in 0..TRIES {
            match self.make_folders(root).and_then(|folder| {
                fs::rename(finished, folder.join(&self.name))?;
                sync_folder(&folder)
            }) {
                // Somebody removed the last blob of the folder, and the folder with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound && finished.exists() => {}
                // The same, after the renaming: then the blob was removed too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other,
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "its folder is removed again and again"))
    }

    /// Makes the folders that are missing, durably, and gives the last.
    fn make_folders(&self, root: &Path) -> io::Result<PathBuf> {
        let mut folder = root.to_owned();
        for name in &self.folders {
            let parent = folder.clone();
            folder.push(name);
            match fs::create_dir(&folder) {
                Ok(()) => sync_folder(&parent)?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(folder)
    }

    /// Makes a removal in the last of these folders durable, and removes those of them that are empty now.
    fn sync_and_prune(&self, root: &Path, folders: &[String]) -> io::Result<()> {
        let Some((_, parents)) = folders.split_last() else { return sync_folder(root) };
        let folder: PathBuf = root.iter().chain(folders.iter().map(AsRef::as_ref)).collect();
        match fs::remove_dir(&folder) {
            Ok(()) => self.sync_and_prune(root, parents),
            // It has other blobs, or somebody else was faster.
            Err(_) => absent_is_none(sync_folder(&folder)).map(drop),
        }
    }
}

fn write_durably(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(data)?;
    file.sync_all()
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn remove_abandoned(unfinished: &Path) -> io::Result<()> {
    for entry in fs::read_dir(unfinished)? {
        let entry = entry?;
        let age =
            entry.metadata().and_then(|data| data.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > ABANDONED_AFTER)
            && let Err(error) = fs::remove_file(entry.path())
        {
            warn!(path = %entry.path().display(), %error, "an unfinished blob was not removed");
        }
    }
    Ok(())
}

/// What is not there is no error. A file where a folder should be means the same.
fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn from_io(what: &'static str, source: io::Error) -> PortError {
    let kind = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            ErrorKind::Overloaded
        }
        io::ErrorKind::InvalidFilename | io::ErrorKind::FileTooLarge => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    };
    PortError::new(kind, format!("the blob store cannot {what}")).with_source(source)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::SystemTime,
    };

    use raglan_pipeline::contract::blob_store as contract;
    use tempfile::TempDir;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        let folder = TempDir::new().unwrap();
        let count = AtomicUsize::new(0);
        contract::run_all(async || {
            let name = count.fetch_add(1, Ordering::Relaxed).to_string();
            Arc::new(LocalBlobStore::open(folder.path().join(name)).await.unwrap()) as Arc<dyn BlobStore>
        })
        .await;
    }

    #[tokio::test]
    async fn blobs_survive_and_nothing_else_is_left() {
        let folder = TempDir::new().unwrap();
        let store = LocalBlobStore::open(folder.path()).await.unwrap();
        store.put("jobs/1/a", Bytes::from_static(b"x")).await.unwrap();
        store.put("jobs/2/a", Bytes::from_static(b"y")).await.unwrap();
        store.remove("jobs/1/a").await.unwrap();
        let store = LocalBlobStore::open(folder.path()).await.unwrap();
        assert_eq!(store.get("jobs/2/a").await.unwrap().as_deref(), Some(b"y".as_slice()));
        store.remove_all("jobs/2").await.unwrap();
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [UNFINISHED]);
        assert_eq!(fs::read_dir(folder.path().join(UNFINISHED)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_unfinished_goes_when_it_is_old() {
        let folder = TempDir::new().unwrap();
        let unfinished = folder.path().join(UNFINISHED);
        fs::create_dir_all(&unfinished).unwrap();
        let old = File::create(unfinished.join("old")).unwrap();
        old.set_modified(SystemTime::now() - 2 * ABANDONED_AFTER).unwrap();
        File::create(unfinished.join("young")).unwrap();
        LocalBlobStore::open(folder.path()).await.unwrap();
        assert!(!unfinished.join("old").exists());
        assert!(unfinished.join("young").exists());
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_said_at_once() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let error = LocalBlobStore::open(folder.path().join("file/blobs")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
