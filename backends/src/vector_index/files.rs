//! The saved form of the index: files that are never changed once written, and one manifest that names them.
//!
//! Saving writes new files for the collections that changed, makes them durable, and then replaces the manifest in one step, so that
//! there is always a whole saved state, the old or the new. Every file's length and checksum stand in the manifest, and the
//! manifest begins with its own. Whatever does not fit makes the saved state as a whole unreadable: it is only a replica, and
//! a wrong answer costs more than feeding it again.
//!
//! A graph can only be written whole: 87 MiB at 100,000 vectors of 384 numbers. So a large state is not written anew for a few changes: those are
//! in the change log, and applying them again after a restart costs less (see [`Thrift`]).

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use raglan_pipeline::{
    domain::{ChunkId, DocumentId, LogPosition},
    ports::{ErrorKind, PortError, PortResult},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    graph::{Graph, Shape, unavailable},
    shard::{Scope, Shard},
};

const MANIFEST: &str = "manifest";
/// Rises when the files of one release cannot be read by the one before.
const FORMAT: u32 = 2;

/// The folder, and what was saved into it last.
pub(super) struct Files {
    dir: PathBuf,
    saved: Option<Manifest>,
    sequence: u64,
    /// When it was saved or opened.
    saved_when: Instant,
    /// About how many chunks have changed since.
    changed: usize,
    pub thrift: Thrift,
}

/// When saving is put off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thrift {
    /// Never, when so few vectors are to be written.
    pub few: usize,
    /// When fewer than one in this many of them have changed …
    pub share: usize,
    /// … and no longer than this: old entries leave the change log.
    pub at_most: Duration,
}

impl Default for Thrift {
    /// Writing 100,000 vectors of 384 numbers took 0.3 s, and adding one takes about a millisecond of a processor: so many vectors are written in the time that a few
    /// hundred are added in, and two in a hundred of a million are applied again in tens of seconds.
    fn default() -> Self {
        Self { few: 65_536, share: 50, at_most: Duration::from_secs(3600) }
    }
}

/// What a saved state must be of to be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub model: String,
    pub dimension: usize,
}

/// A saved state, read.
pub(super) struct Loaded {
    pub position: LogPosition,
    pub history: Option<Uuid>,
    pub shards: Vec<(Scope, Shard)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    origin: Origin,
    position: LogPosition,
    history: Option<Uuid>,
    sequence: u64,
    shards: Vec<SavedShard>,
}

