//! Folders that one process has for itself.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The right to a folder, for as long as it is kept.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code)] File); // held, never read

/// Takes the data folder for this process alone.
pub fn lock(data_dir: &Path) -> anyhow::Result<Lock> {
    match try_lock(data_dir)? {
        Some(lock) => Ok(lock),
        None => {
            bail!("another raglan process uses {}; stop it, or choose another --data-dir", data_dir.display())
        }
    }
}

/// So many processes may share a data folder.
const MOST_SLOTS: usize = 1_000;

/// Takes the first free of the folders `replicas/0`, `replicas/1`, … in the data folder: processes of one machine share a configuration, and each keeps its
/// indexes apart. After a restart a process finds the indexes of one before it.
pub fn slot(data_dir: &Path) -> anyhow::Result<(PathBuf, Lock)> {
    for number in 0..MOST_SLOTS {
        let folder = data_dir.join("replicas").join(number.to_string());
        if let Some(lock) = try_lock(&folder)? {
            return Ok((folder, lock));
        }
    }
    bail!("{} processes use {} already", MOST_SLOTS, data_dir.display())
}

/// None where another process has it.
fn try_lock(folder: &Path) -> anyhow::Result<Option<Lock>> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_gets_a_slot_of_its_own_and_the_next_finds_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let (first, first_lock) = slot(folder.path()).unwrap();
        let (second, _second_lock) = slot(folder.path()).unwrap();
        assert_ne!(first, second);
        drop(first_lock);
        assert_eq!(slot(folder.path()).unwrap().0, first);
    }

    #[test]
    fn a_data_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let lock_of_first = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another raglan process"), "{error}");
        drop(lock_of_first);
        lock(folder.path()).unwrap();
    }
}
