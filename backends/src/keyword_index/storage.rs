//! The keyword index on disk: opened when it is whole and of this format, made anew when not.

use std::{fs, io, path::Path};

use raglan_pipeline::ports::{ErrorKind, PortError, PortResult};
use serde::{Deserialize, Serialize};
use tantivy::{
    Directory, Index, IndexReader, IndexWriter, ReloadPolicy, TantivyError,
    directory::{INDEX_WRITER_LOCK, MmapDirectory, error::LockError},
    indexer::IndexWriterOptions,
};
use uuid::Uuid;

use super::{
    checked_directory::CheckedDirectory,
    schema::{FORMAT, Fields, SPLITTER, splitter},
};
use crate::replica::Held;

/// Memory for entries that are not committed, in bytes. Fuller, they go to disk.
const WRITER_MEMORY: usize = 50_000_000;

/// An open index.
pub(super) struct Opened {
    pub index: Index,
    pub reader: IndexReader,
}

/// What a commit says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Payload {
    format: u32,
    position: u64,
    history: Option<Uuid>,
}

/// Why an index is not used as it is.
type Unusable = Box<dyn std::error::Error + Send + Sync>;

/// Opens the index in a folder of its own. One that is damaged or of another format is removed, and an empty one made.
pub(super) fn open(dir: &Path, fields: &Fields) -> PortResult<(Opened, Held)> {
    fs::create_dir_all(dir)
        .map_err(|e| unavailable(&format!("the folder {} cannot be made", dir.display()), e))?;
    let directory = open_directory(dir)?;
    // Nobody else may write while it is looked at: what looks torn may be half-written.
    let _lock = directory.acquire_lock(&INDEX_WRITER_LOCK).map_err(|error| locked(dir, error))?;
    match read(&directory, fields) {
        Ok(Some(read)) => return Ok(read),
        Ok(None) => {}
        Err(reason) => {
            tracing::warn!(dir = %dir.display(), %reason, "keyword index is not used; it will be built anew");
        }
    }
    make(dir, fields)
}

/// Removes the index in a folder and makes an empty one. The caller writes to neither meanwhile.
pub(super) fn make_anew(dir: &Path, fields: &Fields) -> PortResult<Opened> {
    let directory = open_directory(dir)?;
    let _lock = directory.acquire_lock(&INDEX_WRITER_LOCK).map_err(|error| locked(dir, error))?;
    Ok(make(dir, fields)?.0)
}

/// A writer with one indexing and one merging thread.
pub(super) fn writer(index: &Index) -> PortResult<IndexWriter> {
    let options = IndexWriterOptions::builder()
        .num_worker_threads(1)
        .memory_budget_per_thread(WRITER_MEMORY)
        .num_merge_threads(1)
        .build();
    index.writer_with_options(options).map_err(failed)
}

/// Commits what was written, with the position that it brings the index to.
pub(super) fn commit(writer: &mut IndexWriter, held: Held) -> PortResult<()> {
    let payload = Payload { format: FORMAT, position: held.position, history: held.history };
    let payload = serde_json::to_string(&payload).map_err(|e| {
        PortError::new(ErrorKind::Internal, "a commit's payload cannot be written").with_source(e)
    })?;
    let mut commit = writer.prepare_commit().map_err(failed)?;
    commit.set_payload(&payload);
    commit.commit().map_err(failed)?;
    Ok(())
}

fn open_directory(dir: &Path) -> PortResult<CheckedDirectory> {
    MmapDirectory::open(dir).map(CheckedDirectory).map_err(|error| {
        PortError::new(ErrorKind::Unavailable, format!("the folder {} cannot be used", dir.display()))
            .with_source(error)
    })
}

/// The index that is there, whole; none where there is none.
fn read(directory: &CheckedDirectory, fields: &Fields) -> Result<Option<(Opened, Held)>, Unusable> {
    if !Index::exists(directory)? {
        return Ok(None);
    }
    let index = Index::open(directory.clone())?;
    if index.schema() != fields.schema {
        return Err("its fields are of another release".into());
    }
    let payload = match index.load_metas()?.payload {
        Some(payload) => serde_json::from_str(&payload)?,
        // Made, and nothing ever committed.
        None => Payload { format: FORMAT, position: 0, history: None },
    };
    if payload.format != FORMAT {
        return Err(format!("it is of format {}, not {FORMAT}", payload.format).into());
    }
    let damaged = index.validate_checksum()?;
    if !damaged.is_empty() {
        return Err(format!("damaged files: {damaged:?}").into());
    }
    let opened = opened(index)?;
    let count = opened.reader.searcher().num_docs();
    Ok(Some((opened, Held { position: payload.position, history: payload.history, count })))
}

fn make(dir: &Path, fields: &Fields) -> PortResult<(Opened, Held)> {
    remove_files(dir).map_err(|e| unavailable("the old keyword index cannot be removed", e))?;
    // The old directory remembers files that are gone.
    let directory = open_directory(dir)?;
    let index = Index::builder().schema(fields.schema.clone()).open_or_create(directory).map_err(failed)?;
    Ok((opened(index).map_err(failed)?, Held::default()))
}

fn opened(index: Index) -> tantivy::Result<Opened> {
    index.tokenizers().register(SPLITTER, splitter());
    let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
    Ok(Opened { index, reader })
}

/// Removes every file but the lock, which is held.
fn remove_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.path() != dir.join(&INDEX_WRITER_LOCK.filepath) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn locked(dir: &Path, error: LockError) -> PortError {
    let message = format!("the keyword index in {} is in use by another process", dir.display());
    PortError::new(ErrorKind::Unavailable, message).with_source(error)
}

fn unavailable(what: &str, error: io::Error) -> PortError {
    PortError::new(ErrorKind::Unavailable, what).with_source(error)
}

/// tantivy's errors by what must be done: start anew, try again, or look into it.
pub(super) fn failed(error: TantivyError) -> PortError {
    let kind = match &error {
        TantivyError::DataCorruption(_)
        | TantivyError::IncompatibleIndex(_)
        | TantivyError::DeserializeError(_)
        | TantivyError::OpenReadError(_) => ErrorKind::Corrupt,
        TantivyError::IoError(_) | TantivyError::OpenWriteError(_) | TantivyError::LockFailure(..) => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Internal,
    };
    PortError::new(kind, "the keyword index failed").with_source(error)
}