impl Manifest {
    /// A shard as it was saved, where it has not changed since.
    fn of(&self, scope: &Scope, shard: &Shard) -> Option<&SavedShard> {
        self.shards.iter().find(|saved| saved.scope == *scope && saved.changed_at == shard.changed_at)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedShard {
    scope: Scope,
    changed_at: LogPosition,
    graph: SavedFile,
    table: SavedFile,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedFile {
    name: String,
    bytes: u64,
    crc32: u32,
}

#[derive(Serialize, Deserialize)]
struct SavedTable {
    next_key: u32,
    groups: Vec<SavedGroup>,
}

#[derive(Serialize, Deserialize)]
struct SavedGroup {
    document: DocumentId,
    terms: Vec<String>,
    chunks: Vec<(u32, ChunkId)>,
}

/// Why a saved state is not used.
type Unusable = Box<dyn std::error::Error + Send + Sync>;

impl Files {
    /// Opens the folder, making it where missing, and reads what is saved there. What cannot be used is removed.
    pub(super) fn open(dir: &Path, origin: &Origin, shape: Shape) -> PortResult<(Self, Option<Loaded>)> {
        fs::create_dir_all(dir)
            .map_err(|e| unavailable(&format!("the folder {} cannot be made", dir.display()), e))?;
        let mut files = Self {
            dir: dir.to_owned(),
            saved: None,
            sequence: 0,
            saved_when: Instant::now(),
            changed: 0,
            thrift: Thrift::default(),
        };
        let loaded = match files.load(origin, shape) {
            Ok(loaded) => loaded,
            Err(reason) => {
                tracing::warn!(dir = %dir.display(), %reason, "saved vector index is not used; it will be built anew");
                files.clear()?;
                None
            }
        };
        files.remove_strangers()?;
        Ok((files, loaded))
    }

    fn load(&mut self, origin: &Origin, shape: Shape) -> Result<Option<Loaded>, Unusable> {
        let manifest = match fs::read(self.dir.join(MANIFEST)) {
            Ok(bytes) => parse_manifest(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if manifest.format != FORMAT {
            return Err(format!("it is of format {}, not {FORMAT}", manifest.format).into());
        }
        if manifest.origin != *origin {
            let Origin { model, dimension } = &manifest.origin;
            return Err(format!("it is of model {model} with {dimension} dimensions").into());
        }
        let shards = manifest
            .shards
            .iter()
            .map(|saved| Ok((saved.scope.clone(), self.load_shard(saved, shape)?)))
            .collect::<Result<_, Unusable>>()?;
        let loaded = Loaded { position: manifest.position, history: manifest.history, shards };
        self.sequence = manifest.sequence;
        self.saved = Some(manifest);
        Ok(Some(loaded))
    }

    fn load_shard(&self, saved: &SavedShard, shape: Shape) -> Result<Shard, Unusable> {
        let (graph_path, table_path) = (self.dir.join(&saved.graph.name), self.dir.join(&saved.table.name));
        for (file, path) in [(&saved.graph, &graph_path), (&saved.table, &table_path)] {
            if (file.bytes, file.crc32) != checksum(path)? {
                return Err(format!("{} is damaged", file.name).into());
            }
        }
        let graph = Graph::load(&graph_path, shape)?;
        let SavedTable { next_key, groups } = serde_json::from_slice(&fs::read(table_path)?)?;
        let mut shard = Shard::of(graph, shape);
        shard.fill_rows(next_key)?;
        shard.changed_at = saved.changed_at;
        for SavedGroup { document, terms, chunks } in &groups {
            for (key, chunk) in chunks {
                if *key >= next_key || !shard.graph.contains(*key) {
                    return Err(format!("{} names a vector that is not there", saved.table.name).into());
                }
                shard.table.put(*document, terms, *chunk, *key);
            }
        }
        Ok(shard)
    }

    /// Counts what has changed.
    pub(super) fn note_changes(&mut self, chunks: usize) {
        self.changed += chunks;
    }

    /// Whether so little has changed that what is saved is as good.
    fn is_good_enough<'a>(&self, shards: impl Iterator<Item = (&'a Scope, &'a Shard)>) -> bool {
        let Some(saved) = &self.saved else { return false };
        let Thrift { few, share, at_most } = self.thrift;
        let to_write = shards.filter(|(scope, shard)| saved.of(scope, shard).is_none());
        let to_write: usize = to_write.map(|(_, shard)| shard.graph.len()).sum();
        to_write > few && self.changed.saturating_mul(share) < to_write && self.saved_when.elapsed() < at_most
    }

    /// Saves a state. Collections that did not change since they were saved are not written again.
    pub(super) fn save<'a>(
        &mut self,
        origin: &Origin,
        (position, history): (LogPosition, Option<Uuid>),
        shards: impl Iterator<Item = (&'a Scope, &'a Shard)> + Clone,
    ) -> PortResult<()> {
        if self.saved.as_ref().is_some_and(|saved| (saved.position, saved.history) == (position, history))
            || self.is_good_enough(shards.clone())
        {
            return Ok(());
        }
        self.sequence += 1;
        let mut written = Vec::new();
        for (index, (scope, shard)) in shards.enumerate() {
            let unchanged = self.saved.as_ref().and_then(|saved| saved.of(scope, shard));
            written.push(match unchanged {
                Some(saved) => saved.clone(),
                None => self.save_shard(&format!("{:012}-{index}", self.sequence), scope, shard)?,
            });
        }
        let manifest = Manifest {
            format: FORMAT,
            origin: origin.clone(),
            position,
            history,
            sequence: self.sequence,
            shards: written,
        };
        self.write_manifest(&manifest)?;
        self.saved = Some(manifest);
        self.saved_when = Instant::now();
        self.changed = 0;
        self.remove_strangers()
    }

    fn save_shard(&self, stem: &str, scope: &Scope, shard: &Shard) -> PortResult<SavedShard> {
        let graph = format!("{stem}.graph");
        shard.graph.save(&self.dir.join(&graph))?;
        let table = format!("{stem}.table");
        let groups = shard.table.groups().map(|group| SavedGroup {
            document: group.document,
            terms: group.terms.iter().map(|term| term.to_string()).collect(),
            chunks: group.keys.iter().filter_map(|key| Some((*key, shard.table.chunk(*key)?))).collect(),
        });
        let saved = SavedTable { next_key: shard.next_key(), groups: groups.collect() };
        let json = serde_json::to_vec(&saved)
            .map_err(|e| PortError::new(ErrorKind::Internal, "a table cannot be written").with_source(e))?;
        fs::write(self.dir.join(&table), json).map_err(not_saved)?;
        Ok(SavedShard {
            scope: scope.clone(),
            changed_at: shard.changed_at,
            graph: self.settle(graph).map_err(not_saved)?,
            table: self.settle(table).map_err(not_saved)?,
        })
    }

    /// Makes a file that was written durable, and takes its checksum.
    fn settle(&self, name: String) -> io::Result<SavedFile> {
        let path = self.dir.join(&name);
        OpenOptions::new().write(true).open(&path)?.sync_all()?;
        let (bytes, crc32) = checksum(&path)?;
        Ok(SavedFile { name, bytes, crc32 })
    }

    fn write_manifest(&self, manifest: &Manifest) -> PortResult<()> {
        let json = serde_json::to_vec(manifest).map_err(|e| {
            PortError::new(ErrorKind::Internal, "the manifest cannot be written").with_source(e)
        })?;
        let replace = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            writeln!(file, "{:08x}", crc32fast::hash(&json))?;
            file.write_all(&json)?;
            file.as_file().sync_all()?;
            file.persist(self.dir.join(MANIFEST))?;
            sync_folder(&self.dir)
        };
        replace().map_err(not_saved)
    }

    /// Removes what was saved.
    pub(super) fn clear(&mut self) -> PortResult<()> {
        self.saved = None;
        self.changed = 0;
        match fs::remove_file(self.dir.join(MANIFEST)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unavailable("the saved vector index cannot be removed", error));
            }
            _ => {}
        }
        self.remove_strangers()
    }

