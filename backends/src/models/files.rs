//! Reading, copying and hashing files. All of it blocks.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::ModelFile;

/// SHA-256 of a file's content, in lower-case hexadecimal.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A file of a model while it is written: takes no byte more than it should have and knows at the end whether it is the right one.
pub(super) struct VerifiedWriter {
    expected: ModelFile,
    file: File,
    hash: Sha256,
    written: u64,
}

impl VerifiedWriter {
    /// Creates the file, and the folders above it, below `folder`.
    pub(super) fn create(folder: &Path, expected: &ModelFile) -> io::Result<Self> {
        let path = inside(folder, &expected.path)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(Self { expected: expected.clone(), file: File::create(path)?, hash: Sha256::new(), written: 0 })
    }

    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.expected.bytes {
            return Err(io::Error::other(format!(
                "{} is larger than the {} bytes it should have",
                self.expected.path, self.expected.bytes
            )));
        }
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }

    /// Adds all that a reader has.
    pub(super) fn copy(&mut self, mut reader: impl Read) -> io::Result<()> {
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.write(&buffer[..read])?;
        }
    }

    /// Checks size and hash, and makes the content durable.
    pub(super) fn finish(self) -> io::Result<()> {
        let found = hex(&self.hash.finalize());
        if self.written != self.expected.bytes || found != self.expected.sha256 {
            return Err(io::Error::other(format!(
                "{} is not the file it should be ({} bytes with SHA-256 {found} instead of {} with {})",
                self.expected.path, self.written, self.expected.bytes, self.expected.sha256
            )));
        }
        self.file.sync_all()
    }
}

/// `path` below `folder`; an error where it would lead out of it.
pub(super) fn inside(folder: &Path, path: &str) -> io::Result<PathBuf> {
    let plain =
        Path::new(path).components().all(|component| matches!(component, std::path::Component::Normal(_)));
    if plain { Ok(folder.join(path)) } else { Err(io::Error::other(format!("{path} is not a plain path"))) }
}

/// Bytes of all files below a folder. What cannot be read counts nothing: the number is for a progress display.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |metadata| metadata.len()),
            _ => 0,
        })
        .sum()
}
