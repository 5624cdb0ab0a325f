//! A folder whose small files carry a checksum.
//!
//! tantivy puts a checksum into every segment file but none into `meta.json`, which says which segments there are, which of their documents
//! are deleted, and our own position. A byte that went wrong there would bring deleted documents back. So whatever tantivy writes in one
//! step gets four bytes of CRC-32 at its end, and loses them when it is read.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, WatchCallback, WatchHandle, WritePtr,
    error::{DeleteError, LockError, OpenReadError, OpenWriteError},
};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct CheckedDirectory(pub MmapDirectory);

impl Directory for CheckedDirectory {
    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let mut data = self.0.atomic_read(path)?;
        let crc =
            data.split_last_chunk::<4>().map(|(data, crc)| (crc32fast::hash(data), u32::from_le_bytes(*crc)));
        match crc {
            Some((computed, written)) if computed == written => {
                data.truncate(data.len() - 4);
                Ok(data)
            }
            _ => Err(damaged(path.to_owned())),
        }
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let crc = crc32fast::hash(data).to_le_bytes();
        self.0.atomic_write(path, &[data, &crc[..]].concat())
    }

    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.0.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.0.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.0.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        match self.0.open_write(path) {
            // Names are counted up from the last commit, so a process that was killed before its next one left files of the same names. Nothing refers to them.
            Err(OpenWriteError::FileAlreadyExists(_)) => {
                self.0.delete(path).map_err(|error| OpenWriteError::IoError {
                    io_error: Arc::new(io::Error::other(error.to_string())),
                    filepath: path.to_owned(),
                })?;
                self.0.open_write(path)
            }
            opened => opened,
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.0.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.0.watch(callback)
    }
}

fn damaged(filepath: PathBuf) -> OpenReadError {
    let io_error = Arc::new(io::Error::new(io::ErrorKind::InvalidData, "its checksum does not fit"));
    OpenReadError::IoError { io_error, filepath }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tantivy::directory::TerminatingWrite;

    use super::*;

    #[test]
    fn what_a_killed_process_left_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CheckedDirectory(MmapDirectory::open(folder.path()).unwrap());
        let path = Path::new("segment.7.del");
        for text in ["left behind, and longer", "written anew"] {
            let mut file = directory.open_write(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.terminate().unwrap();
        }
        assert_eq!(std::fs::read_to_string(folder.path().join(path)).unwrap(), "written anew");
    }
}