    /// Removes the files that the manifest does not name: those of older states, and of saves that were cut short.
    fn remove_strangers(&self) -> PortResult<()> {
        let known: HashSet<&str> = self
            .saved
            .iter()
            .flat_map(|saved| &saved.shards)
            .flat_map(|shard| [shard.graph.name.as_str(), shard.table.name.as_str()])
            .chain([MANIFEST])
            .collect();
        let remove = || -> io::Result<()> {
            for entry in fs::read_dir(&self.dir)? {
                let entry = entry?;
                if entry.file_type()?.is_file()
                    && !entry.file_name().to_str().is_some_and(|name| known.contains(name))
                {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|e| unavailable("old files of the vector index cannot be removed", e))
    }
}

fn parse_manifest(bytes: &[u8]) -> Result<Manifest, Unusable> {
    let (checksum, json) = bytes.split_at_checked(9).ok_or("the manifest is cut short")?;
    let checksum = std::str::from_utf8(checksum)?.strip_suffix('\n').ok_or("the manifest is damaged")?;
    if checksum != format!("{:08x}", crc32fast::hash(json)) {
        return Err("the manifest is damaged".into());
    }
    Ok(serde_json::from_slice(json)?)
}

/// The length and CRC-32 of a file.
fn checksum(path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hasher.finalize())),
            read => {
                bytes += read as u64;
                hasher.update(&buffer[..read]);
            }
        }
    }
}

/// Makes a renaming within a folder durable, where the system can.
fn sync_folder(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

fn not_saved(error: io::Error) -> PortError {
    unavailable("the vector index cannot be saved", error)
}
